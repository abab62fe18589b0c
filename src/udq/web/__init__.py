"""Web server for a collection: the search page and the HTTP API (docs/serve.md)."""
