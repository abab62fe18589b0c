"""``udq index``, ``retrain``, ``train-rpn`` and ``info``: parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from udq import config
from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Json
from udq.cli.progress_bar import progress, timed
from udq.features import proposals as proposers

if TYPE_CHECKING:
    pass
from udq.cli.options import (
    Backbone,
    Codewords,
    ConfigFile,
    EndToEnd,
    Iterations,
    Preset,
    Refine,
    Seed,
    Subspaces,
    Watched,
    Weight,
    Weights,
    read_truth,
    resumable_on,
    settings_of,
)


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
    settings = settings_of(
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

    truth = read_truth(ground_truth)
    with timed() as elapsed, resumable_on(output):
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

    settings = settings_of(
        Collection.open(collection).config.replace({"training": {"enabled": True}}),
        config_file,
        sample={"seed": seed},
        quantizer={"subspaces": subspaces, "codewords": codewords},
        training={"iterations": iterations, "refine": refine, "weight": weight, "end_to_end": end_to_end},
    )
    truth = read_truth(ground_truth)
    with timed() as elapsed, resumable_on(collection):
        trained = Collection.retrain(collection, config=settings, device=device, truth=truth, progress=progress)
    printing.print_built(trained, elapsed(), as_json=as_json)


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

    settings = settings_of(config.preset(preset), config_file, features={"backbone": backbone})
    training = config.ProposalTraining(epochs=epochs, views=views, held_out=held_out, seed=seed)
    labelled = detection.load_all(labels, images=images)
    # Before the long work, so that labels that were skipped are no surprise after it.
    printing.say(labelled.summary(), to=sys.stderr)
    from udq.training import rpn_training as trainer

    with timed() as elapsed, resumable_on(output):
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
        from udq.reports import curves  # imports matplotlib

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
