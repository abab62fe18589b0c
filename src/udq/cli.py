"""The command line: parses, calls, prints. No logic, and nothing heavy imported before a command needs it."""

from __future__ import annotations

import atexit
import gc
import io
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from udq import __version__, backbones, config, printing
from udq import proposals as proposers
from udq.bar import INTERRUPTED, interrupts, progress, resumable, timed
from udq.cli_datasets import app as datasets_app
from udq.cli_reproduce import reproduce
from udq.cli_serve import serve
from udq.cli_update import CollectionPath, Device, Json, add, compact, remove, verify
from udq.errors import InputError, UdqError

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.types import Example

app = typer.Typer(
    name="udq",
    help="Object instance search: draw a box round an object, get every photo that shows that very object.",
    epilog="Begin with: udq demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(datasets_app, name="datasets")
app.command(epilog="Example: udq reproduce table2 --data photos/ --limit 2")(reproduce)
app.command(epilog="Example: udq add photos.udq more/")(add)
app.command(epilog="Example: udq remove photos.udq 'old/*'")(remove)
app.command(epilog="Example: udq compact photos.udq")(compact)
app.command(epilog="Example: udq verify photos.udq --repair")(verify)
app.command(epilog="Example: udq serve photos.udq --open")(serve)

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


@app.command(epilog="Example: udq index photos/ -o photos.udq")
def index(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES", help="Photos, folders, tar files, and URLs of folders such as s3://bucket/photos."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="COLLECTION", help="The collection to make.")],
    preset: Preset = "default",
    config_file: ConfigFile = None,
    backbone: Backbone = None,
    weights: Weights = None,
    proposals: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Region proposer: {', '.join(proposers.REGISTRY)}.")
    ] = None,
    rpn: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Region proposal network that 'udq train-rpn' made.")
    ] = None,
    regions: Annotated[
        int | None, typer.Option(metavar="T", help="Regions that a region proposal network keeps of a photo.")
    ] = None,
    subspaces: Subspaces = None,
    codewords: Codewords = None,
    seed: Seed = None,
    iterations: Iterations = None,
    refine: Refine = None,
    weight: Weight = None,
    end_to_end: EndToEnd = None,
    ground_truth: Watched = None,
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Codes of the pretrained features, without training.")
    ] = False,
    device: Device = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Have workers of a Ray cluster look at photos: local, auto or HOST:PORT (docs/scaling.md).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a collection from photos: propose regions, describe them, train on them, encode."""
    settings = _settings(
        config.preset(preset),
        config_file,
        features={"backbone": backbone, "proposals": proposals, "regions": regions},
        sample={"seed": seed},
        quantizer={"subspaces": subspaces, "codewords": codewords},
        training={
            "iterations": iterations,
            "refine": refine,
            "weight": weight,
            "end_to_end": end_to_end,
            "enabled": False if no_train else None,
        },
    )
    from udq.collection import Collection

    truth = _truth(ground_truth)
    with timed() as elapsed, _resumable(output):
        built = Collection.build(
            images,
            output,
            config=settings,
            weights=weights,
            rpn=rpn,
            device=device,
            ray=ray,
            truth=truth,
            progress=progress,
        )
    printing.print_built(built, elapsed(), as_json=as_json)


@app.command(epilog="Example: udq retrain photos.udq --iterations 2")
def retrain(
    collection: CollectionPath,
    config_file: ConfigFile = None,
    subspaces: Subspaces = None,
    codewords: Codewords = None,
    seed: Seed = None,
    iterations: Iterations = None,
    refine: Refine = None,
    weight: Weight = None,
    end_to_end: EndToEnd = None,
    ground_truth: Watched = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a collection anew on its photos as they are now, with other settings where given, and encode it anew.

    Until the last step the collection stays as it was, and can be searched.
    """
    from udq.collection import Collection

    settings = _settings(
        Collection.open(collection).config.replace({"training": {"enabled": True}}),
        config_file,
        sample={"seed": seed},
        quantizer={"subspaces": subspaces, "codewords": codewords},
        training={"iterations": iterations, "refine": refine, "weight": weight, "end_to_end": end_to_end},
    )
    truth = _truth(ground_truth)
    with timed() as elapsed, _resumable(collection):
        trained = Collection.retrain(collection, config=settings, device=device, truth=truth, progress=progress)
    printing.print_built(trained, elapsed(), as_json=as_json)


