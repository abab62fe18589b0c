"""Training without labels (algorithm 1), and the training of the region proposal network."""
