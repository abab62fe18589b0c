"""kill -9 at random moments of every change to a collection."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from robustness_common import QUICK, answers, build, ended, fork, forked, opened, small_pieces, take, warmed

from udq.collection import Collection
from udq.indexing.verify import verify
from udq.store import builder, transaction

HELD, NEW = 60, 24
# Of 20 kills.
_SHARES = {"add": 6, "add --sync": 5, "remove": 2, "compact": 2, "retrain": 5}
# What brings a change to the disk: half of the kills are right before or after one of these calls.
_EVENTS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


@dataclass(frozen=True)
class Operation:
    """A change to a collection.

    Attributes:
        base: the collection that it changes, of which each try has a copy.
        run: makes the change.
        once: whether doing it again when it is done is an error: there is no photo of that name any more.
    """

    base: Path
    run: Callable[[Path], object]
    once: bool = False


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run does.

    Attributes:
        states: answers before, after each commit.
        before, after: names of photos.
        events: calls that bring a change to the disk.
        seconds: it takes.
    """

    states: list[str]
    before: frozenset[str]
    after: frozenset[str]
    events: int
    seconds: float


def kills(photos: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Kill changes ``count`` times; return how often, at what, where that left the collection, and what was wrong."""
    rng = np.random.default_rng(0)
    with small_pieces():
        operations = _operations(photos, scratch)
        references = {name: _reference(operation, scratch) for name, operation in operations.items()}
        for name, reference in references.items():
            print(
                f"  {name:>10}: {reference.seconds:5.2f} s, {reference.events} events, {len(reference.states)} states"
            )
        plan = [name for name, share in _SHARES.items() for _ in range(share)]
        outcomes: dict[str, Counter[str]] = {name: Counter() for name in operations}
        triggers: Counter[str] = Counter()
        failures: list[dict[str, str]] = []
        done = 0
        while done < count:
            name = plan[int(rng.integers(len(plan)))] if done >= len(plan) else plan[done]
            trigger = _kill(operations[name], references[name], scratch, rng)
            if trigger is None:
                continue  # it was done before the signal came
            done += 1
            triggers[trigger.split()[0]] += 1
            outcome, wrong = _examine(operations[name], references[name], scratch)
            outcomes[name][outcome] += 1
            for each in wrong:
                failures.append({"operation": name, "trigger": trigger, "outcome": outcome, "failure": each})
                print(f"  FAILED {failures[-1]}", flush=True)
            if done % 10 == 0:
                print(f"  {done} of {count} kills, {len(failures)} failures", flush=True)
    return {
        "kills": done,
        "by_operation": {name: {"kills": found.total(), **found} for name, found in outcomes.items()},
        "by_trigger": dict(triggers),
        "reference": {
            name: {"seconds": round(each.seconds, 2), "events": each.events, "states": len(each.states)}
            for name, each in references.items()
        },
        "failures": failures,
    }


def _operations(photos: Path, scratch: Path) -> dict[str, Operation]:
    extractor = warmed()
    held = take(photos, HELD, scratch / "held")
    new = take(photos, NEW, scratch / "new", skip=HELD)
    base = build(scratch / "held", scratch / "bases" / "held.udq")
    holed = scratch / "bases" / "holed.udq"
    shutil.copytree(base, holed)
    forked(lambda: opened(holed).remove([path.name for path in held[1::3]]))
    mirrored = _mirrored(photos, scratch)
    training = QUICK.replace({"training": {"enabled": True}})
    return {
        "add": Operation(base, lambda path: opened(path, extractor).add(new)),
        "add --sync": Operation(mirrored, lambda path: opened(path, extractor).add([scratch / "mirrored"], sync=True)),
        "remove": Operation(base, lambda path: opened(path).remove([each.name for each in held[::4]]), once=True),
        "compact": Operation(holed, lambda path: opened(path).compact()),
        "retrain": Operation(base, lambda path: Collection.retrain(path, config=training, device="cpu")),
    }


def _mirrored(photos: Path, scratch: Path) -> Path:
    """Build a collection of a folder of which some photos are then changed, renamed, gone and new."""
    folder = scratch / "mirrored"
    files = take(photos, HELD, folder, skip=HELD + NEW)
    base = build(folder, scratch / "bases" / "mirrored.udq")
    for file in files[:6]:
        file.unlink()
    for file in files[6:14]:
        file.rename(file.with_name(f"renamed-{file.name}"))
    others = take(photos, 20, scratch / "others", skip=2 * HELD + NEW)
    for file, other in zip(files[14:24], others, strict=False):
        shutil.copy(other, file)
    for other in others[10:]:
        shutil.copy(other, folder)
    return base


def _fresh(operation: Operation, scratch: Path) -> Path:
    """Return a copy of the operation's collection, alone in its folder."""
    shutil.rmtree(scratch / "case", ignore_errors=True)
    return Path(shutil.copytree(operation.base, scratch / "case" / "photos.udq"))


def _reference(operation: Operation, scratch: Path) -> Reference:
    path, noted = _fresh(operation, scratch), scratch / "reference.json"
    before = frozenset(opened(path).names)

    def run() -> None:
        states, events = [answers(opened(path))], _hooked(lambda number: None)
        swap = transaction.swap

        def swapped(*arguments: Any) -> None:
            swap(*arguments)
            states.append(answers(opened(path)))

        transaction.swap = builder.swap = swapped
        operation.run(path)
        noted.write_text(json.dumps({"states": states, "events": events[0]}))

    forked(run)
    facts = json.loads(noted.read_text())
    if answers(opened(path)) != facts["states"][-1] or verify(path):
        raise RuntimeError("the undisturbed run went wrong")
    seconds = []
    for _ in range(2):
        path = _fresh(operation, scratch)
        started = time.perf_counter()
        forked(lambda path=path: operation.run(path))
        seconds.append(time.perf_counter() - started)
        if answers(opened(path)) != facts["states"][-1]:
            raise RuntimeError("two undisturbed runs differ")
    after = frozenset(opened(path).names)
    return Reference(facts["states"], before, after, facts["events"], max(seconds))


def _hooked(seen: Callable[[int], object]) -> list[int]:
    """Call ``seen`` before and after each event of this process, twice as many numbers as events; count them."""
    count = [0]

    def hook(call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*arguments: Any, **named: Any) -> Any:
            # Each before its own number and after it: what is in between may call others, as rmtree does not.
            count[0] += 1
            number = count[0]
            seen(2 * number)
            result = call(*arguments, **named)
            seen(2 * number + 1)
            return result

        return hooked

    for name in _EVENTS:
        setattr(os, name, hook(getattr(os, name)))
    return count


def _kill(operation: Operation, reference: Reference, scratch: Path, rng: np.random.Generator) -> str | None:
    """Start the operation and kill it; return what triggered the kill, None if the operation ended before."""
    path = _fresh(operation, scratch)
    at_event = rng.random() < 0.5
    fatal = int(rng.integers(2, 2 * reference.events + 2))
    moment = float(rng.uniform(0, 1.02 * reference.seconds))

    def run() -> None:
        if at_event:
            _hooked(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == fatal else None)
        operation.run(path)

    child = fork(run)
    timer = None
    if not at_event:
        timer = threading.Timer(moment, os.kill, (child, signal.SIGKILL))
        timer.start()
        # Not reaped before the timer is over: until then the number is no other process's.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        timer.cancel()
        timer.join()
    status = ended(child)
    if status == 0:
        return None
    if status != -signal.SIGKILL:
        return f"error of its own, exit status {status}"
    return f"event {fatal // 2} of {reference.events}, {'after' if fatal % 2 else 'before'} it" if at_event else (
        f"time {moment:.3f} of {reference.seconds:.3f} s"
    )  # fmt: skip


def _examine(operation: Operation, reference: Reference, scratch: Path) -> tuple[str, list[str]]:
    """Return where the kill left the collection, and what is wrong with it."""
    path, wrong = scratch / "case" / "photos.udq", []
    outcome = "unknown"
    try:
        wrong += [f"verify: {damage.file}" for damage in verify(path)]
        found = opened(path)
        state = answers(found)
        if state not in reference.states:
            wrong.append("answers are of no committed state")
        if lost := (reference.before & reference.after) - set(found.names):
            wrong.append(f"lost {len(lost)} photos")
        untouched = (path / "collection.json").read_bytes() == (operation.base / "collection.json").read_bytes()
        last = state == reference.states[-1]
        outcome = "before" if untouched else "after" if last else "some batches"
        is_done = operation.once and outcome == "after"
        if not is_done and (status := ended(fork(lambda: operation.run(path)))):
            wrong.append(f"the same command again: exit status {status}")
        wrong += [f"verify, after the same command again: {damage.file}" for damage in verify(path)]
        if answers(opened(path)) != reference.states[-1]:
            wrong.append("the same command again ends with other answers")
        if left := sorted(entry.name for entry in path.parent.iterdir() if entry != path):
            wrong.append(f"left beside the collection: {', '.join(left)}")
    except Exception as error:  # whatever it is, it is what this looks for
        wrong.append(f"{type(error).__name__}: {error}")
    return outcome, wrong
