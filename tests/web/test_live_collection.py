"""The photos of a served collection by name and folder."""

from __future__ import annotations

from types import SimpleNamespace

from udq.store.segments import Image
from udq.web.live_collection import CollectionView


def test_the_filter_finds_names_in_either_unicode_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = [f"{decomposed}/CAFE\u0301.jpg", "x/a.jpg", f"y/{composed}/b.jpg", f"y/{decomposed}/c.jpg"]
    images = [Image(name, "/", 9, 9, number) for number, name in enumerate(names)]
    view = CollectionView(SimpleNamespace(images=images))

    assert view.find(composed, "") == view.find(decomposed, "") == [0, 2, 3]
    assert view.find("cafe", "") == []
    assert view.find("", composed) == view.find("", decomposed) == [0]
    assert (view.find("", f"y/{composed}"), view.find("", f"y/{decomposed}")) == ([2], [3])  # the very name first
