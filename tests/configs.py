"""Settings of collections that are built in seconds, for tests that do not measure the accuracy that this costs."""

from __future__ import annotations

from udq import IndexConfig

QUICK = IndexConfig().replace(
    {
        "images": {"smallest": 0.0},  # one view per photo
        "quantizer": {"dimensions": 64, "iterations": 1},
        "training": {"enabled": False},
    }
)
