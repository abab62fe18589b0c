"""Check a copy of a data set for missing and unreadable files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udq.common.files import read_text
from udq.common.progress import Progress, silent
from udq.datasets import GroundTruth, load, matching
from udq.datasets.catalogue import Dataset, find, photo_names
from udq.datasets.oxford_paris import PARIS_BROKEN
from udq.errors import ImageError, InputError, NoPhotosError
from udq.photos import sandbox
from udq.photos.source import find as find_photos

# Photos are decoded at a small size, only to prove that they can be, each thread in a process of its own.
_SIDE = 64
_THREADS = 4
# The files of each photo of VOC2007: folder and suffix.
_VOC_FILES = (("JPEGImages", ".jpg"), ("Annotations", ".xml"))


@dataclass(frozen=True)
class Findings:
    """The result of checking a copy of a data set.

    Attributes:
        dataset: name of the data set.
        folder: the checked folder.
        expected: number of files in a complete copy: photos, and annotations for VOC2007.
        found: how many of them exist.
        missing: names of the others.
        unreadable: one line for each photo that cannot be decoded, with the reason.
        known: the same for photos that are broken in the official archives too, which is no fault of this copy.
        others: number of photos that do not belong to the data set.
        faults: one line for each other problem.
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
        """Return what is wrong in one line, such as ``2 missing; 1 unreadable``."""
        counts = {"missing": len(self.missing), "unreadable": len(self.unreadable)}
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        return "; ".join([*parts, *self.faults]) or "whole"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict of all attributes, and ``whole``."""
        return {**asdict(self), "whole": self.whole}


def check(name: str, folder: Path, *, ground_truth: Path | None = None, progress: Progress = silent) -> Findings:
    """Check which files of a data set a folder lacks, and which photos cannot be decoded.

    Args:
        name: name of the data set.
        folder: searched with its subfolders, whose names matter only for INSTRE and VOC2007.
        ground_truth: file or folder of the ground truth; by default the one in ``folder`` or below it. INSTRE requires
            one, since it lists the photos.
        progress: called for each photo.

    Raises:
        InputError: no such data set or folder, a ground truth for a data set without one, or two photos of one name.
    """
    dataset = find(name)
    if ground_truth is not None and not dataset.queries:
        raise InputError(f"--ground-truth {ground_truth}: {name} has photos only, and no ground truth; leave it out")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of {name}, found no folder; check the spelling")
    if name == "voc2007":
        return _check_voc(folder, progress)
    try:
        photos = {source.name: source.path for source in find_photos([folder])[0]}
    except NoPhotosError:
        photos = {}
    truth, faults = _ground_truth(dataset, folder, ground_truth)
    if dataset.names:
        names = set(photo_names(dataset.names))
    elif truth is None:  # INSTRE's names are in its ground truth
        raise InputError(f"{folder}: expected {_truth_name(dataset)} there, which lists the photos: {faults[0]}")
    else:
        names = set(truth.database) | {query.image for query in truth.queries}
    matched = matching.match(
        names | PARIS_BROKEN, photos, remedy="keep one of them, or check only the folder of that copy"
    )
    found = {name: photos[photo] for name, photo in matched.items()}
    reasons = _unreadable(found, progress)
    tolerated = {name for name in reasons if name in PARIS_BROKEN or dataset.some_unreadable}
    missing = sorted(names - set(found))
    return Findings(
        name,
        str(folder),
        len(names),
        len(names) - len(missing),
        tuple(missing),
        tuple(reason for name, reason in sorted(reasons.items()) if name not in tolerated),
        tuple(reason for name, reason in sorted(reasons.items()) if name in tolerated),
        len(photos) - len(found),
        tuple(faults),
    )


def _ground_truth(dataset: Dataset, folder: Path, given: Path | None) -> tuple[GroundTruth | None, list[str]]:
    """Return the ground truth, None without a readable one, and one line for each problem."""
    if not dataset.queries:
        return None, []
    paths = [given] if given is not None else _truth_paths(dataset, folder)
    if not paths:
        return None, [f"{_truth_name(dataset)} is missing; give --ground-truth"]
    faults = []
    for path in paths:
        try:
            truth = load(dataset.name, path)
            break
        except InputError as error:  # perhaps of another data set, if the folder holds several
            faults.append(str(error))
    else:
        return None, faults[:1]
    if len(truth.queries) != dataset.queries:
        return truth, [f"{path}: expected {dataset.queries} queries, found {len(truth.queries)}"]
    return truth, []


def _truth_name(dataset: Dataset) -> str:
    return "groundtruth/" if dataset.name in ("oxford5k", "paris6k") else f"gnd_{dataset.name}.mat"


def _truth_paths(dataset: Dataset, folder: Path) -> list[Path]:
    """Return candidate ground truths: the path that a download writes, or else any below the folder."""
    usual = folder / _truth_name(dataset)
    if usual.exists():
        return [usual]
    if usual.suffix:
        found = sorted(folder.rglob(usual.name))
    else:
        found = sorted({path.parent for path in folder.rglob("*_query.txt")})
    # A download keeps the original files in archives/.
    return [path for path in found if path.relative_to(folder).parts[:1] != ("archives",)]


def _unreadable(photos: dict[str, Path], progress: Progress) -> dict[str, str]:
    """Decode photos, name -> path; return name -> reason for each that cannot be decoded."""
    decoder = sandbox.shared()

    def reason(path: Path) -> str | None:
        try:
            decoder.decode(path, shorter=_SIDE, longer=_SIDE)
        except ImageError as error:
            return str(error)
        return None

    reasons = {}
    with progress("photos", len(photos)) as step, ThreadPoolExecutor(_THREADS) as threads:
        try:
            for name, why in zip(photos, threads.map(reason, photos.values()), strict=True):
                if why is not None:
                    reasons[name] = why
                step()
        except BaseException:  # Ctrl-C must not wait for the remaining photos
            threads.shutdown(cancel_futures=True)
            raise
    return reasons


def _check_voc(folder: Path, progress: Progress) -> Findings:
    """Check the files that the lists of VOC2007 name: ``JPEGImages/<id>.jpg`` and ``Annotations/<id>.xml``."""
    root = next((each for each in (folder, folder / "VOC2007", folder / "VOCdevkit" / "VOC2007")
                 if (each / "ImageSets" / "Main").is_dir()), None)  # fmt: skip
    if root is None:
        raise InputError(f"{folder}: expected the layout of VOC2007, with ImageSets/Main/trainval.txt; found none")
    identifiers: list[str] = []
    faults = []
    for part, count in (("trainval", 5011), ("test", 4952)):
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        try:
            part_identifiers = read_text(file).split() if file.is_file() else []
        except UnicodeDecodeError:
            faults.append(f"{part}.txt: expected text, found other bytes")
            continue
        identifiers += part_identifiers
        if len(part_identifiers) != count:
            faults.append(f"{part}.txt: expected a list of {count:,} photos, found {len(part_identifiers):,}")
    expected = [f"{subfolder}/{each}{suffix}" for each in identifiers for subfolder, suffix in _VOC_FILES]
    found = [name for name in expected if (root / name).is_file()]
    photos = {name: root / name for name in found if name.endswith(".jpg")}
    reasons = _unreadable(photos, progress)
    missing = sorted(set(expected) - set(found))
    return Findings("voc2007", str(folder), len(expected), len(found), tuple(missing), tuple(reasons.values()),
                    faults=tuple(faults))  # fmt: skip
