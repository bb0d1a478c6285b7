"""Pictures of memory over time and across runs."""