Rerank = Annotated[
    str,
    typer.Option(
        metavar="STAGES",
        help="Rank again by what the first photos show: average-qe or alpha-qe (query expansion), diffusion, verify "
        "(by local features); several, with commas between them, one after another.",
    ),
]


@app.command(epilog="Example: udq search photos.udq query.jpg --box 120,80,340,300 --rerank alpha-qe,diffusion")
def search(
    collection: CollectionPath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query photo, in the collection or not.")],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2",
            help="The object in it, in pixels: left, top, right, bottom. Default: all of it.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO:X1,Y1,X2,Y2",
            help="One more box of the same object, in this photo or another; may be repeated.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Photos wanted.")] = 20,
    rerank: Rerank = "",
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.jpg", help="Write a picture of the query and the matches.")
    ] = None,
    lines: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.jpg", help="With --rerank verify: draw lines between the points of query and match that agree."
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the photos that show the object in a box, best first, with its position."""
    stages = _parse_stages(rerank)
    if lines is not None and "verify" not in stages:
        raise InputError("--lines: expected --rerank verify, which finds the points; add it or leave --lines out")
    with _uncollected(), _by_torch():
        from udq.collection import Collection
        from udq.types import Example

        if picture is not None or lines is not None:
            from udq import picture as pictures

            for file in filter(None, (picture, lines)):
                pictures.file_format(file)
        opened = Collection.open(collection, device=device)
        examples = [Example(image, None if box is None else _parse_box(box)), *map(_parse_example, also or ())]
        result = opened.search_examples(examples, k=k, rerank=stages)
    if picture is not None:
        from udq import report

        pictures.save(report.search_sheet(opened, result), picture)
    drawn = None
    if lines is not None:
        from udq import match_picture

        held = {image.id: image.path for image in opened.images}
        drawn = match_picture.sheet(result, [held[match.id] for match in result.matches if match.id is not None])
        if drawn is not None:
            pictures.save(drawn, lines)
    if as_json:
        printing.print_json(result.to_json())
        return
    points = f"{'points':>6}  " if "verify" in result.rerank else ""
    print(f"{'rank':>4}  {'score':>7}  {'sure':>5}  {points}{'x1,y1,x2,y2':<21}  photo")
    for match in result.matches:
        place = ",".join(f"{side:.0f}" for side in match.box)
        seen = f"{match.verified.inliers if match.verified else '-':>6}  " if points else ""
        sure = math.floor(100 * (match.confidence or 0))  # 100 % is the query's own photo
        printing.say(f"{match.rank:>4}  {match.score:>7.4f}  {sure:>3} %  {seen}{place:<21}  {match.image}")
    if not result.found:
        print(f"nothing found for sure: no match is {result.threshold:.0%} sure, and the object may not be there")
    print(f"{len(opened):,} photos ranked in {result.elapsed_ms['total']:.0f} ms "
          f"(encoding the query {result.elapsed_ms['encode']:.0f}, scan {result.elapsed_ms['scan']:.1f}"
          + (f", {', '.join(result.rerank)} {result.elapsed_ms['rerank']:.0f})" if result.rerank else ")"))  # fmt: skip
    if picture is not None:
        printing.say(f"picture: {picture}")
    if lines is not None:
        printing.say("lines: none drawn, as no match was verified" if drawn is None else f"lines: {lines}")


@app.command(epilog="Example: udq evaluate photos.udq --ground-truth truth.csv --report errors.html")
def evaluate(
    collection: CollectionPath,
    ground_truth: Annotated[Path, typer.Option(metavar="PATH", help="The benchmark's answers.")],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Layout of the ground truth: boxes (a CSV), oxford5k, paris6k, roxford5k, rparis6k or instre.",
        ),
    ] = "boxes",
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Query photos that are not in the collection. Default: beside the ground truth."
        ),
    ] = None,
    keep_query: Annotated[
        bool,
        typer.Option("--keep-query", help="Keep a query's own photo in its ranking; oxford5k and paris6k always do."),
    ] = False,
    real_valued: Annotated[
        bool,
        typer.Option(
            "--real-valued",
            help="Rank by features before quantization too. Extracts those of all photos, which takes as long as "
            "indexing them.",
        ),
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --real-valued: keep the features in FOLDER, about 0.5 MB a photo, and take them from there next "
            "time.",
        ),
    ] = None,
    rerank: Rerank = "",
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.jpg", help="Write a sheet of the best and worst queries.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Write a page that shows what went wrong, in one file.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a collection against a benchmark: mean average precision, and how well the boxes sit."""
    from udq import datasets, error_report
    from udq import evaluate as evaluation
    from udq import picture as pictures
    from udq.collection import Collection

    if picture is not None:
        pictures.file_format(picture)
    if report is not None:
        error_report.check(report)
    if features is not None and not real_valued:
        raise InputError(f"--features {features}: kept features are used by --real-valued alone; add it")
    opened = Collection.open(collection, device=device)
    done = evaluation.evaluate(
        opened,
        datasets.load(dataset, ground_truth),
        keep_query=keep_query,
        queries=queries,
        real_valued=real_valued,
        features=features,
        stages=_parse_stages(rerank),
        progress=progress,
    )
    if picture is not None:
        from udq.report import evaluation_sheet

        pictures.save(evaluation_sheet(opened, done), picture)
    size = 0 if report is None else error_report.write(opened, done, report, progress=progress)
    printing.print_evaluation(done.report, as_json=as_json)
    if as_json:
        return
    if picture is not None:
        printing.say(f"picture: {picture}")
    if report is not None:
        printing.say(f"report: {report}, {size / 1e6:.1f} MB")


