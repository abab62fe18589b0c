"""A collection and a ground truth -> mean average precision, and how well the boxes fit."""
