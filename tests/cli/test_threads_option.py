"""``--threads N``: where it is taken, what is refused, and that it reaches the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from udq import Collection
from udq.errors import InputError
from udq.features.device import Engine
from udq.web.service import Service

COMMANDS = ("index", "add", "retrain", "verify", "search", "serve", "evaluate", "train-rpn", "reproduce", "demo")


@pytest.fixture
def engines(monkeypatch):
    """The threads of the engines that were built, in order."""
    built, fastest = [], Engine.fastest

    def recorded(*arguments, **named):
        engine = fastest(*arguments, **named)
        built.append(engine.threads)
        return engine

    monkeypatch.setattr(Engine, "fastest", staticmethod(recorded))
    return built


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_compute_take_a_number_of_threads(udq, command):
    code, out, _ = udq(command, "--help")
    assert code == 0
    assert "--threads N" in " ".join(out.split())


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_anything_but_a_number_of_threads_is_refused(udq, number):
    code, out, err = udq("search", "x.udq", "query.jpg", "--threads", number)
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("udq: Invalid value for '--threads': Input should be ")


def test_python_refuses_less_than_one_thread(place):
    for call in (
        lambda: Collection.open(place / "x.udq", threads=0),
        lambda: Collection.build(place / "photos", place / "y.udq", threads=0),
        lambda: Collection.retrain(place / "x.udq", threads=-1),
    ):
        with pytest.raises(InputError, match="threads: expected 1 or more, found "):
            call()
    assert not (place / "y.udq").exists()


def test_the_number_reaches_the_work_and_changes_no_result(udq, engines, photos, place):
    found = []
    for threads in ("1", "3"):
        arguments = place / "x.udq", photos / "coffee.png", "--rerank", "verify", "--json", "--device", "cpu"
        code, out, _ = udq("search", *arguments, "--threads", threads)
        assert code == 0
        found.append([(match["image"], match["box"]) for match in json.loads(out)["matches"]])
    assert found[0] == found[1]
    assert udq("add", place / "x.udq", photos / "chelsea.png", "--device", "cpu", "--threads", "3")[0] == 0
    assert udq("retrain", place / "x.udq", "--iterations", "0", "--device", "cpu", "--threads", "3")[0] == 0
    assert engines == [1, 3, 3, 3]


def test_a_server_runs_as_many_searches_as_it_has_threads(place):
    before = set(threading.enumerate())
    service = Service.start(Collection.open(place / "x.udq", device="cpu", threads=3))
    try:
        assert sum(thread.name.startswith("udq_") for thread in set(threading.enumerate()) - before) == 3
    finally:
        service.close()


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE 1"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE 1")])
def test_the_command_line_has_libraries_wait_passively_unless_the_user_says_otherwise(given, expected):
    script = (
        "import os, sys\nfrom udq.cli.main import main\nsys.argv = ['udq', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n"
        "    print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_NUM_THREADS'])"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=kept | given)

    assert done.stdout.splitlines()[-1] == expected
