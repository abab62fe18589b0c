"""Object instance search with unsupervised deep quantization (UDQ).

    from udq import Collection
    collection = Collection.build("photos/", "photos.udq")
    for match in collection.search("query.jpg", box=(120, 80, 340, 300)).matches:
        print(match.image, match.box, match.score)

Importing this package is fast: names are loaded on first use, and torch only when a network has to run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from udq._version import __version__

if TYPE_CHECKING:
    from udq.collection import Collection
    from udq.config import IndexConfig
    from udq.errors import UdqError
    from udq.types import Example, Match, SearchResult

__all__ = ["Collection", "Example", "IndexConfig", "Match", "SearchResult", "UdqError", "__version__"]

_HOME = {
    "Collection": "udq.collection",
    "Example": "udq.types",
    "IndexConfig": "udq.config",
    "Match": "udq.types",
    "SearchResult": "udq.types",
    "UdqError": "udq.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'udq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
