"""The cost of imports: opening and searching import no library that they do not use."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from test_layers import modules

import udq
from udq.search.scan import kernels

# Packages and modules that do not import torch, or import it only when it is needed.
LIGHT = ("errors", "types", "config", "collection", "common", "photos", "datasets", "quantization", "store", "search")
LIGHT += ("features.runtime", "features.backbones", "features.proposals", "features.proposals.grid")
LIGHT += ("training.refinement", "indexing.update", "indexing.sync", "indexing.verify", "indexing.repair")
LIGHT += ("indexing.drift", "evaluation.benchmark", "evaluation.scoring", "evaluation.metrics", "evaluation.failures")
LIGHT += ("reports", "cli", "web.server", "experiments", "experiments.paper.tables", "experiments.paper.data")
# Packages of which every module is light.
WHOLE = ("common", "photos", "datasets", "quantization", "store", "search", "reports", "cli")


def imported(path, known):
    """Modules that a file imports when it is imported, without imports inside functions and for type checkers."""
    found = set()

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    found.add(below if below in known else node.module)
            elif (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)) or isinstance(node, ast.Try):
                visit(node.body)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def reached(name):
    """Every module that is imported with a module of udq, directly or not."""
    known = modules()
    waiting, seen = [f"udq.{name}"], set()
    while waiting:
        module = waiting.pop()
        if module in known and module not in seen:
            waiting += imported(known[module], known)
            waiting.append(module.rpartition(".")[0])  # its package comes first
        seen.add(module)
    return seen


def light():
    """Names of all light modules."""
    below = [name.removeprefix("udq.") for name in modules()]
    return sorted({*LIGHT, *(name for name in below if name.startswith(tuple(f"{package}." for package in WHOLE)))})


@pytest.mark.parametrize("name", light())
def test_light_modules_do_not_reach_torch(name):
    assert {module.split(".")[0] for module in reached(name)}.isdisjoint({"torch", "torchvision"})


def test_only_the_server_reaches_web_frameworks():
    def serves(name):
        return {module.split(".")[0] for module in reached(name)} & {"fastapi", "starlette", "uvicorn"}

    assert serves("web.server") == {"fastapi", "starlette", "uvicorn"}
    assert not serves("cli.main")
    assert not serves("collection")


def test_opening_and_scanning_a_collection_never_imports_torch(collection):
    script = (
        "import sys, numpy as np, udq\n"
        "from udq import Collection\n"
        "from udq.search.ranking import ranking_by_feature\n"
        f"opened = Collection.open({str(collection.path)!r})\n"
        "ranking = ranking_by_feature(opened.database, np.ones(1280, np.float32))\n"
        "assert len(ranking.order) == len(opened) == 12\n"
        "assert opened.info()['regions'] > 1000\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def imports(arguments, *names):
    """Return those of some modules that a process has imported after running udq with these arguments."""
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


def test_a_search_imports_only_what_it_uses(collection, photos):
    search = ["search", str(collection.path), str(photos / "coffee.png")]
    of_the_proposer, of_fitting = ["torchvision", "udq.features.proposals.rpn"], ["faiss", "scipy"]
    of_another_kernel = [] if kernels.kernel() == "numba" else ["numba"]
    of_pictures = ["matplotlib", "jinja2", "udq.reports.sheet", "PIL.ImageDraw", "PIL.FpxImagePlugin"]

    unused = [*of_the_proposer, *of_fitting, *of_another_kernel, *of_pictures, "rich"]

    assert imports(search, *unused, "torch") == ["torch"]


def test_an_evaluation_without_pictures_waits_for_neither_templates_nor_pictures(collection):
    evaluate = ["evaluate", str(collection.path), "--ground-truth", "nothing.csv"]

    assert imports(evaluate, "jinja2", "matplotlib", "udq.reports.sheet", "udq.evaluation.benchmark") == [
        "udq.evaluation.benchmark"
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"], ["info", "{path}"]])
def test_only_a_picture_of_curves_imports_matplotlib(collection, arguments):
    arguments = [argument.format(path=collection.path) for argument in arguments]

    assert imports(arguments, "matplotlib") == []


def test_every_public_name_is_there():
    for name in udq.__all__:
        assert getattr(udq, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = udq.nothing_like_it
