"""The number of cores by affinity and by the quota of a container, read from files as the kernel writes them."""

from __future__ import annotations

import os

import pytest

from udq.common import cores

V1 = "9:name=systemd:/\n4:cpu,cpuacct:{path}\n3:memory:{path}\n2:cpuset:/elsewhere\n"
V2 = "0::{path}\n"


@pytest.fixture
def quota(tmp_path):
    """Write files of control groups, and return the quota that they give."""

    def read(groups, **files):
        (tmp_path / "groups").write_text(groups)
        for name, text in files.items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return cores.quota(tmp_path / "groups", tmp_path / "root")

    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("5000 100000\n", 0.05),
        ("max 100000\n", None),
        ("", None),
        ("200000\n", None),
        ("0 100000\n", None),
        ("200000 0\n", None),
        ("-1 100000\n", None),
        ("many of them\n", None),
        ("\0\xff\n", None),
    ],
)
def test_the_quota_of_version_2(quota, text, expected):
    assert quota(V2.format(path="/"), **{"cpu.max": text}) == expected


@pytest.mark.parametrize(("time", "expected"), [("250000", 2.5), ("-1", None), ("0", None), ("", None), ("x", None)])
def test_the_quota_of_version_1(quota, time, expected):
    files = {"cpu.cfs_quota_us": time + "\n", "cpu.cfs_period_us": "100000\n"}
    assert quota(V1.format(path="/"), **{f"cpu,cpuacct/{name}": text for name, text in files.items()}) == expected
    assert quota(V1.format(path="/"), **{f"cpu/{name}": text for name, text in files.items()}) == expected


def test_the_lowest_quota_of_the_groups_around_a_group_counts(quota):
    groups = V2.format(path="/pod/container")
    assert quota(groups, **{"pod/container/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}) == 3
    assert quota(groups, **{"pod/container/cpu.max": "400000 100000"}) == 3
    assert quota(groups, **{"pod/container/cpu.max": "200000 100000", "beside/cpu.max": "100000 100000"}) == 2


@pytest.mark.parametrize("path", ["/docker/0123456789abcdef", "/../../kubepods/pod1", "/"])
def test_a_container_that_sees_the_paths_of_its_host_has_its_quota_in_the_root(quota, path):
    assert quota(V2.format(path=path), **{"cpu.max": "200000 100000"}) == 2


def test_other_groups_and_missing_files_give_no_quota(quota, tmp_path):
    assert quota("3:memory:/\n2:cpuset:/\n", **{"memory/cpu.max": "100000 100000"}) is None
    assert quota("no lines of a group\n::\n\n") is None
    assert cores.quota(tmp_path / "missing", tmp_path) is None
    assert cores.quota(tmp_path, tmp_path) is None  # a folder


def test_at_least_one_core_and_no_more_than_the_affinity(monkeypatch):
    affinity = len(os.sched_getaffinity(0))
    for limit, expected in ((None, affinity), (0.05, 1), (1.0, 1), (1.5, min(2, affinity)), (1000.0, affinity)):
        monkeypatch.setattr(cores, "_own_quota", lambda limit=limit: limit)
        assert cores.cores() == expected


def test_the_affinity_of_this_process_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
