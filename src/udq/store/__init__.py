"""Collections on disk: manifest, segments, builds and atomic changes."""