@app.command("train-rpn", epilog="Example: udq train-rpn VOCdevkit/VOC2007 -o rpn.npz")
def train_rpn(
    labels: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS",
            help="Photos with boxes: folders in the layout of VOC or YOLO, COCO's JSON, or a CSV of image,x1,y1,x2,y2.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The network to make.")],
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the photos of JSON and CSV are. Default: beside them.")
    ] = None,
    preset: Preset = "default",
    config_file: ConfigFile = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Annotated[
        int, typer.Option(metavar="N", help="Times every view of every photo is learned from.")
    ] = config.ProposalTraining.epochs,
    views: Annotated[
        int, typer.Option(metavar="N", help="Of each photo: itself and flipped, cropped and scaled ones.")
    ] = config.ProposalTraining.views,
    held_out: Annotated[
        float, typer.Option(metavar="X", help="Share of the photos that recall is measured on, 0..1.")
    ] = config.ProposalTraining.held_out,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of everything drawn at random.")
    ] = config.ProposalTraining.seed,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a region proposal network on boxes, for 'udq index --rpn FILE'.

    The backbone stays as it is. Killed or interrupted, the same command goes on.
    """
    from udq.datasets import detection

    settings = _settings(config.preset(preset), config_file, features={"backbone": backbone})
    training = config.ProposalTraining(epochs=epochs, views=views, held_out=held_out, seed=seed)
    labelled = detection.load_all(labels, images=images)
    # Before the long work, so that labels that were skipped are no surprise after it.
    printing.say(labelled.summary(), to=sys.stderr)
    from udq import train_rpn as trainer

    with timed() as elapsed, _resumable(output):
        card = trainer.train(
            labelled,
            output,
            image=settings.images,
            feature=settings.features,
            settings=training,
            weights=weights,
            device=device,
            progress=progress,
        )
    if as_json:
        printing.print_json({"file": str(output), "elapsed_s": elapsed(), **card})
        return
    printing.print_recall(card)
    printing.say(f"{output}: written in {elapsed():.0f} s; use it with: udq index PHOTOS -o COLLECTION "
                 f"--backbone {card['backbone']} --rpn {output}")  # fmt: skip


@app.command(epilog="Example: udq info photos.udq --picture training.png")
def info(
    collection: CollectionPath,
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw its training curves: .png, .jpg, .pdf or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a collection holds and what it was built with."""
    from udq.collection import Collection

    if picture is not None:
        from udq import curves  # imports matplotlib

        curves.file_format(picture)
    opened = Collection.open(collection)
    facts = opened.info()
    if picture is not None:
        curves.save(curves.figure(facts["training"], collection.resolve().name), picture)
    if as_json:
        printing.print_json(facts)
        return
    printing.print_info(facts)
    for entry in facts["broken"]:
        printing.say(f"{'not indexed':<12}  {entry['reason']}")
    if picture is not None:
        printing.say(f"picture: {picture}")


