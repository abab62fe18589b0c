"""Pooled features -> features f -> codes, and the model that maps them; without torch."""
