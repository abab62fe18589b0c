"""``udq add``, ``remove``, ``relocate``, ``compact`` and ``verify``: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Exclude, Json, Threads, Yes, confirmed
from udq.cli.progress_bar import progress, resumable, timed
from udq.common.text import counted
from udq.errors import CollectionError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would change.")]
_DRY_RUN = "dry run, nothing changed:"

if TYPE_CHECKING:
    from udq.collection import Collection
    from udq.indexing.repair import Repaired
    from udq.indexing.update import Changes
    from udq.indexing.verify import Damage


def add(
    collection: CollectionPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Photos and folders of photos.")],
    sync: Annotated[
        bool,
        typer.Option(
            "--sync",
            help="Mirror IMAGES: photos that are gone from these folders are removed, renamed ones recognised.",
        ),
    ] = False,
    dry_run: DryRun = False,
    exclude: Exclude = None,
    yes: Yes = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Add photos to a collection; photos that it already contains are skipped, unless their files changed.

    With --sync, a folder that lost all its photos at once is asked about, or refused without a terminal, because its
    disk may not be mounted; --yes removes them. Photos are committed in batches of some hundreds. If the command is
    killed or interrupted, run it again to continue.
    """
    from udq.collection import Collection

    with timed() as elapsed, resumable(lambda: "what was added so far is kept; run the same command to continue"):
        opened, left_out = Collection.open(collection, device=device, threads=threads), exclude or ()
        grown, changes = confirmed(
            lambda yes: opened.add(images, sync=sync, dry_run=dry_run, exclude=left_out, yes=yes, progress=progress),
            yes=yes,
        )
    if dry_run and not as_json:
        printing.say(_DRY_RUN)
    _print_changes(grown, changes, elapsed(), as_json=as_json)


