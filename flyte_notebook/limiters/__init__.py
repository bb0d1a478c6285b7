"""The mechanisms that enforce limits, one file each, behind one protocol."""
