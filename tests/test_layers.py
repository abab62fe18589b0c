"""The architecture: packages import only from lower layers, and some of them never reach torch."""

from __future__ import annotations

import ast
import statistics
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import udq

SOURCE = Path(udq.__file__).parent
LAYERS = [
    {"errors", "_version"},
    {"types"},
    {"common"},
    {"config"},
    {"photos"},
    {"datasets"},
    {"quantization"},
    {"keypoints"},
    {"features"},
    {"training", "store"},
    {"search"},
    {"indexing", "evaluation"},
    {"reports"},
    {"distributed"},
    {"collection"},
    {"web", "experiments"},
    {"cli"},
]
TORCH_FREE = {"common", "photos", "datasets", "quantization", "keypoints", "store"}
HEAVY = {"torch", "torchvision"}


def modules():
    """Dotted name -> file of every module; a package is named after its folder."""
    return {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(SOURCE.rglob("*.py"))
    }


def imported(path, known):
    """Every module that a file imports anywhere: at the top, inside functions, for type checkers."""
    package = next(name for name, file in known.items() if file == path)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: from .x import y
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                below = f"{base}.{alias.name}"
                found.add(below if below in known else base)
    return found


def graph():
    """Module -> modules of udq that it imports."""
    known = modules()
    return {name: {other for other in imported(path, known) if other in known} for name, path in known.items()}


def package_of(name):
    """``udq.search.scan.kernels`` -> ``search``; udq itself is ``udq``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "udq"


def breaks(edges):
    """Imports from a higher layer, from the same layer, or from the public API of udq itself."""
    layer = {package: number for number, row in enumerate(LAYERS) for package in row}
    found = []
    for name, others in edges.items():
        for other in others:
            here, there = package_of(name), package_of(other)
            if here in ("udq", there):  # the public API may import everything; a package may import itself
                continue
            if there == "udq" or layer[there] >= layer[here]:
                found.append(f"{name} -> {other}")
    return found


def test_every_package_has_a_layer():
    assert {package_of(name) for name in modules()} - {"udq"} == set().union(*LAYERS)


def test_every_import_points_down():
    edges = graph()

    assert sum(map(len, edges.values())) > 400  # the check sees them
    assert breaks(edges) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("udq.store.segments", "udq.search.reader"),  # up
        ("udq.indexing.build", "udq.evaluation.benchmark"),  # sideways
        ("udq.search.query", "udq"),  # the public API
    ],
)
def test_a_wrong_import_is_found(source, target):
    edges = graph()
    edges[source] = {*edges[source], target}

    assert breaks(edges) == [f"{source} -> {target}"]


def test_imports_inside_functions_and_for_type_checkers_count(tmp_path):
    file = tmp_path / "lazy.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from udq.web import server\n"
        "def f():\n    from ..collection import Collection\n    import udq.cli.main\n"
    )

    found = imported(file, modules() | {"udq.store.lazy": file})

    assert {"udq.web.server", "udq.collection", "udq.cli.main"} <= found


def test_imports_form_no_circle():
    # A package whose __init__ imports its own modules makes no circle: the modules do not import the package.
    TopologicalSorter(graph()).prepare()  # raises CycleError


def test_packages_without_torch_do_not_reach_it():
    known = modules()
    edges = {name: imported(path, known) for name, path in known.items()}
    waiting = [name for name in known if package_of(name) in TORCH_FREE]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges.get(name, ())

    assert {name.split(".")[0] for name in seen}.isdisjoint(HEAVY)


def test_folders_and_modules_stay_small():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    folders = [path.parent for path in sizes]

    assert max(map(folders.count, set(folders))) <= 13
    assert max(sizes.values()) <= 500
    assert statistics.median(sizes.values()) <= 150


def test_the_public_names_are_few_and_there():
    assert len(udq.__all__) <= 16
    assert [name for name in udq.__all__ if not hasattr(udq, name)] == []
