"""Settings a collection is built with: one frozen dataclass per stage, named presets, TOML in and out.

The defaults of the fields are the ``default`` preset. An unknown key, a wrong type or an impossible value raises
InputError.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w

from udq.common.files import read_regular
from udq.common.text import one_line
from udq.errors import InputError

SUBSPACES = (2, 4, 8, 16)
CODEWORDS = (16, 32, 64, 128, 256, 512)
# Megapixels that a photo may have: 150 decode to 450 MB, above any camera's photo, below what would exhaust a small
# machine. And the most that this limit can be set to.
MAX_MEGAPIXELS, LARGEST_MEGAPIXELS = 150, 2000
POOLINGS = ("gem", "roi")
# Codes of at least this many bits keep the gain of the default share of training; coarser codes take a lower share
# (docs/training.md).
_FINE_BITS = 64
REFINEMENTS = ("none", "bfr", "pbr", "cbr")
CLASSIFIERS = ("codebooks", "random")
OPTIMISERS = ("adam", "sgd")
POSITIONS = ("regions", "best")
# Smallest objects in percent: half a percent of a photo of 50 megapixels is 30 pixels. Most views of a query.
_SMALLEST, _QUERY_VIEWS = 0.5, 4
# Most local features of a photo: 100 kB.
_KEYPOINTS = 4096
# Whole numbers reach libraries in C, whose ``int`` has 32 bits.
_MAX_INTEGER = 2**31 - 1
# Most bytes of a file of settings, which has about 2 kB.
_MAX_BYTES = 2**20


def _check_numbers(stage: str, settings: Any) -> None:
    """Raise InputError for infinite numbers of a stage, and whole ones above ``_MAX_INTEGER``; NaN fails the ranges."""
    for each in dataclasses.fields(settings):
        value, name = getattr(settings, each.name), f"{stage}.{each.name}"
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            size = f"one of {value.bit_length()} bits" if value.bit_length() > 64 else str(value)
            raise InputError(f"{name}: expected a number of at most {_MAX_INTEGER}, found {size}")
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"{name}: expected a finite number, found {value:g}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"{name}: expected {_number(least)} or more, found {_number(value)}")


def _number(value: float) -> str:
    """Return a number as people write it: a whole one with all its digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


@dataclass(frozen=True)
class ImageConfig:
    """Size and scale of photos (sec. 4.2), and the views of a query."""

    shorter: int = 336  # INSTRE's 448 x 336 at its own size; larger costs time in proportion to its area
    longer: int = 448  # limit of the longer side, which takes precedence
    smallest: float = 6.5  # side of the smallest objects, in percent of the shorter side; 0: one view per photo
    query_views: int = 2  # scales that a boxed query is seen at, sides of 192, 384, ...; 0: the scale of its photo
    least: int = 96  # smallest shorter side of a crop at that scale, which is enlarged to it: less leaves few cells
    mirror: bool = True  # average the features of a query crop and its mirror image (docs/training.md)
    max_megapixels: int = MAX_MEGAPIXELS  # larger photos are listed as unreadable; sets the memory for decoding too

    def __post_init__(self) -> None:
        _check_numbers("images", self)
        _at_least("images.shorter", self.shorter, 32)
        _at_least("images.longer", self.longer, self.shorter)
        _at_least("images.least", self.least, 1)
        if not (self.smallest == 0 or _SMALLEST <= self.smallest <= 100):
            raise InputError(
                f"images.smallest: expected {_SMALLEST:g} to 100, in percent of the photo's shorter side, or 0 for one "
                f"view per photo, found {self.smallest:g}"
            )
        if not 0 <= self.query_views <= _QUERY_VIEWS:
            raise InputError(f"images.query_views: expected 0 to {_QUERY_VIEWS}, found {self.query_views}")
        if not 1 <= self.max_megapixels <= LARGEST_MEGAPIXELS:
            raise InputError(f"images.max_megapixels: expected 1 to {LARGEST_MEGAPIXELS}, found {self.max_megapixels}")


