"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from udq import config
from udq.cli import printing
from udq.cli.progress_bar import resumable
from udq.common.files import existing, given_path
from udq.errors import ConsentError, InputError
from udq.features import backbones

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.types import Example

Result = TypeVar("Result")

CollectionPath = Annotated[Path, typer.Argument(metavar="COLLECTION", help="A folder that 'udq index' made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="Device of the network: auto, cpu or cuda.")]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads to compute with. Default: one per core that this process may use."),
]
Preset = Annotated[str, typer.Option(metavar="NAME", help=f"Preset of all settings: {', '.join(config.PRESETS)}.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings; options override it.")
]
MaxMegapixels = Annotated[
    int | None,
    typer.Option(
        "--max-megapixels",
        metavar="N",
        help=f"Largest photo in megapixels, 1 to {config.LARGEST_MEGAPIXELS}; larger ones are listed as unreadable. "
        f"Default: {config.MAX_MEGAPIXELS}.",
    ),
]
Backbone = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Feature network: {', '.join(backbones.REGISTRY)}.")
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the backbone, for offline use.")]
Smallest = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Side of the smallest objects to find, such as 5%, of the photo's shorter side; smaller ones may be "
        "missed, and half the size takes up to four times as long. 0: one view per photo.",
    ),
]
Subspaces = Annotated[int | None, typer.Option(metavar="M", help="Subspaces of the quantizer: 2, 4, 8 or 16.")]
Codewords = Annotated[
    int | None, typer.Option(metavar="K", help="Codewords per subspace: a power of two from 16 to 512.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of the random numbers.")]
Iterations = Annotated[int | None, typer.Option(metavar="N", help="Rounds of training after the first.")]
Refine = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Feature refinement: {', '.join(config.REFINEMENTS)}.")
]
Neighbours = Annotated[
    int | None,
    typer.Option(metavar="S", help="Neighbours that bfr and pbr refine by; the paper's pbr has 50."),
]
Weight = Annotated[float | None, typer.Option("--lambda", metavar="X", help="Weight of the discriminability loss.")]
EndToEnd = Annotated[
    bool | None,
    typer.Option("--end-to-end/--no-end-to-end", help="Train the convolutions too: slow without a GPU."),
]  # fmt: skip
GroundTruthFile = Annotated[
    Path | None,
    typer.Option(
        "--ground-truth", metavar="CSV", help="Also measure mAP after each round of training; it does not affect it."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Folders and photos to leave out: a name, or a pattern such as 'thumbs' or 'old/*_small.jpg', of the path "
        "below the given folder; may be repeated. Folders of devices, such as @eaDir, are always left out.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking, even if photos may be lost.")]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="STAGES",
        help="Rerank by: verify (local features), verified-qe, average-qe or alpha-qe (query expansion), diffusion; "
        "separate several by commas. Default: verify,verified-qe,diffusion if the collection stores local features. "
        "none: by codes alone.",
    ),
]


class Command(TyperCommand):
    """A command that refuses an empty path, which ``pathlib`` takes for the current folder."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the arguments; raises InputError if one that becomes a path is empty."""
        written, _, _ = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        for name, texts in written.items():
            if any(isinstance(value, Path) for value in _each(ctx.params.get(name))):
                for text in _each(texts):
                    given_path(text)
        return rest


def _each(value: Any) -> list[Any]:
    """Return the values of an option or argument that may be given several times."""
    return list(value) if isinstance(value, list | tuple) else [value]


def confirmed(change: Callable[[bool], Result], *, yes: bool) -> Result:
    """Make a change; if it may lose photos, ask on a terminal first.

    Args:
        change: gets whether to make the change without asking.
        yes: whether the user gave ``--yes``.

    Raises:
        ConsentError: the change needs a confirmation, and there is no terminal to ask on, or the answer is no.
    """
    try:
        return change(yes)
    except ConsentError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        printing.say(f"udq: {error}", to=sys.stderr)
        if not _agreed("Go on as with --yes?"):
            raise ConsentError("nothing was changed") from None
    return change(True)


def _agreed(question: str) -> bool:
    """Ask a question on the terminal; Ctrl-C and the end of the input are a no."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False


def resumable_on(path: Path) -> AbstractContextManager[None]:
    """On Ctrl-C, say how to continue the work on a path."""
    from udq.common.files import partial_folder

    def left() -> str | None:
        folder = partial_folder(path)
        return f"run the same command to continue, or delete {folder} to give up" if folder.exists() else None

    return resumable(left)


def read_truth(path: Path | None) -> GroundTruth | None:
    """Read a ground truth of the dataset ``boxes``; None if no file is given."""
    from udq import datasets

    return None if path is None else datasets.load("boxes", path)


def settings_of(base: config.IndexConfig, file: Path | None, **stages: dict[str, object]) -> config.IndexConfig:
    """Return settings changed by a TOML file, and then by the options that were given (not None)."""
    if file is not None:
        base = config.IndexConfig.from_toml(file, base)
    given = {
        stage: {name: value for name, value in options.items() if value is not None}
        for stage, options in stages.items()
    }
    return base.replace(given)


def parse_example(text: str) -> Example:
    """Return ``PHOTO:X1,Y1,X2,Y2``, or a photo alone, as an example; the photo's name may contain colons."""
    from udq.types import Example

    photo, colon, box = text.rpartition(":")
    whole = existing(Path(text))
    if not colon or not photo or whole.exists():
        return Example(whole)
    return Example(existing(Path(photo)), parse_box(box, "--also"))


def parse_percent(text: str | None) -> float | None:
    """Return a percentage such as ``5%``, ``5 %`` or ``5``; None if none is given."""
    if text is None:
        return None
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise InputError(f"--smallest {' '.join(text.split())}: expected a percentage, such as 5%") from None


def parse_stages(text: str | None) -> list[str] | None:
    """Return the names of rerank stages that commas separate; none for ``none``, None for the default."""
    if text is None:
        return None
    return [] if text.strip() == "none" else [name.strip() for name in text.split(",")]


def parse_box(text: str, option: str = "--box") -> tuple[float, ...]:
    """Return the numbers of a box; InputError if they are no numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {' '.join(text.split())}: expected four numbers X1,Y1,X2,Y2, such as 120,80,340,300"
        ) from None
