"""Pixels -> regions -> pooled features."""
