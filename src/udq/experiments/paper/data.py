"""Where the photos and the ground truth of a cell are.

A folder with ``ground_truth.csv`` and ``images/`` or ``photos/`` is a benchmark of one's own, which stands in for every
data set of the paper; so does another benchmark that is named. Otherwise the folder holds the paper's own, each in a
folder of its name as ``udq datasets download NAME -o NAME`` lays it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from udq import datasets
from udq.datasets import GroundTruth
from udq.errors import InputError
from udq.experiments.paper.tables import DATASETS

_OWN = "boxes"
_PHOTOS = ("photos", "images")
_DISTRACTORS = ("flickr100k", "oxc1_100k")
# Layouts whose ground truth has a name of its own; the others' is found in their folder.
_TRUTHS = {_OWN: "ground_truth.csv", "oxford5k": "groundtruth", "paris6k": "groundtruth"}


@dataclass(frozen=True)
class Dataset:
    """What a cell is measured on.

    Attributes:
        name: for people, such as ``oxford5k with distractors``.
        folders: of the database's photos.
        truth: queries and answers.
    """

    name: str
    folders: tuple[Path, ...]
    truth: GroundTruth


@dataclass(frozen=True)
class DataFolder:
    """A folder of data.

    Attributes:
        data: the folder.
        dataset: the layout of its ground truth, or None to tell by what it holds.
        ground_truth: where that is, if not in its usual place.
    """

    data: Path
    dataset: str | None = None
    ground_truth: Path | None = None

    def __post_init__(self) -> None:
        if not self.data.is_dir():
            raise InputError(f"--data {self.data}: expected a folder of data sets, found no folder; check the spelling")
        if self.dataset is not None and self.dataset not in datasets.REGISTRY:
            raise InputError(f"dataset '{self.dataset}': expected one of {', '.join(datasets.REGISTRY)}")
        if self.ground_truth is not None and self.layout is None:
            raise InputError(f"--ground-truth {self.ground_truth}: say of which data set it is, with --dataset NAME")

    @property
    def layout(self) -> str | None:
        """The one data set that the folder is, or None where it holds several."""
        return self.dataset or (_OWN if (self.data / _TRUTHS[_OWN]).is_file() else None)

    def find(self, wanted: str) -> Dataset:
        """Return what a cell of one of the paper's data sets is measured on.

        Raises:
            InputError: its photos, ground truth or distractors are not there.
        """
        base, distractors = DATASETS[wanted]
        layout = self.layout or base
        if layout in ("oxford5k", "paris6k") and layout != base:
            raise InputError(f"needs {base}, and --data is {layout} alone")
        folder = self.data if self.layout else self.data / base
        if not folder.is_dir():
            raise InputError(f"needs {folder}: get it with 'udq datasets download {base} -o {folder}'")
        photos = next((folder / name for name in _PHOTOS if (folder / name).is_dir()), None)
        if photos is None:
            raise InputError(f"{folder}: expected its photos in a folder photos or images, found neither")
        folders: tuple[Path, ...] = (photos,)
        if distractors:
            folders = (photos, self._distractors())
        name = f"{layout} with distractors" if distractors else layout
        usual = folder / _TRUTHS[layout] if layout in _TRUTHS else folder
        return Dataset(name, folders, datasets.load(layout, self.ground_truth or usual))

    def _distractors(self) -> Path:
        for name in _DISTRACTORS:
            if (self.data / name).is_dir():
                return self.data / name
        # Not the path itself: results say it too, and are read on other machines.
        place = f"DATA/{_DISTRACTORS[0]}"
        raise InputError(f"needs the distractors in {place}: 'udq datasets download flickr100k -o {place}', then unrar")
