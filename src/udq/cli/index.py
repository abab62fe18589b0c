"""``udq index``, ``retrain``, ``train-rpn`` and ``info``: parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from udq import config
from udq.cli import printing
from udq.cli.options import (
    Backbone,
    Codewords,
    CollectionPath,
    ConfigFile,
    Device,
    EndToEnd,
    Exclude,
    GroundTruthFile,
    Iterations,
    Json,
    MaxMegapixels,
    Neighbours,
    Preset,
    Refine,
    Seed,
    Smallest,
    Subspaces,
    Threads,
    Weight,
    Weights,
    parse_percent,
    read_truth,
    resumable_on,
    settings_of,
)
from udq.cli.progress_bar import progress, timed
from udq.common.files import check_output
from udq.features import proposals as proposers

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES", help="Photos, folders, tar files, and URLs of folders such as s3://bucket/photos."
    ),
]
NewCollection = Annotated[Path, typer.Option("-o", "--output", metavar="COLLECTION", help="The collection to make.")]
Proposals = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"Region proposer: {', '.join(proposers.REGISTRY)}.")
]
RpnFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Region proposal network that 'udq train-rpn' made.")
]
Regions = Annotated[
    int | None,
    typer.Option(metavar="T", help="Regions that a region proposal network keeps of one view; finer views keep more."),
]
Keypoints = Annotated[
    int | None,
    typer.Option(metavar="N", help="Local features of a photo, 24 bytes each, that verify matches; 0 for none."),
]
NoTrain = Annotated[bool, typer.Option("--no-train", help="Quantize the pretrained features, without training.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Extract features on the workers of a Ray cluster: local, auto or HOST:PORT (docs/scaling.md).",
    ),
]
Labels = Annotated[
    list[Path],
    typer.Argument(
        metavar="LABELS",
        help="Photos with boxes: folders in the layout of VOC or YOLO, COCO's JSON, or a CSV of image,x1,y1,x2,y2.",
    ),
]
NetworkFile = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The network to make.")]
LabelledPhotos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The photos of a JSON or CSV file. Default: its own folder.")
]
Epochs = Annotated[int, typer.Option(metavar="N", help="Epochs over all views of all photos.")]
Views = Annotated[
    int, typer.Option(metavar="N", help="Views per photo: the photo itself, then flipped, cropped and scaled ones.")
]
HeldOut = Annotated[float, typer.Option(metavar="X", help="Share of the photos that measure recall, 0..1.")]
TrainingSeed = Annotated[int, typer.Option(metavar="N", help="Seed of the random numbers.")]
_RPN = config.ProposalTraining


def index(
    images: Images,
    output: NewCollection,
    preset: Preset = "default",
    config_file: ConfigFile = None,
    backbone: Backbone = None,
    weights: Weights = None,
    max_megapixels: MaxMegapixels = None,
    proposals: Proposals = None,
    rpn: RpnFile = None,
    smallest: Smallest = None,
    regions: Regions = None,
    keypoints: Keypoints = None,
    subspaces: Subspaces = None,
    codewords: Codewords = None,
    seed: Seed = None,
    iterations: Iterations = None,
    refine: Refine = None,
    neighbours: Neighbours = None,
    weight: Weight = None,
    end_to_end: EndToEnd = None,
    ground_truth: GroundTruthFile = None,
    no_train: NoTrain = False,
    exclude: Exclude = None,
    device: Device = "auto",
    threads: Threads = None,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Build a collection from photos: propose regions, extract features, train, encode.

    If the command is killed or interrupted, run it again to continue.
    """
    enabled = False if no_train else None
    settings = settings_of(
        config.preset(preset),
        config_file,
        images={"smallest": parse_percent(smallest), "max_megapixels": max_megapixels},
        features={"backbone": backbone, "proposals": proposals, "regions": regions},
        keypoints={"most": keypoints},
        sample={"seed": seed},
        quantizer={"subspaces": subspaces, "codewords": codewords},
        training=_training(iterations, refine, neighbours, weight, end_to_end) | {"enabled": enabled},
    )
    from udq.collection import Collection

    truth = read_truth(ground_truth)
    with timed() as elapsed, resumable_on(output):
        built = Collection.build(
            images,
            output,
            config=settings,
            weights=weights,
            rpn=rpn,
            device=device,
            threads=threads,
            ray=ray,
            truth=truth,
            exclude=exclude or (),
            progress=progress,
        )
    printing.print_built(built, elapsed(), as_json=as_json)


