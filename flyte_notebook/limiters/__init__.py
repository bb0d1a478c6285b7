"""The mechanisms that hold limits, one file each, behind one protocol."""
