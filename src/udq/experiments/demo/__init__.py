"""The bundled demonstration: a collection composed offline from photos that other packages ship, and its web page."""
