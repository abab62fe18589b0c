"""The page and the API behind it: a collection that others search over HTTP (docs/serve.md)."""
