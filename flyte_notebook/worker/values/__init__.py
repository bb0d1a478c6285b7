"""How values and code travel to a worker and back."""
