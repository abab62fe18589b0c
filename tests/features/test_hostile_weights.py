"""Pipes and devices in the place of weights and of stored features: one line, at once."""

from __future__ import annotations

import os
import sys

import pytest
from at_once import at_once

from udq.config import FeatureConfig, ImageConfig
from udq.errors import InputError, UdqError
from udq.experiments.paper.workbench import RoundCheckpoints
from udq.features import backbones
from udq.features.cache import FeatureCache
from udq.features.extractor import Extractor
from udq.features.proposals import rpn
from udq.photos.source import Source
from udq.store.manifest import given_file
from udq.training.fitting import FileCheckpoint
from udq.training.rpn.views import ViewCache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


def place(kind, file):
    {"pipe": lambda: os.mkfifo(file), "folder": file.mkdir, "device": lambda: file.symlink_to("/dev/zero")}[kind]()
    return file


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_given_weights(tmp_path, kind):
    file = place(kind, tmp_path / "w")
    with pytest.raises(InputError, match=r"w: cannot read weights \(not a regular file\)$"):
        at_once(lambda: backbones.backbone("efficientnet-lite0").build(file))
    with pytest.raises(InputError, match=r"w: cannot read a region proposal network \(not a regular file\)$"):
        at_once(lambda: rpn.read("efficientnet-lite0", file))
    with pytest.raises(UdqError, match=r"w: cannot read the weights this collection was built with \(not a regular"):
        at_once(lambda: given_file({"weights": {"path": str(file), "sha256": ""}}, "weights"))
    with pytest.raises(UdqError, match=r"cannot read the weights this collection was built with \(embedded null byte"):
        given_file({"weights": {"path": "a\0b", "sha256": ""}}, "weights")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_cached_features_and_checkpoints(tmp_path, kind):
    cache = FeatureCache(tmp_path, [Source("a.jpg", tmp_path / "a.jpg")], None)
    file = place(kind, tmp_path / "000001.npz")
    with pytest.raises(UdqError, match=r"000001\.npz: expected stored features, found a damaged file \(.*; delete it"):
        at_once(lambda: list(cache.fill()))
    with pytest.raises(UdqError, match=r"expected the state of a training, found a damaged file \(.*; delete it"):
        at_once(lambda: FileCheckpoint(file).read())
    place(kind, tmp_path / "round-01.npz")
    with pytest.raises(UdqError, match=r"expected the state of a training, found a damaged file \("):
        at_once(lambda: RoundCheckpoints(tmp_path, 0).read())


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no archive"])
def test_damaged_checkpoints_are_one_line(tmp_path, data):
    (tmp_path / "training.npz").write_bytes(data)
    with pytest.raises(UdqError, match=r"training\.npz: expected the state of a training, found a damaged file"):
        FileCheckpoint(tmp_path / "training.npz").read()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_views_of_another_training_are_deleted_whatever_they_are(tmp_path, kind):
    folder = tmp_path / ".rpn.npz.partial" / "rpn"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (folder / "000001-0.npz").symlink_to(tmp_path / "precious")
    place(kind, folder / "fingerprint")

    def work():
        with ViewCache(tmp_path / "rpn.npz", "one") as views:
            return (folder / "fingerprint").read_text(), os.path.lexists(views.file((1, 0)))

    assert at_once(work) == ("one", False)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_link_in_the_place_of_unfinished_work_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".rpn.npz.partial").mkdir()
    (tmp_path / ".rpn.npz.partial" / "rpn").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UdqError, match="a link, where unfinished work is written; delete the link"):
        ViewCache(tmp_path / "rpn.npz", "one").__enter__()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_pipe_as_weights_of_an_index_is_one_line(tmp_path):
    file = place("pipe", tmp_path / "w")
    with pytest.raises(InputError, match="not a regular file"):
        at_once(lambda: Extractor(ImageConfig(), FeatureConfig(), weights=file, device="cpu"))