@dataclass(frozen=True)
class FeatureConfig:
    """Backbone, proposer and pooling."""

    backbone: str = "efficientnet-lite0"
    proposals: str = "rpn"  # shipped for the default backbone; for others, give a file of it or set "grid"
    regions: int = 100  # T, regions that a region proposal network keeps per photo; the grid has a fixed number
    pooling: str = "gem"  # generalised mean over a box, or "roi": the paper's RoI max pooling to 7 x 7 cells
    p: float = 3.0  # exponent of the generalised mean: 1 averages, large values take the maximum

    def __post_init__(self) -> None:
        _check_numbers("features", self)
        if self.pooling not in POOLINGS:
            raise InputError(f"features.pooling: expected one of {', '.join(POOLINGS)}, found {self.pooling!r}")
        _at_least("features.p", self.p, 1)
        _at_least("features.regions", self.regions, 1)


@dataclass(frozen=True)
class KeypointConfig:
    """Local features, by which matches are verified; a photo takes 24 bytes for each (docs/rerank.md)."""

    most: int = 400  # local features of a photo, at most; 0: none are stored

    def __post_init__(self) -> None:
        _check_numbers("keypoints", self)
        if not 0 <= self.most <= _KEYPOINTS:
            raise InputError(f"keypoints.most: expected 0 to {_KEYPOINTS}, found {self.most}")


