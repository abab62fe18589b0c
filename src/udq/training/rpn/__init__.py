"""Training of a region proposal network on labelled boxes."""
