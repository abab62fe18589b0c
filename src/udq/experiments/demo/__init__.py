"""The bundled demonstration: a collection composed offline from photos other packages ship, and its page."""