@app.command(epilog="Example: udq demo -o udq-demo")
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where photos and results go.")
    ] = Path("udq-demo"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show the whole story on photos that installed packages bring: build, search, measure, look."""
    from udq.demo import story

    facts = story.tell(output, device=device, progress=progress)
    if as_json:
        printing.print_json(facts)
        return
    print(f"mAP of {facts['queries']} queries, {facts['bytes_per_region']:g}-byte codes: {facts['mAP']:.3f}"
          f"  (real-valued features: {facts['real_valued']['mAP']:.3f})")  # fmt: skip
    first_page = facts["localisation"]["top_20"]
    print(f"reported boxes, first 20 photos: mean IoU {first_page['mean_iou']:.3f}, "
          f"{first_page['share_iou_50']:.0%} at 0.5 or better")  # fmt: skip
    for name, path in facts["written"].items():
        printing.say(f"{name + ':':<12} {path}")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"udq {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code (0 done, 1 failed, 2 usage)."""
    signal.signal(signal.SIGINT, _interrupt)
    # Python would go through all objects once more before the process ends, which takes half a second after torch.
    atexit.register(gc.freeze)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal has no letters for
    try:
        code = app(prog_name="udq", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except typer.TyperException as error:
        _fail(_usage(error), 2)
    except UdqError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was left half-written", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (| head). Point stdout nowhere, so that Python's last flush is quiet too.
        sys.stdout = None  # type: ignore[assignment]
        code = 0
    except MemoryError:
        _fail("out of memory; use --preset fast, or smaller photos", 1)
    except OSError as error:
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}", 1)
    sys.exit(code or 0)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: imports make objects by the million and none of it, and looking takes a while."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _by_torch() -> Iterator[None]:
    """See photos by torch meanwhile: a single query is answered before OpenVINO has compiled the network."""
    chosen = os.environ.get("UDQ_NETWORK")
    os.environ["UDQ_NETWORK"] = chosen or "torch"
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["UDQ_NETWORK"]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and remember: code that was called from C may swallow it (see ``bar``)."""
    interrupts.append(number)
    signal.default_int_handler(number, frame)


def _fail(message: str, code: int) -> NoReturn:
    printing.say(f"udq: {message}", to=sys.stderr)
    sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    """Return one line of what is wrong with the command line."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    helped = f"; see {context.command_path} --help" if context else ""
    return " ".join(message.split()).rstrip(".") + helped


def _resumable(path: Path) -> AbstractContextManager[None]:
    """Let Ctrl-C say where the work on a path stands."""
    from udq.durable import partial_folder

    def said() -> str | None:
        left = partial_folder(path)
        return f"the same command goes on from here, or delete {left} to give up" if left.exists() else None

    return resumable(said)


def _truth(path: Path | None) -> GroundTruth | None:
    from udq import datasets

    return None if path is None else datasets.load("boxes", path)


def _settings(base: config.IndexConfig, file: Path | None, **stages: dict[str, object]) -> config.IndexConfig:
    """Return settings with the file's changes and then those of the options that were given."""
    if file is not None:
        base = config.IndexConfig.from_toml(file, base)
    given = {
        stage: {name: value for name, value in options.items() if value is not None}
        for stage, options in stages.items()
    }
    return base.replace(given)


def _parse_example(text: str) -> Example:
    """Return ``PHOTO:X1,Y1,X2,Y2``, or a photo alone, as an example; a photo's own name may hold colons."""
    from udq.types import Example

    photo, colon, box = text.rpartition(":")
    if not colon or not photo or Path(text).exists():
        return Example(text)
    return Example(photo, _parse_box(box, "--also"))


def _parse_stages(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text.strip() else []


def _parse_box(text: str, option: str = "--box") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option} {' '.join(text.split())}: expected four numbers X1,Y1,X2,Y2, such as 120,80,340,300"
        ) from None
