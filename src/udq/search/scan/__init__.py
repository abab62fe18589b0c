"""Asymmetric distances of codes (sec. 3.5): an exhaustive scan, or an inverted index that skips codes."""
