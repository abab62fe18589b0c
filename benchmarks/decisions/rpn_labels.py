"""Write the boxes that the shipped region proposal network is trained on: those of no photo of the benchmark.

python benchmarks/decisions/rpn_labels.py DATA/instre_dev/object_boxes.csv DATA/instre_dev/ground_truth.csv boxes.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from udq import datasets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boxes", type=Path, help="CSV of image,x1,y1,x2,y2")
    parser.add_argument("ground_truth", type=Path, help="the benchmark whose photos are left out")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    queries = datasets.REGISTRY["boxes"](arguments.ground_truth).queries
    benchmark = {query.image for query in queries} | {name for query in queries for name in query.positives}
    with arguments.boxes.open(newline="") as file, arguments.output.open("w", newline="") as output:
        reader = csv.DictReader(file)
        writer = csv.DictWriter(output, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows(row for row in reader if row["image"] not in benchmark)


if __name__ == "__main__":
    main()
