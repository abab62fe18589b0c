"""A query and the codes of a collection -> ranked photos with boxes."""
