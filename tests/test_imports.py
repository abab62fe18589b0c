"""What importing costs, and that imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import udq

SOURCE = Path(udq.__file__).parent
TORCH_FREE = "names decode decoding_process inference "
TORCH_FREE += "errors types config progress images head projection quantize model refine storage scan localise search "
TORCH_FREE += "collection metrics datasets datasets.boxes datasets.truth datasets.matching datasets.buildings "
TORCH_FREE += (
    "datasets.matlab datasets.matfile datasets.revisited datasets.instre scoring failures evaluate report picture "
)
TORCH_FREE += "page thumbnails error_report error_sheets error_tables "
TORCH_FREE += "provenance bar cli_datasets datasets.detection proposals proposals.grid backbones curves "
TORCH_FREE += "experiments experiments.tables experiments.shelf cli_reproduce cli"


def modules():
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


def imported(path, known):
    """Modules that importing a file imports: not those inside functions or for type checkers alone."""
    found = set()

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    found.add(below if below in known else node.module)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
                visit(node.body)

    visit(ast.parse(path.read_text()).body)
    return found


def test_imports_of_the_package_form_no_circle():
    known = modules()
    graph = {name: {other for other in imported(path, known) if other in known} for name, path in known.items()}

    assert len(graph) > 30
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("name", TORCH_FREE.split())
def test_light_stages_do_not_reach_torch(name):
    known = modules()
    waiting, seen = [f"udq.{name}"], set()
    while waiting:
        module = waiting.pop()
        assert module.split(".")[0] not in ("torch", "torchvision"), f"udq.{name} reaches {module}"
        if module in known and module not in seen:
            seen.add(module)
            waiting += imported(known[module], known)


def test_opening_and_scanning_a_collection_never_imports_torch(collection):
    script = (
        "import sys, numpy as np, udq\n"
        "from udq import Collection, search\n"
        f"opened = Collection.open({str(collection.path)!r})\n"
        "ranking = search.rank(opened, np.ones(1280, np.float32))\n"
        "assert len(ranking.order) == len(opened) == 12\n"
        "assert opened.info()['regions'] > 1000\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def imports(module, arguments):
    """What a new process says that ran udq: whether it imported a module."""
    script = (
        "import sys\n"
        f"sys.argv = ['udq', *{arguments!r}]\n"
        "from udq.cli import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    print({module!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_info_never_imports_torch(collection):
    assert imports("torch", ["info", str(collection.path)]) == "False"


def test_a_search_does_not_wait_for_the_proposer(collection, photos):
    assert imports("torchvision", ["search", str(collection.path), str(photos / "coffee.png")]) == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"], ["info", "{path}"]])
def test_only_a_picture_of_curves_imports_matplotlib(collection, arguments):
    arguments = [argument.format(path=collection.path) for argument in arguments]

    assert imports("matplotlib", arguments) == "False"


def test_every_public_name_is_there():
    for name in udq.__all__:
        assert getattr(udq, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = udq.nothing_like_it
