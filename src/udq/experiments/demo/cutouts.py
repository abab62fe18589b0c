"""Sources of the demonstration: outlines of objects and plain pieces of photos that packages ship.

Outlines and pieces were drawn by hand; coordinates are pixels of the file as shipped. No piece of ``BACKDROPS`` shows
a part of an object of ``OBJECTS``, which would be missing from the ground truth.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from udq.errors import DependencyError


@dataclass(frozen=True)
class Cutout:
    """The outline of an object in a shipped photo.

    Attributes:
        photo: name of the photo, a key of ``PHOTOS``.
        outline: corners (x, y) in order; two corners are the bounding box of an ellipse.
        curved: whether to round the corners off; paper keeps them.
    """

    photo: str
    outline: tuple[tuple[float, float], ...]
    curved: bool = True


def _outline(text: str) -> tuple[tuple[float, float], ...]:
    """Read ``"x,y x,y"``."""
    return tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in text.split()))


_SKIMAGE = (
    "astronaut.png brick.png camera.png cell.png chelsea.png coffee.png coins.png color.png grass.png "
    "gravel.png horse.png hubble_deep_field.jpg ihc.png logo.png moon.png motorcycle_left.png "
    "motorcycle_right.png page.png retina.jpg rocket.jpg text.png"
)
_SKLEARN = "china.jpg flower.jpg"

# Name of each photo -> the package that ships it, and the path inside.
PHOTOS = {
    **{Path(file).stem: ("skimage", f"data/{file}") for file in _SKIMAGE.split()},
    **{Path(file).stem: ("sklearn", f"datasets/images/{file}") for file in _SKLEARN.split()},
}

OBJECTS = {
    "astronaut": Cutout("astronaut", _outline(
        "152,75 160,50 185,35 205,22 235,15 265,22 285,38 298,65 301,95 293,120 278,135 265,142 258,165 "
        "256,173 275,185 295,210 304,235 303,252 287,278 255,292 220,294 180,280 150,258 130,235 115,205 "
        "113,188 125,170 150,153 183,150 182,132 172,127 158,108"
    )),
    "cameraman": Cutout("camera", _outline(
        "205,64 230,72 256,87 268,110 266,133 322,139 324,154 330,177 332,195 317,218 307,220 307,246 "
        "300,248 302,276 287,292 251,312 205,294 179,338 143,382 92,390 41,369 10,328 3,287 3,256 31,215 "
        "51,169 72,138 97,128 133,120 154,105 161,107 169,87 190,72"
    )),
    "cat": Cutout("chelsea", _outline(
        "60,14 85,5 110,2 160,2 230,2 300,2 335,20 350,55 360,95 362,130 352,165 335,195 322,225 312,255 "
        "285,275 250,283 215,270 180,245 150,225 110,205 70,175 45,140 33,100 33,60 42,32"
    )),
    "coffee cup": Cutout("coffee", _outline(
        "78,210 85,165 105,125 140,90 172,72 180,66 200,44 230,26 270,18 310,19 350,32 380,52 397,74 400,70 "
        "410,66 424,72 422,85 417,104 440,122 465,160 478,200 479,235 470,270 450,310 415,345 375,370 "
        "330,384 280,388 230,380 180,358 140,330 110,300 90,260"
    )),
    "dahlia": Cutout("flower", _outline(
        "310,85 333,88 358,97 387,112 410,125 428,150 434,182 445,218 442,246 430,275 419,298 408,320 "
        "384,333 352,349 307,360 269,353 243,349 221,330 202,314 186,291 173,256 169,218 174,186 186,170 "
        "188,141 205,122 224,112 246,102 266,95 288,93"
    )),
    "motorcycle": Cutout("motorcycle_left", _outline(
        "90,204 137,200 141,159 159,148 174,159 215,172 245,167 267,189 296,194 348,189 393,159 363,169 "
        "385,145 404,127 333,141 333,122 378,111 437,126 459,141 471,122 504,107 519,96 500,33 516,14 "
        "511,52 519,81 545,96 534,104 539,122 563,137 574,115 582,133 563,145 559,178 548,200 574,256 "
        "615,274 643,304 667,333 682,378 680,415 660,445 630,452 593,437 556,400 526,363 511,326 506,326 "
        "508,304 526,289 511,222 482,219 471,245 478,282 474,311 452,356 422,379 371,378 337,371 348,404 "
        "326,436 326,378 296,356 282,348 259,385 222,399 185,396 148,371 126,333 121,296 130,259 148,241 "
        "111,245 93,222"
    )),
    "pagoda": Cutout("china", _outline(
        "205,29 216,35 218,58 240,86 266,99 282,106 320,118 317,128 298,138 298,157 330,172 328,182 320,192 "
        "321,227 328,230 330,242 352,253 351,259 341,269 342,301 351,307 349,320 371,330 384,336 333,374 "
        "320,371 307,384 256,390 214,378 198,362 157,355 128,333 74,342 74,326 83,314 80,282 62,272 70,253 "
        "93,246 96,230 102,221 99,189 83,182 86,168 122,157 118,138 96,131 96,112 122,99 154,90 179,74 "
        "192,58 194,35"
    )),
    "page": Cutout("page", _outline("2,2 382,2 382,189 2,189"), curved=False),
    "python logo": Cutout("logo", _outline("12,11 490,489")),
    "retina": Cutout("retina", _outline("20,20 1390,1390")),
    "shuttle": Cutout("astronaut", _outline(
        "401,1 427,1 436,20 438,42 445,38 452,55 455,110 455,200 456,234 457,262 471,278 440,289 400,291 "
        "368,284 366,274 372,250 380,228 355,224 355,212 372,192 377,125 380,60 386,40 393,52 397,28"
    )),
}  # fmt: skip

# Never queried: they fill photos without an object, and are placed beside objects.
DISTRACTORS = {
    "coin": Cutout("coins", _outline("305,16 364,72")),
    "colours": Cutout("color", _outline("6,6 365,364")),
    "crater": Cutout("moon", _outline("60,30 320,290")),
    "galaxies": Cutout("hubble_deep_field", _outline("250,150 850,750")),
    "helmet": Cutout("astronaut", _outline(
        "281,505 277,470 285,430 300,400 325,370 355,350 385,344 415,345 445,358 470,380 488,410 497,445 "
        "508,470 509,505 400,511"
    )),
    "horse": Cutout("horse", _outline("28,8 375,300")),
    "medal": Cutout("coins", _outline("316,156 379,218")),
    "rocket": Cutout("rocket", _outline("323,126 333,144 335,179 335,406 310,406 310,179 312,144")),
    "tissue": Cutout("ihc", _outline("10,20 330,300")),
}  # fmt: skip

# (photo, x1, y1, x2, y2): pieces for the background of objects.
BACKDROPS = (
    ("camera", 340, 0, 512, 290),
    ("cell", 0, 0, 550, 660),
    ("china", 385, 130, 640, 427),
    ("coffee", 487, 0, 600, 400),
    ("flower", 0, 0, 160, 427),
    ("flower", 455, 0, 640, 380),
    ("hubble_deep_field", 0, 0, 1000, 872),
    ("ihc", 0, 0, 512, 512),
    ("moon", 0, 0, 512, 512),
    ("motorcycle_left", 0, 0, 320, 118),
    ("motorcycle_left", 552, 0, 741, 120),
    ("rocket", 0, 0, 640, 427),
    ("rocket", 340, 0, 640, 427),
    ("text", 0, 0, 448, 172),
)
GROUNDS = (
    ("brick", 0, 0, 512, 512),
    ("grass", 0, 0, 512, 512),
    ("gravel", 0, 0, 512, 512),
    ("coffee", 487, 0, 600, 400),
)

# The second real view of an object: the motorcycle in the right photo of the stereo pair.
STEREO = ("motorcycle", "motorcycle_right", (47.0, 20.0, 628.0, 451.0))

_LARGEST_SIDE = 741


def find(name: str) -> Path:
    """Return the file of a shipped photo.

    Args:
        name: a key of ``PHOTOS``.

    Raises:
        DependencyError: the package that ships it is missing, or its version lacks the photo.
    """
    package, inside = PHOTOS[name]
    spec = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations if spec else None) or []
    for root in roots:
        if (path := Path(root) / inside).is_file():
            return path
    shipped_by = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    raise DependencyError(
        f"the demo needs the photo {Path(inside).name} that {shipped_by} ships; it was not found; "
        'run: pip install "udq[demo]"'
    )


def photo(name: str) -> Image.Image:
    """Return a shipped photo in L or RGB, on white, scaled down to a longest side of 741 pixels."""
    with Image.open(find(name)) as opened:
        picture = opened.copy() if opened.mode in ("L", "RGB") else _on_white(opened)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def cut(cutout: Cutout) -> Image.Image:
    """Return an object in RGBA, with the size of its photo, transparent outside a soft outline."""
    with Image.open(find(cutout.photo)) as opened:
        shipped = opened.size
    picture = photo(cutout.photo).convert("RGB")
    if cutout.photo == "horse":  # a silhouette: its own darkness is its outline
        mask = picture.convert("L").point(lambda value: 255 - value)
    else:
        mask = _mask(cutout, picture.size, picture.width / shipped[0])
    picture.putalpha(mask)
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _mask(cutout: Cutout, size: tuple[int, int], scale: float) -> Image.Image:
    """Return the filled outline in L, of ``size``; drawn four times larger for a smooth edge."""
    corners = [(4 * scale * x, 4 * scale * y) for x, y in cutout.outline]
    large = Image.new("L", (4 * size[0], 4 * size[1]))
    draw = ImageDraw.Draw(large)
    if len(corners) == 2:
        draw.ellipse((*corners[0], *corners[1]), fill=255)
    else:
        draw.polygon(_rounded(corners) if cutout.curved else corners, fill=255)
    mask = large.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.5))
    # Keep only the inner half of the blurred edge, so that no rim of the old background is left.
    return ImageChops.subtract(mask, Image.new("L", size, 127)).point(lambda value: 2 * value)


def _rounded(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Cut the corners twice (Chaikin), so that no straight edge reveals a cutout."""
    for _ in range(2):
        corners = [
            (u * a[0] + (1 - u) * b[0], u * a[1] + (1 - u) * b[1])
            for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
            for u in (0.75, 0.25)
        ]
    return corners
