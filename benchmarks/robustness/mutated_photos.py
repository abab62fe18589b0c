"""What the decoding of photos makes of thousands of damaged and hostile files: none may be lost, nothing may crash.

    python benchmarks/robustness/mutated_photos.py [--count 5000] [--seed 0] [--largest] [--megapixels 150] [--json OUT]

Photos that scikit-image ships are written in every format that udq reads, mutated and given to the extractor of
`udq index` at a small scale. A file is decoded or listed as broken with a reason; what crashes its decoder or takes too
long is listed too, and counted apart. Files that are neither are lost, which must not happen.

`--largest` decodes a whole photo of 150 megapixels (`--megapixels`) of every kind too, each in a process of its own,
and says what memory and time it takes: the limits of `udq.photos.sandbox` and `udq.photos.sandbox_worker` are chosen
by it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from udq.common.provenance import provenance
from udq.config import MAX_MEGAPIXELS, FeatureConfig, ImageConfig
from udq.errors import ImageError
from udq.experiments.demo.cutouts import photo
from udq.features.extractor import Extractor
from udq.photos.decoding import MAX_SIDE
from udq.photos.sandbox import TIME_LIMIT, Decoder
from udq.photos.sandbox_worker import MEMORY
from udq.photos.source import MAX_BYTES, Source, find

SMALL = ImageConfig(shorter=64, longer=96)
SIDE = 200  # pixels of the photos that are mutated, so that a mutation hits what matters
GIANT = (65_535, 65_536, 100_000, 2**31 - 1, 12_247, 0, 1)
pillow_heif.register_heif_opener()  # to write HEIC
Mutation = Callable[[np.random.Generator, bytes, tuple[int, int]], bytes]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def originals() -> list[tuple[str, bytes, tuple[int, int]]]:
    """Return photos in every format: suffix, bytes, width and height."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110], exif[0x829A] = 6, "maker", "model " * 20, (1, 250)
    made = []
    for name in ("astronaut", "coffee", "chelsea"):
        rgb = photo(name).convert("RGB")
        rgb.thumbnail((SIDE, SIDE))
        alpha = rgb.copy()
        alpha.putalpha(rgb.convert("L"))
        deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
        frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
        files = [
            (".jpg", encoded(rgb, "JPEG", exif=exif)),
            (".jpeg", encoded(rgb, "JPEG", progressive=True, exif=exif, icc_profile=b"profile" * 50)),
            (".jpe", encoded(rgb.convert("CMYK"), "JPEG")),
            (".mpo", encoded(rgb, "MPO", **frames)),
            (".png", encoded(rgb, "PNG", exif=exif)),
            (".png", encoded(alpha, "PNG")),
            (".png", encoded(rgb.quantize(32), "PNG", transparency=3)),
            (".png", encoded(deep, "PNG")),
            (".webp", encoded(rgb, "WEBP", exif=exif)),
            (".webp", encoded(alpha, "WEBP", lossless=True)),
            (".webp", encoded(rgb, "WEBP", **frames)),
            (".gif", encoded(rgb, "GIF", **frames)),
            (".tif", encoded(rgb, "TIFF", exif=exif)),
            (".tif", encoded(deep, "TIFF", compression="tiff_lzw")),
            (".tiff", encoded(rgb, "TIFF", compression="tiff_adobe_deflate")),
            (".tiff", encoded(rgb, "TIFF", compression="jpeg")),
            (".tif", encoded(rgb.convert("1"), "TIFF", compression="group4")),
            (".tif", encoded(rgb.convert("F"), "TIFF")),
            (".bmp", encoded(rgb, "BMP")),
            (".bmp", encoded(rgb.quantize(16), "BMP")),
            (".ppm", encoded(rgb, "PPM")),
            (".pgm", encoded(rgb.convert("L"), "PPM")),
            (".pbm", encoded(rgb.convert("1"), "PPM")),
            (".jp2", encoded(rgb, "JPEG2000", quality_mode="rates", quality_layers=[20])),
            (".jp2", encoded(alpha, "JPEG2000")),
            (".avif", encoded(rgb, "AVIF", exif=exif)),
            (".avif", encoded(alpha, "AVIF")),
            (".heic", encoded(rgb, "HEIF", exif=exif, icc_profile=_profile())),
            (".hif", encoded(alpha, "HEIF")),
            (".jpg", encoded(rgb, "JPEG", icc_profile=_profile())),
            (".png", dark_colours(rgb)),
        ]
        made += [(suffix, data, rgb.size) for suffix, data in files]
    return made


