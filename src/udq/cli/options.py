"""Options that several commands share, and what their values are parsed to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udq import config
from udq.cli.progress_bar import resumable
from udq.errors import InputError
from udq.features import backbones

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.types import Example


ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings; options win over it.")
]
Subspaces = Annotated[int | None, typer.Option(metavar="M", help="Subspaces of the quantizer: 2, 4, 8 or 16.")]
Codewords = Annotated[int | None, typer.Option(metavar="K", help="Codewords a subspace: 16 to 512, a power of two.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Of everything drawn at random.")]
Iterations = Annotated[int | None, typer.Option(metavar="N", help="Rounds of training after the first.")]
Refine = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Feature refinement: {', '.join(config.REFINEMENTS)}.")
]
Weight = Annotated[float | None, typer.Option("--lambda", metavar="X", help="Weight of the discriminability loss.")]
EndToEnd = Annotated[
    bool | None,
    typer.Option("--end-to-end/--no-end-to-end", help="Train the convolutions too: slow without a GPU."),
]  # fmt: skip
Preset = Annotated[str, typer.Option(metavar="NAME", help=f"Settings to begin with: {', '.join(config.PRESETS)}.")]
Backbone = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Network that sees the photos: {', '.join(backbones.REGISTRY)}.")
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights for the backbone, for offline use.")]
Watched = Annotated[
    Path | None,
    typer.Option(
        "--ground-truth", metavar="CSV", help="Measure mAP after every round of training too; nothing goes by it."
    ),
]


Rerank = Annotated[
    str,
    typer.Option(
        metavar="STAGES",
        help="Rank again by what the first photos show: average-qe or alpha-qe (query expansion), diffusion, verify "
        "(by local features); several, with commas between them, one after another.",
    ),
]


def resumable_on(path: Path) -> AbstractContextManager[None]:
    """Let Ctrl-C say where the work on a path stands."""
    from udq.common.files import partial_folder

    def said() -> str | None:
        left = partial_folder(path)
        return f"the same command goes on from here, or delete {left} to give up" if left.exists() else None

    return resumable(said)


def read_truth(path: Path | None) -> GroundTruth | None:
    from udq import datasets

    return None if path is None else datasets.load("boxes", path)


def settings_of(base: config.IndexConfig, file: Path | None, **stages: dict[str, object]) -> config.IndexConfig:
    """Return settings with the file's changes and then those of the options that were given."""
    if file is not None:
        base = config.IndexConfig.from_toml(file, base)
    given = {
        stage: {name: value for name, value in options.items() if value is not None}
        for stage, options in stages.items()
    }
    return base.replace(given)


def parse_example(text: str) -> Example:
    """Return ``PHOTO:X1,Y1,X2,Y2``, or a photo alone, as an example; a photo's own name may hold colons."""
    from udq.types import Example

    photo, colon, box = text.rpartition(":")
    if not colon or not photo or Path(text).exists():
        return Example(text)
    return Example(photo, parse_box(box, "--also"))


def parse_stages(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text.strip() else []


def parse_box(text: str, option: str = "--box") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {' '.join(text.split())}: expected four numbers X1,Y1,X2,Y2, such as 120,80,340,300"
        ) from None


CollectionPath = Annotated[Path, typer.Argument(metavar="COLLECTION", help="A folder that 'udq index' made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where the network runs: auto, cpu or cuda.")]
