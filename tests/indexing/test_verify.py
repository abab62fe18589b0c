"""Damage is found by reading every file, also while another process changes the collection."""

from __future__ import annotations

from test_update import opened

from udq.indexing.verify import verify
from udq.store import layout


def test_a_collection_that_changes_during_verification_is_not_damaged(place, monkeypatch):
    path = place / "x.udq"
    check, changed = layout.check, []

    def checked(file, facts):
        if not changed:
            changed.append(True)
            opened(place).remove(["coins.png"])[0].compact().remove(["coffee.png"])
        check(file, facts)

    monkeypatch.setattr(layout, "check", checked)
    assert verify(path) == []
    assert changed
