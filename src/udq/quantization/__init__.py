"""Pooled features -> features f -> codes, and the model that says how; never torch."""
