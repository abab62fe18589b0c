"""A second look at the best photos of a search."""