def relocate(
    collection: CollectionPath,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Where the photos were, as 'udq info' prints it.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder where they are now.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Tell a collection that a folder of photos moved: names, ids and codes stay, and no photo is encoded again.

    Every file is compared with the one that was indexed. If photos are missing in NEW or differ, the command asks, or
    refuses without a terminal; --yes relocates all of them.
    """
    from udq.collection import Collection

    with timed() as elapsed:
        opened = Collection.open(collection)
        _, done = confirmed(lambda yes: opened.relocate(old, new, dry_run=dry_run, yes=yes, progress=progress), yes=yes)
    facts = {"relocated": len(done.moved), "same": done.same, "renamed": dict(done.renamed),
             "missing": list(done.missing), "changed": list(done.changed)}  # fmt: skip
    if as_json:
        paths = {"path": str(collection), "old": old, "new": str(new)}
        printing.print_json({**paths, "dry_run": dry_run, **facts, "elapsed_s": elapsed()})
        return
    if dry_run:
        printing.say(_DRY_RUN)
    counts = {"the same": done.same, "missing": len(done.missing), "changed": len(done.changed),
              "with a new name": len(done.renamed)}  # fmt: skip
    found = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    printing.say(f"{collection}: {counted(len(done.moved), 'photo')} relocated from {old} to {new} ({found}), "
                 f"in {elapsed():.1f} s")  # fmt: skip


def remove(
    collection: CollectionPath,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAMES", help="Names of photos as indexed, FOLDER/ for a whole folder, or a pattern like '*.png'."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Remove photos from a collection; their files are not touched."""
    from udq.collection import Collection

    with timed() as elapsed:
        rest, changes = Collection.open(collection).remove(names)
    _print_changes(rest, changes, elapsed(), as_json=as_json)


def compact(collection: CollectionPath, as_json: Json = False) -> None:
    """Rewrite a collection without its removed photos: smaller and faster, with the same results."""
    from udq.collection import Collection

    opened = Collection.open(collection)
    before, after = opened.info(), opened.compact().info()
    if as_json:
        of = ("segments", "bytes_on_disk")
        printing.print_json({"path": str(collection)} | {name: [before[name], after[name]] for name in of})
        return
    printing.say(f"{collection}: {_size(before)} before, {_size(after)} now; "
                 "old files are deleted by the next change, because readers may have them open")  # fmt: skip


def _size(info: dict[str, Any]) -> str:
    return f"{info['bytes_on_disk'] / 1e6:.1f} MB in {counted(info['segments'], 'segment')}"


def verify(
    collection: CollectionPath,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild what is damaged from the photos; photos whose files are gone are dropped.",
        ),
    ] = False,
    yes: Yes = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Read every file of a collection as a search does, and compare its checksum; exit 1 if one is damaged."""
    from udq.indexing import repair as repairs
    from udq.indexing import verify as verification

    if repair:
        repaired = confirmed(
            lambda yes: repairs.repair(collection, device=device, threads=threads, yes=yes, progress=progress), yes=yes
        )
        _print_repaired(collection, repaired, as_json=as_json)
        return
    damage = verification.verify(collection)
    if as_json:
        printing.print_json({"path": str(collection), "damaged": [dataclasses.asdict(each) for each in damage]})
    elif not damage:
        printing.say(f"{collection}: every file is as it was written")
    else:
        _print_damage(damage)
    if damage:
        raise CollectionError(
            f"{collection}: {counted(len(damage), 'damaged file')}; "
            "restore the collection from a copy, or run 'udq verify --repair'"
        )


def _print_changes(collection: Collection, changes: Changes, elapsed: float, *, as_json: bool) -> None:
    facts = dataclasses.asdict(changes) | {"images": len(collection), "elapsed_s": elapsed}
    facts |= changes.passed_over.to_json()
    if as_json:
        printing.print_json({"path": str(collection.path), **facts})
    else:
        done = [f"{facts[name]:,} {name}" for name in ("added", "changed", "moved", "removed") if facts[name]]
        unchanged = [f"{changes.same:,} unchanged"] if changes.same else []
        printing.say(f"{collection.path}: {', '.join([*done, *unchanged]) or 'nothing to do'}, in {elapsed:.1f} s; "
              f"the collection now has {counted(len(collection), 'photo')}")  # fmt: skip
        if str(changes.passed_over):
            printing.say(f"passed over: {changes.passed_over}")
        for folder, count in changes.emptied.items():
            printing.say(f"lost all photos at once: {folder}, {counted(count, 'photo')}")
        drift = collection.drift
        if drift is not None and drift.outgrown:
            printing.say(f"it has outgrown its model: quantization error {drift.newer:.2f} of newer photos, "
                  f"{drift.older:.2f} of the others; run: udq retrain {collection.path}")  # fmt: skip
    for entry in changes.broken:
        printing.say(f"udq: unreadable: {entry['reason']}", to=sys.stderr)


def _print_damage(damage: list[Damage]) -> None:
    for each in damage:
        printing.say(f"{each.file}: damaged ({each.reason}); affects {each.affects}")


def _print_repaired(collection: Path, done: Repaired, *, as_json: bool) -> None:
    if as_json:
        printing.print_json({"path": str(collection), **dataclasses.asdict(done)})
    elif not done.damage:
        printing.say(f"{collection}: every file is as it was written; nothing to repair")
    else:
        _print_damage(list(done.damage))
        printing.say(f"{collection}: whole again; {counted(len(done.restored), 'photo')} encoded again, "
              f"{len(done.dropped) + done.nameless:,} dropped")  # fmt: skip
    for name in done.dropped:
        printing.say(f"udq: dropped: {name}", to=sys.stderr)
    if done.nameless:
        printing.say(f"udq: dropped: {counted(done.nameless, 'photo')} whose names are lost; run "
              f"udq add {collection} FOLDER --sync to find them again", to=sys.stderr)  # fmt: skip
    if done.back:
        printing.say(f"udq: {counted(done.back, 'removed photo')} cannot be told apart any more; "
                     "photos whose files exist are back", to=sys.stderr)  # fmt: skip
