"""Fit the codebook of local features that udq ships.

    python benchmarks/decisions/keypoint_codebook.py DATA/instre_dev DATA/landmarks \
        -o src/udq/keypoints/weights/sift.npz

PHOTOS are folders; local features are extracted from every photo as ``udq index`` does, and a sample of them, evenly
spread over all photos, is what both quantizers are fitted to. Writes FILE, and beside it what it was made of.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common.provenance import provenance
from udq.common.threads import count, one_core_each
from udq.config import KeypointConfig
from udq.keypoints import extraction
from udq.keypoints.codebook import Codebook
from udq.photos.sandbox import Decoder
from udq.photos.source import find

# Descriptors that the codebook is fitted to.
SAMPLE = 65_536

CARD = """# Codebook of local features

Two product quantizers of RootSIFT descriptors: 16 bytes that stand for a descriptor, and 2 bytes that name its cell in
an inverted multi-index. No labels were used.

- **Fitted to** {sample:,} of the {all:,} descriptors of {photos:,} photos in {folders}.
- **Made by** `{command}` at commit {commit}, {date}, {versions}.
- **Mean squared error** of the 16 bytes: {error:.3f}; descriptors have unit length.
"""


def descriptors(folders: list[Path]) -> list[NDArray[np.float32]]:
    """Return the descriptors (n, 128) of each photo."""
    with Decoder() as decoder, one_core_each(), ThreadPoolExecutor(count()) as pool:

        def extract(path: Path) -> NDArray[np.float32]:
            return extraction.extract(path, decoder, KeypointConfig().most).descriptors

        return list(pool.map(extract, [source.path for source in find(folders)[0]]))


def main() -> None:
    """Write the codebook and its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTOS")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    each = descriptors(given.photos)
    every = np.concatenate(each)
    sample = every[np.arange(min(SAMPLE, len(every))) * len(every) // min(SAMPLE, len(every))]
    codebook = Codebook.fit(sample)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_bytes(codebook.to_bytes())
    from udq.types import Features

    features = Features(sample)
    facts = provenance(seed=0)
    card = CARD.format(
        sample=len(sample), all=len(every), photos=len(each), folders=", ".join(path.name for path in given.photos),
        command="python benchmarks/decisions/" + str(facts["command"]), commit=facts["commit"], date=facts["date"][:10],
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        error=float(codebook.codes.errors(features, codebook.codes.encode(features)).mean()),
    )  # fmt: skip
    given.output.with_suffix(".md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
