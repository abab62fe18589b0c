"""Real photos and one small collection that the end-to-end tests share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path

# Set before torch, numpy and faiss are imported, which read them once; processes that tests start inherit them.
# A thread of OpenMP or OpenBLAS that waits in a busy loop takes the core that the other pytest worker needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
import torchvision
from configs import QUICK
from filelock import FileLock

from udq import Collection
from udq.cli.main import main
from udq.experiments.demo.cutouts import photo

NAMES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "china",
    "coffee",
    "coins",
    "flower",
    "motorcycle_left",
    "motorcycle_right",
    "page",
    "rocket",
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of twelve photos from scikit-image and scikit-learn, some of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "views").mkdir()
    for name in NAMES:
        place = folder / "views" if name.startswith("motorcycle") else folder
        photo(name).save(place / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def collection(photos, tmp_path_factory):
    """A collection of the photos with default settings; tests must not change it."""
    return Collection.build(photos, tmp_path_factory.mktemp("collection") / "photos.udq", device="cpu")


@pytest.fixture(scope="session")
def base(photos, tmp_path_factory):
    """A folder of four photos and its collection, which tests copy before they change them (``place``)."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "photos").mkdir()
    for name in ("astronaut.png", "coffee.png", "coins.png", "rocket.png"):
        shutil.copy2(photos / name, folder / "photos" / name)
    Collection.build(folder / "photos", folder / "x.udq", config=QUICK, device="cpu")
    return folder


@pytest.fixture
def place(base, tmp_path):
    """A copy of ``base``, with the roots of the copy."""
    shutil.copytree(base / "photos", tmp_path / "photos", copy_function=shutil.copy2)
    shutil.copytree(base / "x.udq", tmp_path / "x.udq")
    opened, done = Collection.open(tmp_path / "x.udq", device="cpu").relocate(base / "photos", tmp_path / "photos")
    assert (done.same, len(opened)) == (4, 4)
    return tmp_path


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """Return a function: a backbone of torchvision -> file of random weights, always the same; half a GB for VGG16."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def file(name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = torchvision.models.get_model(name.removesuffix("-v1"), weights=None)
        state = network.state_dict()
        for key in state:
            if key.endswith("bn3.weight"):
                state[key].fill_(0.2)  # otherwise values double in each of the 33 blocks of a ResNet
        torch.save(state, folder / f"{name}.pt")
        return folder / f"{name}.pt"

    yield file
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The report of one `udq demo`, in a folder named as in README, shared by the workers of pytest-xdist.

    Tests must not change it.
    """
    from udq.experiments.demo.run import run_demo

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    told = folder / "demo.json"
    with FileLock(folder / "demo.lock"):
        if not told.exists():
            told.write_text(json.dumps(run_demo(folder / "demo" / "udq-demo", device="cpu")))
    return json.loads(told.read_text())


@pytest.fixture
def udq(monkeypatch, capsys):
    """Run a command in this process: ``udq("info", path)`` -> exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["udq", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture(scope="session")
def shared_data():
    """The folder of benchmark photos; skips the test if it is not there."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("UDQ_SHARED_DATA", default))
    if not (folder / "instre_dev").is_dir():
        pytest.skip(f"no benchmark photos at {folder}; set UDQ_SHARED_DATA to a folder that holds instre_dev")
    return folder
