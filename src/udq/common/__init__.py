"""Files, locks, text and progress reports: shared by every package, with no knowledge of photos."""
