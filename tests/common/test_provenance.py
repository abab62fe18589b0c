"""Provenance that is stored with every result."""

from __future__ import annotations

import sys

from udq.common.provenance import provenance


def test_the_command_names_no_folder_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/bin/udq", "evaluate", "/home/me/data/x.udq", "photos/a b.jpg", "-k", "3"])

    facts = provenance(seed=7)
    assert facts["command"] == "udq evaluate data/x.udq 'photos/a b.jpg' -k 3"
    assert facts["seed"] == 7
    assert "numpy" in facts["versions"]