@dataclass(frozen=True)
class ProposalTraining:
    """Training of a region proposal network on labelled boxes, on top of a frozen backbone."""

    epochs: int = 3
    views: int = 6  # of each photo: itself, and flipped, cropped and scaled ones, whose feature maps are cached on disk
    held_out: float = 0.1  # share of the photos used to measure recall
    learning_rate: float = 1e-3  # of AdamW
    decay: float = 1e-2  # weight decay
    dropout: float = 0.2  # of channels of the deep feature map
    batch: int = 8  # photos per step
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers("training", self)
        for name in ("epochs", "views", "batch"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        _at_least("learning rate", self.learning_rate, 0)
        if not 0 < self.held_out < 1:
            raise InputError(f"held out: expected a share between 0 and 1, found {self.held_out:g}")


@dataclass(frozen=True)
class SampleConfig:
    """The sample of a collection that its model is fitted to; by default, bounded whatever the collection's size."""

    photos: int = 1500  # at most; 0: all
    regions: int = 40_000  # of these photos, at most; 0: all
    seed: int = 0  # of everything random: sample, k-means, batches

    def __post_init__(self) -> None:
        _check_numbers("sample", self)
        _at_least("sample.photos", self.photos, 0)
        _at_least("sample.regions", self.regions, 0)
        _at_least("sample.seed", self.seed, 0)


@dataclass(frozen=True)
class QuantizerConfig:
    """Projection and product quantizer (eq. 3-6)."""

    dimensions: int = 304  # the paper's 300, rounded up to a multiple of 16 subspaces
    whiten: bool = False  # whitening lowers mAP on every collection tried (docs/regions.md)
    subspaces: int = 8  # M
    codewords: int = 256  # K; with M = 8, the paper's 8 bytes per region
    iterations: int = 8  # alternations of rotation and codebooks
    residuals: bool = True  # add the mean squared residuals of codewords to squared distances, unlike eq. 5

    def __post_init__(self) -> None:
        _check_numbers("quantizer", self)
        if self.subspaces not in SUBSPACES:
            raise InputError(f"subspaces M: expected one of {_listed(SUBSPACES)}, found {self.subspaces}")
        if self.codewords not in CODEWORDS:
            raise InputError(f"codewords K: expected one of {_listed(CODEWORDS)}, found {self.codewords}")
        _at_least("quantizer.dimensions", self.dimensions, self.subspaces)
        _at_least("quantizer.iterations", self.iterations, 1)


@dataclass(frozen=True)
class TrainConfig:
    """Self-supervised training (alg. 1); docs/training.md gives the reasons."""

    enabled: bool = True
    end_to_end: bool = False  # also train the convolutions, except their first two groups
    verified: bool = True  # start from a projection fitted to pairs of regions that local features verify, if there are
    iterations: int = 2  # of module 2, after module 1; at most, with stop_early
    stop_early: bool = True  # stop at, and undo, the first round after which features spread over more directions
    refine: str = "bfr"  # feature refinement (sec. 3.4): none, bfr, pbr or cbr
    refine_from: int = 100  # photos; with fewer, most neighbours show other objects, and features are not refined
    neighbours: int = 10  # S of BFR and PBR; the paper's PBR uses 50
    elsewhere: bool = True  # take neighbours from other photos only
    fine: bool = True  # for codes of less than 8 bytes: supervise with 8 bytes, and lower the share in proportion
    hidden: int = 1  # trained layers before FC_S, initialised to the identity
    weight: float = 0.01  # lambda of eq. 7
    classifiers: str = "codebooks"  # what W of eq. 8 starts from in each round, or "random"
    sharpness: float = 20.0  # of classifiers from codebooks: logit = -sharpness * squared distance to the codeword
    optimiser: str = "adam"  # or "sgd": with momentum 0.9 and weight decay 0.0005, as in Faster R-CNN
    learning_rate: float = 3e-4  # for the fully connected layers
    convolutions_rate: float = 1e-5  # the same for convolutions (and VGG16's fc6 and fc7), which are pretrained
    batch: int = 1024
    epochs: int = 2  # per round
    query_steps: int = 0  # of fine-tuning on the queries before all else, which udq reproduce alone does
    share: float = 0.5  # of the trained weights in their average with those before training; 1 is the paper

    def __post_init__(self) -> None:
        _check_numbers("training", self)
        if self.refine not in REFINEMENTS:
            raise InputError(f"training.refine: expected one of {', '.join(REFINEMENTS)}, found {self.refine!r}")
        if self.classifiers not in CLASSIFIERS:
            expected = ", ".join(CLASSIFIERS)
            raise InputError(f"training.classifiers: expected one of {expected}, found {self.classifiers!r}")
        if self.optimiser not in OPTIMISERS:
            raise InputError(f"training.optimiser: expected one of {', '.join(OPTIMISERS)}, found {self.optimiser!r}")
        _at_least("training.iterations", self.iterations, 0)
        _at_least("training.hidden", self.hidden, 0)
        _at_least("training.query_steps", self.query_steps, 0)
        _at_least("training.refine_from", self.refine_from, 0)
        for name in ("neighbours", "batch", "epochs"):
            _at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("weight", "sharpness", "learning_rate", "convolutions_rate"):
            _at_least(f"training.{name}", getattr(self, name), 0)
        if not 0 < self.share <= 1:
            raise InputError(f"training.share: expected more than 0 and at most 1, found {self.share:g}")


@dataclass(frozen=True)
class SearchConfig:
    """How a search by codes places the object in a photo."""

    position: str = "regions"  # from all regions together, or "best": the box of the best region, as in the paper

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise InputError(f"search.position: expected one of {', '.join(POSITIONS)}, found {self.position!r}")


@dataclass(frozen=True)
class IndexConfig:
    """All settings a collection is built with."""

    images: ImageConfig = field(default_factory=ImageConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    keypoints: KeypointConfig = field(default_factory=KeypointConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def share(self) -> float:
        """Return the share of the trained weights in their average with those before training."""
        bits = self.quantizer.subspaces * (self.quantizer.codewords - 1).bit_length()
        return self.training.share * (min(1.0, bits / _FINE_BITS) if self.training.fine else 1.0)

    def supervision(self) -> QuantizerConfig:
        """Return the settings of the quantizer that supervises training, never coarser than the collection's own."""
        own = self.quantizer
        if not (self.training.enabled and self.training.fine):
            return own
        finest = QuantizerConfig()
        return dataclasses.replace(
            own,
            subspaces=max(own.subspaces, finest.subspaces),
            codewords=max(own.codewords, finest.codewords),
            dimensions=max(own.dimensions, finest.subspaces),
        )

    def replace(self, changes: Mapping[str, Mapping[str, object]]) -> IndexConfig:
        """Return a copy with some fields changed, ``{stage: {field: value}}``; raises InputError for an unknown one."""
        stages = {stage.name: getattr(self, stage.name) for stage in dataclasses.fields(self)}
        for name, values in changes.items():
            if name not in stages:
                raise InputError(f"configuration: unknown table [{name}]; expected one of {', '.join(stages)}")
            if not isinstance(values, Mapping):
                raise InputError(f"configuration: expected [{name}] to be a table, found {values!r}")
            stages[name] = _replace_stage(name, stages[name], values)
        return IndexConfig(**stages)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return nested plain values; the inverse of ``IndexConfig().replace``."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """Return all settings as TOML, which ``from_toml`` reads back."""
        return tomli_w.dumps(self.to_dict())

    @staticmethod
    def from_toml(path: Path, base: IndexConfig) -> IndexConfig:
        """Read a TOML file of changes to ``base``; raises InputError if it is not one."""
        try:
            changes = tomllib.loads(read_regular(path, limit=_MAX_BYTES, follow=True).decode())
        except FileNotFoundError:
            raise InputError(f"{path}: no such configuration file") from None
        except RecursionError:
            raise InputError(f"{path}: expected a TOML file of settings, found one nested too deeply") from None
        except (ValueError, OSError) as error:  # a ValueError also for a number of thousands of digits
            raise InputError(f"{path}: expected a TOML file, found: {one_line(error)}") from error
        return base.replace(changes)


# The paper (docs/paper.md): 600/1000, 200 proposals, RoI pooling, all regions, PCA to 300 (padded), no whitening,
# random classifiers, SGD at 0.001, two iterations of module 2, eq. 5 alone, and the position of the best region. Of the
# three fully connected layers, the first two of VGG16 are pretrained (fc6, fc7). ResNet101 has none for 7 x 7 cells:
# the first two are initialised to the identity on the mean of the cells.
_VGG16 = IndexConfig(
    images=ImageConfig(shorter=600, longer=1000, smallest=0.0, query_views=0, mirror=False),
    features=FeatureConfig(backbone="vgg16", pooling="roi", regions=200),
    keypoints=KeypointConfig(most=0),
    sample=SampleConfig(photos=0, regions=0),
    quantizer=QuantizerConfig(dimensions=300, whiten=False, residuals=False),
    training=TrainConfig(
        verified=False,
        end_to_end=True,
        hidden=0,
        refine_from=0,
        elsewhere=False,
        fine=False,
        classifiers="random",
        optimiser="sgd",
        learning_rate=1e-3,
        convolutions_rate=1e-3,
        share=1.0,
        stop_early=False,
    ),
    search=SearchConfig(position="best"),
)
_RESNET101 = dataclasses.replace(
    _VGG16,
    features=FeatureConfig(backbone="resnet101-v1", pooling="roi", regions=200),
    training=dataclasses.replace(_VGG16.training, hidden=2),
)

PRESETS: dict[str, IndexConfig] = {
    "default": IndexConfig(),
    # About twice as fast, to try things out.
    "fast": IndexConfig(images=ImageConfig(shorter=240, longer=320, smallest=0.0)),
    # Somewhat smaller objects, for a third more time for photos of 12 megapixels.
    "fine": IndexConfig(images=ImageConfig(smallest=5.0)),
    "paper": _VGG16,
    "paper-resnet101": _RESNET101,
}


def preset(name: str) -> IndexConfig:
    """Return a preset by name; raises InputError, which lists the names, for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"preset '{name}': expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _replace_stage(name: str, stage: Any, values: Mapping[str, object]) -> Any:
    types = get_type_hints(type(stage))
    for key, value in values.items():
        if key not in types:
            raise InputError(f"configuration: unknown key '{key}' in [{name}]; expected one of {', '.join(types)}")
        wanted = types[key]
        # bool is an int to Python but not to a user; an int is a fine float.
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise InputError(f"configuration: {name}.{key}: expected {wanted.__name__}, found {value!r}")
    return dataclasses.replace(stage, **values)
