"""Models shipped for collections too small to fit their own: one .npz a backbone, see MODEL_CARD.md."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

from udq.config import IndexConfig
from udq.model import Model


def load(config: IndexConfig) -> Model | None:
    """Return the shipped model for a configuration, or None where there is none for it."""
    folder = files(__package__)
    card = folder / f"{config.features.backbone}.json"
    if not card.is_file() or json.loads(card.read_text())["fits"] != requirements(config):
        return None
    return Model.from_bytes((folder / f"{config.features.backbone}.npz").read_bytes())


def requirements(config: IndexConfig) -> dict[str, object]:
    """Return what a model depends on: the features it projects and the shape of its codes."""
    quantizer = dataclasses.asdict(config.quantizer)
    return {
        "backbone": config.features.backbone,
        "p": config.features.p,
        **{name: quantizer[name] for name in ("dimensions", "whiten", "subspaces", "codewords")},
    }
