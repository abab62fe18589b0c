"""Damage is found by reading every file, also while another process changes the collection."""

from __future__ import annotations

from test_update import opened

from udq.indexing.verify import verify
from udq.store import manifest as manifests


def test_a_collection_that_changes_during_verification_is_not_damaged(place, monkeypatch):
    path = place / "x.udq"
    check, changed = manifests.check, []

    def checked(file, facts):
        if not changed:
            changed.append(True)
            opened(place).remove(["coins.png"])[0].compact().remove(["coffee.png"])
        check(file, facts)

    monkeypatch.setattr(manifests, "check", checked)
    assert verify(path) == []
    assert changed
