"""What one sees: data in, text or HTML out; nothing here starts anything."""
