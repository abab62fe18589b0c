"""A folder -> what is missing or broken of a data set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udq import datasets
from udq.common.progress import Progress, silent
from udq.datasets import matching
from udq.datasets.catalogue import Dataset, find, listed
from udq.datasets.oxford_paris import PARIS_BROKEN
from udq.errors import ImageError, InputError, NoPhotosError
from udq.photos import decoding
from udq.photos import source as photo_source

# Photos are decoded at the least size: that every byte can be read is what counts. Pillow decodes beside Python's lock.
_SIDE = 64
_THREADS = 4
# Of each identifier of VOC2007.
_VOC_FILES = (("JPEGImages", ".jpg"), ("Annotations", ".xml"))


@dataclass(frozen=True)
class Findings:
    """What a folder has of a data set.

    Attributes:
        dataset: the data set's name.
        folder: where was looked.
        expected: files that a whole copy has: photos, and annotations of VOC2007.
        found: how many of them are there.
        missing: names of those that are not.
        unreadable: why a photo cannot be decoded, a line each.
        known: the same of photos that are broken in the official archives: no fault of this copy.
        others: photos that do not belong to the data set.
        faults: what else is wrong, a line each.
    """

    dataset: str
    folder: str
    expected: int
    found: int
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    known: tuple[str, ...] = ()
    others: int = 0
    faults: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or broken."""
        return not (self.missing or self.unreadable or self.faults)

    def summary(self) -> str:
        """Say what is wrong in one line."""
        counts = {"missing": len(self.missing), "unreadable": len(self.unreadable)}
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        return "; ".join([*parts, *self.faults]) or "whole"

    def to_json(self) -> dict[str, Any]:
        """Return what a program reads."""
        return {**asdict(self), "whole": self.whole}


def check(name: str, folder: Path, *, ground_truth: Path | None = None, progress: Progress = silent) -> Findings:
    """Say exactly what a folder lacks of a data set, and which photos cannot be decoded.

    Args:
        name: of the data set.
        folder: looked at with its folders, whose names do not matter but for INSTRE and VOC2007.
        ground_truth: a file or folder to read too; by default what the folder has, or one below it. INSTRE's lists its
            photos and must be there.
        progress: is told of each photo.

    Raises:
        InputError: no such data set or folder, a ground truth for one that has none, or two photos of one name.
    """
    dataset = find(name)
    if ground_truth is not None and not dataset.queries:
        raise InputError(f"--ground-truth {ground_truth}: {name} has photos alone, and no ground truth; leave it out")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of {name}, found no folder; check the spelling")
    if name == "voc2007":
        return _check_voc(folder, progress)
    try:
        photos = {source.name: source.path for source in photo_source.find([folder])[0]}
    except NoPhotosError:
        photos = {}
    truth, faults = _ground_truth(dataset, folder, ground_truth)
    if dataset.names:
        names = set(listed(dataset.names))
    elif truth is None:  # INSTRE's names are in its ground truth
        raise InputError(f"{folder}: expected {_truth_name(dataset)} there, which lists the photos: {faults[0]}")
    else:
        names = set(truth.database) | {query.image for query in truth.queries}
    known = matching.match(
        names | PARIS_BROKEN, photos, remedy="keep one of them, or check the folder of that copy alone"
    )
    there = {name: photos[photo] for name, photo in known.items()}
    reasons = _unreadable(there, progress)
    tolerated = {name for name in reasons if name in PARIS_BROKEN or dataset.some_unreadable}
    missing = sorted(names - set(there))
    return Findings(
        name,
        str(folder),
        len(names),
        len(names) - len(missing),
        tuple(missing),
        tuple(reason for name, reason in sorted(reasons.items()) if name not in tolerated),
        tuple(reason for name, reason in sorted(reasons.items()) if name in tolerated),
        len(photos) - len(there),
        tuple(faults),
    )


def _ground_truth(dataset: Dataset, folder: Path, given: Path | None) -> tuple[datasets.GroundTruth | None, list[str]]:
    """Read the ground truth and say what is wrong with it."""
    if not dataset.queries:
        return None, []
    places = [given] if given is not None else _places(dataset, folder)
    if not places:
        return None, [f"{_truth_name(dataset)} is missing; give --ground-truth"]
    faults = []
    for path in places:
        try:
            truth = datasets.load(dataset.name, path)
            break
        except InputError as error:  # of another data set, where a folder has several
            faults.append(str(error))
    else:
        return None, faults[:1]
    if len(truth.queries) != dataset.queries:
        return truth, [f"{path}: expected {dataset.queries} queries, found {len(truth.queries)}"]
    return truth, []


def _truth_name(dataset: Dataset) -> str:
    return "groundtruth/" if dataset.name in ("oxford5k", "paris6k") else f"gnd_{dataset.name}.mat"


def _places(dataset: Dataset, folder: Path) -> list[Path]:
    """Return where a ground truth may be: under the name that a download gives, or anywhere below the folder."""
    usual = folder / _truth_name(dataset)
    if usual.exists():
        return [usual]
    if usual.suffix:
        found = sorted(folder.rglob(usual.name))
    else:
        found = sorted({path.parent for path in folder.rglob("*_query.txt")})
    # What a download keeps as it came is not what it unpacked.
    return [path for path in found if path.relative_to(folder).parts[:1] != ("archives",)]


def _unreadable(photos: dict[str, Path], progress: Progress) -> dict[str, str]:
    """Decode photos; return why one cannot be."""

    def reason(path: Path) -> str | None:
        try:
            decoding.load(path, shorter=_SIDE, longer=_SIDE)
        except ImageError as error:
            return str(error)
        return None

    found = {}
    with progress("photos", len(photos)) as step, ThreadPoolExecutor(_THREADS) as threads:
        try:
            for name, why in zip(photos, threads.map(reason, photos.values()), strict=True):
                if why is not None:
                    found[name] = why
                step()
        except BaseException:  # Ctrl-C should not wait for a hundred thousand photos
            threads.shutdown(cancel_futures=True)
            raise
    return found


def _check_voc(folder: Path, progress: Progress) -> Findings:
    """Look for what the lists of VOC2007 name: ``JPEGImages/<id>.jpg`` and ``Annotations/<id>.xml``."""
    root = next((each for each in (folder, folder / "VOC2007", folder / "VOCdevkit" / "VOC2007")
                 if (each / "ImageSets" / "Main").is_dir()), None)  # fmt: skip
    if root is None:
        raise InputError(f"{folder}: expected the layout of VOC2007, with ImageSets/Main/trainval.txt; found none")
    identifiers: list[str] = []
    faults = []
    for part, count in (("trainval", 5011), ("test", 4952)):
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        try:
            listed_here = file.read_text(encoding="utf-8").split() if file.is_file() else []
        except UnicodeDecodeError:
            faults.append(f"{part}.txt: expected text, found other bytes")
            continue
        identifiers += listed_here
        if len(listed_here) != count:
            faults.append(f"{part}.txt: expected a list of {count:,} photos, found {len(listed_here):,}")
    wanted = [f"{place}/{each}{ending}" for each in identifiers for place, ending in _VOC_FILES]
    there = [name for name in wanted if (root / name).is_file()]
    photos = {name: root / name for name in there if name.endswith(".jpg")}
    reasons = _unreadable(photos, progress)
    missing = sorted(set(wanted) - set(there))
    return Findings("voc2007", str(folder), len(wanted), len(there), tuple(missing), tuple(reasons.values()),
                    faults=tuple(faults))  # fmt: skip