def retrain(
    collection: CollectionPath,
    config_file: ConfigFile = None,
    smallest: Smallest = None,
    max_megapixels: MaxMegapixels = None,
    keypoints: Keypoints = None,
    subspaces: Subspaces = None,
    codewords: Codewords = None,
    seed: Seed = None,
    iterations: Iterations = None,
    refine: Refine = None,
    neighbours: Neighbours = None,
    weight: Weight = None,
    end_to_end: EndToEnd = None,
    ground_truth: GroundTruthFile = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Retrain a collection on its current photos, with other settings if given, and encode all of them again.

    The collection stays searchable, and unchanged until the last step. If the command is killed or interrupted, run
    it again to continue.
    """
    from udq.collection import Collection

    settings = settings_of(
        Collection.open(collection).config.replace({"training": {"enabled": True}}),
        config_file,
        images={"smallest": parse_percent(smallest), "max_megapixels": max_megapixels},
        keypoints={"most": keypoints},
        sample={"seed": seed},
        quantizer={"subspaces": subspaces, "codewords": codewords},
        training=_training(iterations, refine, neighbours, weight, end_to_end),
    )
    truth = read_truth(ground_truth)
    with timed() as elapsed, resumable_on(collection):
        trained = Collection.retrain(
            collection, config=settings, device=device, threads=threads, truth=truth, progress=progress
        )
    printing.print_built(trained, elapsed(), as_json=as_json)


def _training(
    iterations: int | None, refine: str | None, neighbours: int | None, weight: float | None, end_to_end: bool | None
) -> dict[str, object]:
    """Return the settings of training that options change."""
    return {
        "iterations": iterations,
        "refine": refine,
        "neighbours": neighbours,
        "weight": weight,
        "end_to_end": end_to_end,
    }


def train_rpn(
    labels: Labels,
    output: NetworkFile,
    images: LabelledPhotos = None,
    preset: Preset = "default",
    config_file: ConfigFile = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = _RPN.epochs,
    views: Views = _RPN.views,
    held_out: HeldOut = _RPN.held_out,
    seed: TrainingSeed = _RPN.seed,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a region proposal network on labelled boxes, for 'udq index --rpn FILE'; the backbone is not changed.

    If the command is killed or interrupted, run it again to continue.
    """
    from udq.datasets import detection

    settings = settings_of(config.preset(preset), config_file, features={"backbone": backbone})
    training = config.ProposalTraining(epochs=epochs, views=views, held_out=held_out, seed=seed)
    labelled = detection.load_all(labels, images=images)
    # Before the long work: skipped labels should be known before hours of training.
    for line in (labelled.summary(), *(f"  {line}" for line in labelled.fault_lines())):
        printing.say(line, to=sys.stderr)
    from udq.training.rpn import training as rpn_training

    with timed() as elapsed, resumable_on(output):
        card = rpn_training.train(
            labelled,
            output,
            image=settings.images,
            feature=settings.features,
            settings=training,
            weights=weights,
            device=device,
            threads=threads,
            progress=progress,
        )
    if as_json:
        printing.print_json({"file": str(output), "elapsed_s": elapsed(), "labels": labelled.to_json(), **card})
        return
    printing.print_recall(card)
    printing.say(f"{output}: written in {elapsed():.0f} s; use it with: udq index PHOTOS -o COLLECTION "
                 f"--backbone {card['backbone']} --rpn {output}")  # fmt: skip


def info(
    collection: CollectionPath,
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Plot the training curves: .png, .jpg, .pdf or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what a collection contains and the settings that it was built with."""
    from udq.collection import Collection

    if picture is not None:
        from udq.reports import curves  # imports matplotlib

        curves.file_format(picture)
    opened = Collection.open(collection)
    facts = opened.info()
    if picture is not None:
        check_output(picture, (image.path for image in opened.images))
        curves.save(curves.figure(facts["training"], collection.resolve().name), picture)
    if as_json:
        printing.print_json(facts)
        return
    printing.print_info(facts)
    for entry in facts["broken"]:
        printing.say(f"{'unreadable':<12}  {entry['reason']}")
    if picture is not None:
        printing.say(f"picture: {picture}")
