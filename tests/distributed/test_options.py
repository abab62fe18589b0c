"""Options that do not fit together, and clusters that are not there."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ray


def test_conflicting_options_of_serve_are_refused(udq, base, tmp_path):
    code, _, err = udq("serve", base / "x.udq", "--shards", 2)
    assert (code, "expected --ray ADDRESS" in err) == (2, True)
    code, _, err = udq("serve", base / "x.udq", "--ray", "local", "--allow-write", tmp_path)
    assert (code, "cannot be changed" in err) == (2, True)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "auto"])
def test_a_missing_cluster_is_an_error_of_one_line(udq, address, photos, tmp_path):
    code, _, err = udq("index", photos, "-o", tmp_path / "x.udq", "--ray", address)

    assert code == 2
    assert f"ray {address}" in err.replace("'", "")
    assert "HOST:PORT" in err
    assert len(err.strip().splitlines()) == 1
