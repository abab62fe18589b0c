"""Files, archives and storage -> pixels, decoded in a sandbox."""
