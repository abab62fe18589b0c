"""The HTTP API: routes, and the JSON that they accept and return."""
