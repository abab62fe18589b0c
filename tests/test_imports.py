"""What importing costs, and that imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import udq
from udq.search.scan import kernels

SOURCE = Path(udq.__file__).parent
TORCH_FREE = "names decode decoding_process inference "
TORCH_FREE += (
    "errors types config progress images head projection quantize model refine storage scan localise ranking search "
    "calibrate rerank rerank.ranked rerank.expansion rerank.diffusion rerank.verified "
)
TORCH_FREE += "collection metrics datasets datasets.boxes datasets.truth datasets.matching datasets.buildings "
TORCH_FREE += (
    "datasets.matlab datasets.matfile datasets.revisited datasets.instre scoring failures evaluate report picture "
)
TORCH_FREE += "page thumbnails error_report error_sheets error_tables "
TORCH_FREE += "provenance bar cli_datasets datasets.detection proposals proposals.grid backbones curves "
TORCH_FREE += "experiments experiments.tables experiments.shelf cli_reproduce cli cli_serve web.server"


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


def reached(name):
    """Every module that importing one of the package imports."""
    known = modules()
    waiting, seen = [f"udq.{name}"], set()
    while waiting:
        module = waiting.pop()
        if module in known and module not in seen:
            waiting += imported(known[module], known)
        seen.add(module)
    return seen


@pytest.mark.parametrize("name", TORCH_FREE.split())
def test_light_stages_do_not_reach_torch(name):
    assert {module.split(".")[0] for module in reached(name)}.isdisjoint({"torch", "torchvision"})


def test_only_serving_reaches_what_serves():
    def serves(name):
        return {module.split(".")[0] for module in reached(name)} & {"fastapi", "starlette", "uvicorn"}

    assert serves("web.server") == {"fastapi", "starlette", "uvicorn"}
    assert not serves("cli")
    assert not serves("collection")


def test_opening_and_scanning_a_collection_never_imports_torch(collection):
    script = (
        "import sys, numpy as np, udq\n"
        "from udq import Collection\n"
        "from udq.search.ranking import rank\n"
        f"opened = Collection.open({str(collection.path)!r})\n"
        "ranking = rank(opened.database, np.ones(1280, np.float32))\n"
        "assert len(ranking.order) == len(opened) == 12\n"
        "assert opened.info()['regions'] > 1000\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def imports(arguments, *names):
    """Which of some modules a new process that ran udq has imported."""
    script = (
        "import sys\n"
        f"sys.argv = ['udq', *{arguments!r}]\n"
        "from udq.cli.main import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    print(*(name for name in {names!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_info_never_imports_torch(collection):
    assert imports(["info", str(collection.path)], "torch") == []


def test_a_search_waits_for_nothing_that_it_does_not_use(collection, photos):
    search = ["search", str(collection.path), str(photos / "coffee.png")]
    of_the_proposer, of_fitting = ["torchvision", "udq.features.proposals.rpn"], ["faiss", "scipy"]
    of_another_kernel = [] if kernels.kernel() == "numba" else ["numba"]
    of_pictures = ["matplotlib", "udq.reports.sheet", "PIL.ImageDraw", "PIL.FpxImagePlugin"]

    unused = [*of_the_proposer, *of_fitting, *of_another_kernel, *of_pictures, "rich"]

    assert imports(search, *unused, "torch") == ["torch"]


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"], ["info", "{path}"]])
def test_only_a_picture_of_curves_imports_matplotlib(collection, arguments):
    arguments = [argument.format(path=collection.path) for argument in arguments]

    assert imports(arguments, "matplotlib") == []


def test_every_public_name_is_there():
    for name in udq.__all__:
        assert getattr(udq, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = udq.nothing_like_it
