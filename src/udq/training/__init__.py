"""Training of the head without labels (algorithm 1), and of the region proposal network on labelled boxes."""