def _profile() -> bytes:
    """Return a profile that exchanges red and blue, so that it has to be applied."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


def dark_colours(rgb: Image.Image) -> bytes:
    """Return a PNG of 16-bit colours that use 12 bits, whose lower bytes are decoded as well."""
    levels = np.asarray(rgb).astype(">u2") * 16
    rows = b"".join(b"\0" + row.tobytes() for row in levels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *rgb.size, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def truncated(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    return data[: rng.integers(len(data))]


def _flipped(rng: np.random.Generator, data: bytes, start: int, end: int, most: int) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(start, max(min(end, len(data)), start + 1), rng.integers(1, most + 1)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def bits_flipped(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    return _flipped(rng, data, 0, len(data), int(rng.choice([1, 8, 64, 512])))


def header_flipped(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    return _flipped(rng, data, 0, int(rng.choice([32, 128, 512])), int(rng.choice([1, 4, 16])))


def exif_flipped(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    start = max(data.find(mark) for mark in (b"Exif", b"eXIf", b"EXIF", b"II*\0", b"MM\0*"))
    start = start if start >= 0 else len(data) // 2
    return _flipped(rng, data, start, start + 200, 8)


def block_overwritten(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.choice([4, 64, 1024]))
    block = rng.bytes(length) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * length
    return (data[:start] + block + data[start + length :])[: len(data)]


def block_moved(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    a, b = sorted(int(place) for place in rng.integers(len(data), size=2))
    return data[:a] + data[b:] if rng.random() < 0.5 else data[:b] + data[a:]


def gigantic(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    """Write another width or height wherever the header says one, in every way that numbers are written."""
    head, rest = data[:4096], data[4096:]
    number, said = size[int(rng.integers(2))], int(rng.choice(GIANT))
    for form in ("<I", ">I", "<H", ">H"):
        top = 2 ** (8 * struct.calcsize(form)) - 1
        head = head.replace(struct.pack(form, number), struct.pack(form, min(said, top)))
    return head.replace(str(number).encode(), str(said).encode()) + rest


def concatenated(rng: np.random.Generator, data: bytes, size: tuple[int, int]) -> bytes:
    cut = int(rng.integers(len(data)))
    return data[:cut] + data + data[cut:] if rng.random() < 0.5 else data + data


MUTATIONS: dict[str, Mutation] = {
    "truncated": truncated,
    "bits flipped": bits_flipped,
    "header flipped": header_flipped,
    "EXIF flipped": exif_flipped,
    "block overwritten": block_overwritten,
    "block moved": block_moved,
    "gigantic size": gigantic,
    "concatenated": concatenated,
}


def _png(width: int, height: int, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), *chunks, (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _zeros(count: int) -> bytes:
    squeeze = zlib.compressobj(1)
    block = bytes(2**20)
    full, rest = divmod(count, len(block))
    return b"".join([*(squeeze.compress(block) for _ in range(full)), squeeze.compress(block[:rest]), squeeze.flush()])


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield files that are small and say, or unpack to, something large: suffix and bytes."""
    side = int((MAX_MEGAPIXELS * 10**6) ** 0.5)
    for bits, colour, row in (
        (1, 0, side // 8 + 1),
        (8, 0, side),
        (8, 2, 3 * side),
        (8, 6, 4 * side),
        (16, 0, 2 * side),
    ):
        yield ".png", _png(side, side, bits, colour, (b"IDAT", _zeros(side * (row + 1))))
    yield ".png", _png(10, 10, 8, 2, (b"IDAT", _zeros(2**30)))
    for chunk in (b"zTXt", b"iCCP"):
        yield ".png", _png(10, 10, 8, 0, (chunk, b"name\0\0" + _zeros(2**30)), (b"IDAT", _zeros(110)))
    yield ".png", _png(10, 10, 8, 0, (b"eXIf", b"II*\0" + os.urandom(2**24)), (b"IDAT", _zeros(110)))
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (MAX_SIDE + 1, 1), (0, 0)):
        yield ".png", _png(width, height, 8, 2, (b"IDAT", zlib.compress(b"")))
        yield ".gif", b"GIF89a" + struct.pack("<HH", width % 65_536, height % 65_536) + b"\x80\0\0" + bytes(6) + b";"
        yield ".ppm", f"P6 {width} {height} 255 ".encode() + bytes(100)
        yield ".bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 154, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    flat = Image.new("RGB", (side, side))
    yield ".tif", encoded(flat, "TIFF", compression="tiff_adobe_deflate")
    yield ".jpg", encoded(flat, "JPEG")
    yield ".gif", encoded(Image.new("P", (side, side)), "GIF")
    yield ".jpg", encoded(Image.new("RGB", (9, 9)), "JPEG", exif=b"Exif\0\0II*\0" + os.urandom(65_000))


