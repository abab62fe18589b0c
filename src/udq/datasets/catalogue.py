"""Public data sets for object instance search: sizes, official addresses of their files, and lists of photo names."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from udq.common.files import read_text
from udq.errors import InputError

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
_PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_INSTRE = "ftp://ftp.irisa.fr/local/texmex/corpus/instre"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007"


@dataclass(frozen=True)
class File:
    """One file of a data set, at its official address.

    Attributes:
        url: the address; its last part is the file's name.
        into: the subfolder of the data set that it belongs in, unpacked if it is a tar archive.
        sha256: the only checksum that is accepted, in hexadecimal; empty if no reliable page states one.
    """

    url: str
    into: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: as on the command line.
        what: a description in one line.
        photos: number of readable photos in its database.
        queries: number of queries in its protocol; 0 without ground truth.
        page: the official page.
        size: approximate size of the download, such as ``1.9 GB``; empty if the official page does not say.
        files: the files to download.
        names: name of the bundled list of photo names (see ``photo_names``); empty if the ground truth lists them.
        some_unreadable: whether the official archives are known to contain unreadable photos.
        hint: what is left to do after the download.
        queries_apart: whether its query photos are not in the database.
    """

    name: str
    what: str
    photos: int
    queries: int
    page: str
    size: str
    files: tuple[File, ...]
    names: str = ""
    some_unreadable: bool = False
    hint: str = ""
    queries_apart: bool = False

    @property
    def unpacked(self) -> bool:
        """Whether a download unpacks every file; RAR archives are left to the user."""
        return not any(file.name.endswith(".rar") for file in self.files)


_OXFORD_PHOTOS = (File(f"{_OXFORD}/oxbuild_images-v1.tgz", "photos"),)
_PARIS_PHOTOS = (File(f"{_PARIS}/paris_1-v1.tgz", "photos"), File(f"{_PARIS}/paris_2-v1.tgz", "photos"))
_APART = "index photos/ only: the query photos, which must not be in the database, are in queries/"

CATALOGUE = {
    each.name: each
    for each in (
        Dataset(
            "oxford5k", "buildings of Oxford, 11 landmarks", 5063, 55, f"{_OXFORD}/", "1.9 GB",
            (*_OXFORD_PHOTOS, File(f"{_OXFORD}/gt_files_170407.tgz", "groundtruth")), names="oxford5k",
        ),
        Dataset(
            "paris6k", "buildings of Paris, 11 landmarks; 20 more photos are broken", 6392, 55, f"{_PARIS}/", "2.5 GB",
            (*_PARIS_PHOTOS, File(f"{_PARIS}/paris_120310.tgz", "groundtruth")), names="paris6k",
        ),
        Dataset(
            "roxford5k", "Oxford revisited: three difficulties, query photos apart", 4993, 70,
            "http://cmp.felk.cvut.cz/revisitop/", "1.9 GB",
            (*_OXFORD_PHOTOS, File(f"{_REVISITED}/roxford5k/gnd_roxford5k.mat", "")), names="oxford5k", hint=_APART,
            queries_apart=True,
        ),
        Dataset(
            "rparis6k", "Paris revisited: three difficulties, query photos apart", 6322, 70,
            "http://cmp.felk.cvut.cz/revisitop/", "2.5 GB",
            (*_PARIS_PHOTOS, File(f"{_REVISITED}/rparis6k/gnd_rparis6k.mat", "")), names="paris6k", hint=_APART,
            queries_apart=True,
        ),
        Dataset(
            "instre", "250 objects, query photos apart", 27293, 1250, f"{_INSTRE}/", "2.3 GB",
            (File(f"{_INSTRE}/instre.tar.gz", "photos"), File(f"{_INSTRE}/gnd_instre.mat", "")), hint=_APART,
            queries_apart=True,
        ),
        Dataset(
            "flickr100k", "distractors for Oxford and Paris", 100071, 0, f"{_OXFORD}/flickr100k.html", "",
            tuple(File(f"{_OXFORD}/ox100k/oxc1_100k.part{i:02}.rar", "") for i in range(1, 41)), names="flickr100k",
            some_unreadable=True, hint="unpack the archives with: unrar x oxc1_100k.part01.rar",
        ),
        Dataset(
            "voc2007", "objects with boxes, for train-rpn: 5,011 to train and validate, 4,952 to test", 9963, 0,
            f"{_VOC}/", "0.9 GB",
            (
                # As TensorFlow Datasets (url_checksums/voc.txt) and torchvision's prototype data sets state them.
                File(f"{_VOC}/VOCtrainval_06-Nov-2007.tar", "",
                     "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508"),
                File(f"{_VOC}/VOCtest_06-Nov-2007.tar", "",
                     "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892"),
            ),
        ),
    )
}  # fmt: skip


_MARK = "dataset.txt"


def find(name: str) -> Dataset:
    """Return a data set by its name; raises InputError that lists the known names."""
    if name not in CATALOGUE:
        raise InputError(f"data set '{name}': expected one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def photo_names(name: str) -> list[str]:
    """Return the names of a data set's photos, without folder and file suffix, from the list that udq bundles.

    Flickr100k's list has 100,070 names: the last of its 100,071 files is a stray file named ``test``.
    """
    packed = resources.files("udq.datasets").joinpath("names", f"{name}.txt.xz").read_bytes()
    return lzma.decompress(packed).decode("ascii").split()


def marked(folder: Path) -> str | None:
    """Return the name of the data set that was downloaded to a folder; None if it is not marked."""
    try:
        return read_text(folder / _MARK, errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_mark(folder: Path, dataset: Dataset) -> None:
    """Mark a folder as the download of a data set."""
    (folder / _MARK).write_text(f"{dataset.name}\n", encoding="utf-8", newline="\n")
