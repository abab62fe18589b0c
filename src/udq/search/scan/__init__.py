"""Asymmetric distances of codes (section 3.5): exhaustive or by an inverted index."""
