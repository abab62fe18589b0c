"""Find the photos and the ground truth of a cell.

A folder with ``ground_truth.csv`` and ``images/`` or ``photos/`` is a custom benchmark, which replaces every data set
of the paper; so does a folder whose data set is named. Any other folder contains the paper's data sets, each in a
subfolder of its name as written by ``udq datasets download NAME -o NAME``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from udq import datasets
from udq.datasets import GroundTruth
from udq.errors import InputError
from udq.experiments.paper.tables import DATASETS

_CUSTOM = "boxes"
_PHOTOS = ("photos", "images")
_DISTRACTORS = ("flickr100k", "oxc1_100k")
# Ground truths within the folder of a data set; the loaders of other layouts find theirs.
_TRUTHS = {_CUSTOM: "ground_truth.csv", "oxford5k": "groundtruth", "paris6k": "groundtruth"}


@dataclass(frozen=True)
class Dataset:
    """The photos and the ground truth that a cell is measured on.

    Attributes:
        name: a name for display, such as ``oxford5k with distractors``.
        folders: the folders of the database's photos.
        truth: queries and answers.
    """

    name: str
    folders: tuple[Path, ...]
    truth: GroundTruth


@dataclass(frozen=True)
class DataFolder:
    """A folder of one data set, or of several.

    Attributes:
        path: the folder.
        dataset: the layout of its ground truth; None to detect it.
        ground_truth: path of the ground truth, if it is not in its usual place.

    Raises:
        InputError: no such folder, or an unknown data set.
    """

    path: Path
    dataset: str | None = None
    ground_truth: Path | None = None

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise InputError(f"--data {self.path}: expected a folder of data sets, found no folder; check the spelling")
        if self.dataset is not None and self.dataset not in datasets.REGISTRY:
            raise InputError(f"dataset '{self.dataset}': expected one of {', '.join(datasets.REGISTRY)}")
        if self.ground_truth is not None and self.layout is None:
            raise InputError(f"--ground-truth {self.ground_truth}: name its data set with --dataset NAME")

    @property
    def layout(self) -> str | None:
        """The layout of the only data set in the folder; None if the folder contains several."""
        return self.dataset or (_CUSTOM if (self.path / _TRUTHS[_CUSTOM]).is_file() else None)

    def find(self, wanted: str) -> Dataset:
        """Return the data set that stands for one of the paper's.

        Args:
            wanted: a key of ``DATASETS``.

        Raises:
            InputError: its photos, ground truth or distractors are missing.
        """
        base, distractors = DATASETS[wanted]
        layout = self.layout or base
        if layout in ("oxford5k", "paris6k") and layout != base:
            raise InputError(f"needs {base}, but --data contains only {layout}")
        folder = self.path if self.layout else self.path / base
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
            if (self.path / name).is_dir():
                return self.path / name
        # Not the path itself, which means nothing on the other machines that results are read on.
        target = f"DATA/{_DISTRACTORS[0]}"
        raise InputError(
            f"needs the distractors in {target}: 'udq datasets download flickr100k -o {target}', then unrar"
        )
