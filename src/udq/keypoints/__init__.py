"""Local features of photos: extraction, codes of a few bytes, matching, and the geometry that matches agree on."""
