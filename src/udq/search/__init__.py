"""Search: a query and the codes of a collection -> ranked photos with boxes (sec. 3.5)."""
