"""The progress bar of long work."""

from __future__ import annotations

import pytest

from udq.cli.progress_bar import progress


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds that the bar sees, in a list of one."""
    now = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "120")
    return now


def test_the_rate_at_the_end_is_that_of_the_whole_stage(clock, capsys):
    with progress("photos", 4) as step:
        clock[0] = 200.0  # of a batch, whose photos are all done at its end
        for _ in range(4):
            step()

    assert " 50.0 s each " in capsys.readouterr().err


def test_quick_steps_are_shown_per_second(clock, capsys):
    with progress("photos", 30) as step:
        for _ in range(30):
            clock[0] += 0.2
            step()

    assert " 5.0/s " in capsys.readouterr().err


def test_steps_of_a_minute_have_a_remaining_time(clock, capsys):
    with progress("training", 10) as step:
        for _ in range(4):
            clock[0] += 60.0
            step()

    err = capsys.readouterr().err
    assert " 60.0 s each " in err
    assert "left 0:06:00" in err


def test_a_file_gets_a_line_every_ten_minutes(clock, capsys):
    with progress("training", 100) as step:
        for _ in range(100):
            clock[0] += 30.0
            step()

    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["0:10:30", "0:21:00", "0:31:30", "0:42:00", "0:50:00"]
    assert "21/100 30.0 s each left 0:39:30" in lines[0]
