"""A collection on disk: manifest, segments, and changes that are atomic."""
