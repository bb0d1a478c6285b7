"""The views: they make text or HTML from data; nothing here starts anything."""
