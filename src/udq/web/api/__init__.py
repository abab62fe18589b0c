"""The HTTP API: routes, and the JSON that they take and return."""
