"""Evaluation: a collection and a ground truth -> mean average precision and the overlap of boxes."""