def write_all(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write ``count`` files; return the kind of each by name, specials included."""
    rng = np.random.default_rng(seed)
    pool = originals()
    kinds: dict[str, str] = {}

    def put(kind: str, suffix: str, data: bytes, stem: str = "") -> None:
        name = f"{len(kinds):05d}{stem}{suffix}"
        (folder / name).write_bytes(data)
        kinds[name] = kind

    for suffix, data, _ in pool:
        put("whole", suffix, data)
    for suffix, data in bombs():
        put("bomb", suffix, data)
    for suffix, data, _ in pool:
        put("odd name", suffix, data, stem=os.fsdecode(rng.choice([b"caf\xe9", b"two\nlines", b"\x1b[2J", b"'\"\\"])))
    for data in (b"", b"hello", b"<html></html>", b"\0" * 5000, b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        for suffix in (".jpg", ".png", ".tif", ".webp", ".jp2", ".avif", ".heic"):
            put("no photo", suffix, data)
    _write_special(folder, kinds)
    names = list(MUTATIONS)
    while len(kinds) < count:
        suffix, data, size = pool[int(rng.integers(len(pool)))]
        kind = names[len(kinds) % len(names)]
        data = MUTATIONS[kind](rng, data, size)
        if rng.random() < 0.05:
            kind, suffix = "wrong suffix", pool[int(rng.integers(len(pool)))][0]
        put(kind, suffix, data)
    return kinds


def _write_special(folder: Path, kinds: dict[str, str]) -> None:
    os.mkfifo(folder / "fifo.jpg")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nowhere.jpg").symlink_to("not-there.jpg")
    (folder / "loop.tif").symlink_to("loop.tif")
    (folder / "folder.jpg").mkdir()
    before = Path.cwd()
    os.chdir(folder)  # the address of a socket must be short
    socket.socket(socket.AF_UNIX).bind("socket.gif")
    os.chdir(before)
    for name in ("fifo.jpg", "device.png", "nowhere.jpg", "loop.tif", "folder.jpg", "socket.gif"):
        kinds[name] = "special"


def outcome(broken: str | None) -> str:
    if broken is None:
        return "decoded"
    if "its decoder crashed" in broken:
        return "crashed its decoder"
    return "took too long" if "took longer than" in broken else "broken"


def fuzz(count: int, seed: int) -> dict[str, object]:
    """Return the outcomes, counted."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kinds = write_all(folder, count, seed)
        sources, passed_over = find([folder])
        sources.append(Source("folder.jpg", folder / "folder.jpg"))  # which find enters instead
        extractor = Extractor(SMALL, FeatureConfig(proposals="grid"), device="cpu").proposing()
        table: dict[str, Counter[str]] = defaultdict(Counter)
        reasons: Counter[str] = Counter()
        left = dict(kinds)
        raised = []
        started = time.perf_counter()
        try:
            for photo in extractor.extract(sources):
                kind = left.pop(photo.source.name)
                table[kind][outcome(photo.broken)] += 1
                if photo.broken is not None:
                    reasons[re.sub(r"\d+", "N", photo.broken.split(": ", 1)[1])] += 1
        except Exception as error:  # what must not happen is a figure too
            raised.append(f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - started
    total = sum(table.values(), Counter())
    return {
        "files": len(kinds),
        "decoded": total["decoded"],
        "listed as broken": total["broken"],
        "crashed their decoder (listed)": total["crashed its decoder"],
        "took too long (listed)": total["took too long"],
        "lost": len(left),
        "exceptions in the parent": len(raised),
        "raised": raised,
        "passed over": passed_over.other_files,
        "seconds": round(seconds, 1),
        "peak_mib_of_a_decoding_process": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "by_kind": {kind: dict(sorted(table[kind].items())) for kind in sorted(table)},
        "reasons": dict(reasons.most_common()),
    }


def largest_photos(folder: Path, megapixels: int) -> Iterator[tuple[str, Path]]:
    """Write one photo of that size after the other, in every kind that takes memory in its own way."""
    side = int((megapixels * 10**6) ** 0.5)
    tile = np.asarray(photo("chelsea").convert("RGB"))
    times = [-(-side // length) for length in tile.shape[:2]]
    rgb = Image.fromarray(np.tile(tile, (*times, 1))[:side, :side])
    exif = Image.Exif()
    exif[0x0112] = 6
    deflate, ultrafast = {"compression": "tiff_adobe_deflate"}, {"preset": "ultrafast"}
    heic = min(side, 11_900)

    def grey(kind: type) -> Image.Image:
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(kind) * 200)

    def alpha(mode: str) -> Image.Image:
        made = rgb.convert(mode)
        made.putalpha(rgb.convert("L"))
        return made

    kinds: list[tuple[str, str, Callable[[], Image.Image], dict[str, object]]] = [
        ("JPEG", "rgb.jpg", lambda: rgb, {}),
        ("JPEG", "progressive, turned.jpg", lambda: rgb, {"progressive": True, "exif": exif}),
        ("JPEG", "cmyk.jpg", lambda: rgb.convert("CMYK"), {}),
        ("PNG", "rgb, turned.png", lambda: rgb, {"compress_level": 1, "exif": exif}),
        ("PNG", "rgba.png", lambda: alpha("RGB"), {"compress_level": 1}),
        ("PNG", "la.png", lambda: alpha("L"), {"compress_level": 1}),
        ("PNG", "palette.png", lambda: rgb.convert("P"), {"compress_level": 1, "transparency": 3}),
        ("PNG", "16-bit.png", lambda: grey(np.uint16), {"compress_level": 1}),
        ("GIF", "palette.gif", lambda: rgb.convert("P"), {}),
        ("TIFF", "rgb.tif", lambda: rgb, {}),
        ("TIFF", "rgb, deflated strips.tif", lambda: rgb, deflate),
        ("TIFF", "rgba.tif", lambda: alpha("RGB"), deflate),
        ("TIFF", "cmyk.tif", lambda: rgb.convert("CMYK"), deflate),
        ("TIFF", "float, turned.tif", lambda: grey(np.float32), {**deflate, "exif": exif}),
        ("TIFF", "32-bit.tif", lambda: grey(np.int32), deflate),
        ("BMP", "rgb.bmp", lambda: rgb, {}),
        ("PPM", "rgb.ppm", lambda: rgb, {}),
        ("WEBP", "rgb.webp", lambda: rgb, {"method": 0, "quality": 20}),
        ("WEBP", "rgba.webp", lambda: alpha("RGB"), {"method": 0, "quality": 0, "lossless": True}),
        ("AVIF", "rgb.avif", lambda: rgb, {"speed": 10}),
        ("AVIF", "rgba.avif", lambda: alpha("RGB"), {"speed": 10}),
        # ``heic``: the encoder takes 142 megapixels at most.
        ("HEIF", "rgb.heic", lambda: rgb.crop((0, 0, heic, heic)), {"quality": 10, "enc_params": ultrafast}),
        ("JPEG", "profile.jpg", lambda: rgb, {"icc_profile": _profile()}),
        ("JPEG2000", "rgb.jp2", lambda: rgb, {"quality_mode": "rates", "quality_layers": [20]}),
    ]
    for kind, name, make, options in kinds:
        path = folder / name
        make().save(path, kind, **options)
        yield f"{kind}, {path.stem}", path
        path.unlink()
    write_tiles(folder / "rgb, deflated tiles.tif", rgb)
    yield "TIFF, rgb, deflated tiles", folder / "rgb, deflated tiles.tif"


def write_tiles(path: Path, rgb: Image.Image, side: int = 256) -> None:
    """Write a TIFF of deflated tiles, which Pillow does not write."""
    pixels = np.asarray(rgb)
    down, across = (-(-length // side) * side for length in pixels.shape[:2])
    padded = np.zeros((down, across, 3), np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    corners = [(top, left) for top in range(0, down, side) for left in range(0, across, side)]
    parts = [zlib.compress(padded[top : top + side, left : left + side].tobytes(), 1) for top, left in corners]
    sizes = [len(part) for part in parts]
    start = 8 + 2 + 12 * 10 + 4
    places = np.cumsum([start + 6 + 8 * len(parts), *sizes[:-1]]).tolist()
    entries = (
        *((256, 4, 1, rgb.width), (257, 4, 1, rgb.height), (258, 3, 3, start), (259, 3, 1, 8), (262, 3, 1, 2)),
        *((277, 3, 1, 3), (322, 3, 1, side), (323, 3, 1, side), (324, 4, len(parts), start + 6)),
        (325, 4, len(parts), start + 6 + 4 * len(parts)),
    )
    with path.open("wb") as file:
        file.write(struct.pack("<2sHIH", b"II", 42, 8, len(entries)))
        for entry in entries:
            file.write(struct.pack("<HHII", *entry))
        file.write(struct.pack(f"<I3H{2 * len(parts)}I", 0, 8, 8, 8, *places, *sizes))
        file.writelines(parts)


def largest(megapixels: int) -> list[dict[str, object]]:
    """Return memory and time of the largest photos."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, path in largest_photos(Path(scratch), megapixels):
            with Decoder(limit=max(megapixels, MAX_MEGAPIXELS)) as decoder:
                started = time.perf_counter()
                try:
                    decoder.decode(path, shorter=600, longer=1000)
                    reason = None
                except ImageError as error:
                    reason = str(error).split(": ", 1)[1]
                seconds = time.perf_counter() - started
                (process,) = decoder._all or [None]
                status = "" if process is None else Path(f"/proc/{process._process.pid}/status").read_text()
            peaks = {name: int(kib) // 1024 for name, kib in re.findall(r"(VmPeak|VmHWM):\s+(\d+) kB", status)}
            rows.append(
                {
                    "kind": kind,
                    "decoded": reason is None,
                    "reason": reason,
                    "seconds": round(seconds, 1),
                    "peak_mib": peaks.get("VmHWM"),
                    "peak_address_space_mib": peaks.get("VmPeak"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print figures; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--megapixels", type=int, default=MAX_MEGAPIXELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = fuzz(arguments.count, arguments.seed)
    if arguments.largest:
        facts["largest"] = largest(arguments.megapixels)
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value, indent=1) if isinstance(value, dict) else value}")
    limits = {"pixels": MAX_MEGAPIXELS * 10**6, "side": MAX_SIDE, "bytes": MAX_BYTES}
    limits |= {"memory": MEMORY, "seconds": TIME_LIMIT}
    if arguments.json:
        written = {**facts, "limits": limits, "provenance": provenance(seed=arguments.seed)}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
