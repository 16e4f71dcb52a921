"""Draws the embedded dataset `synthetic/summer2winter`: landscapes that need no download.

A scene is a list of polygons, each with the name of what it shows. Only the palette depends on the
season, so the two seasons of a scene differ only in color: the mapping between them is nearly local
and invertible, and its ground truth is known.
"""

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from tf_cyclegan.data.image_files import ImageSet

TRAIN = 400  # images of each season
TEST = 24
SEASONS = {"a": "summer", "b": "winter"}

# Colors at shade 0 and at shade 1. Different objects have different colors in each season, so that
# the mapping is invertible. From summer to winter some get lighter, some darker, and some only
# change hue, so that no single tone curve explains the season.
_COLORS = {
    #               summer               winter
    "sky":          ("#3f97e8 #c4ebfb", "#a3b3e2 #fde0d0"),
    "halo":         ("#a5dcf2 #a5dcf2", "#eee2e4 #eee2e4"),
    "sun":          ("#ffd84a #ffd84a", "#fff3d0 #fff3d0"),
    "cloud":        ("#f1f8fc #ffffff", "#a79fc4 #b8b0d0"),
    "far rock":     ("#7b96bd #8fa9cb", "#6f86b8 #8299c8"),
    "far peak":     ("#a6bad8 #bccce6", "#c9c2e6 #dcd5f2"),
    "near rock":    ("#75695f #978a79", "#4d547c #686f99"),
    "near peak":    ("#ab9f92 #cfc4b4", "#dccce2 #fff3f6"),
    "far hill":     ("#5c9a74 #72ad7c", "#aec4e4 #bed2ee"),
    "middle hill":  ("#6ba544 #84bc4c", "#c8d9f0 #d6e4f6"),
    "near hill":    ("#8ac24e #acd766", "#dbe7f8 #f1f7fe"),
    "shore":        ("#e3cd8f #e3cd8f", "#93a2b6 #93a2b6"),
    "lake":         ("#1c5fa8 #3d8fd0", "#83cbdd #a4dfe8"),
    "glint":        ("#7cbcea #7cbcea", "#cdf4f4 #cdf4f4"),
    "conifer":      ("#17573a #2a7548", "#23505c #356b74"),
    "conifer edge": ("#3d9157 #5aab66", "#cbe2e4 #deefee"),
    "crown":        ("#447f1f #6b9d2a", "#78626a #8d737a"),
    "crown edge":   ("#8db838 #bcd452", "#c6b5bb #d8cbd0"),
    "red top":      ("#d9604f #d9604f", "#f9e0de #f9e0de"),
    "blue top":     ("#6874d4 #6874d4", "#d9ddf7 #d9ddf7"),
    "orange top":   ("#f0a64c #f0a64c", "#fbecd2 #fbecd2"),
    "violet top":   ("#9a62b8 #9a62b8", "#ebd9f7 #ebd9f7"),
}  # fmt: skip

# Colors that a translation must not change.
_FIXED = {
    "red": "#c43c2e",
    "blue": "#424eb4",
    "orange": "#e08a2b",
    "violet": "#7a3f98",
    "cream wall": "#f4e6c8",
    "pink wall": "#eab9a0",
    "yellow wall": "#f0cf72",
    "gray wall": "#cfc8c2",
    "window": "#ffe9a0",
    "trunk": "#6b4a2f",
    "wood": "#6a3f2a",
    "brick": "#8f5a48",
}
_ROOFS = ("red", "blue", "orange", "violet")
_WALLS = ("cream wall", "pink wall", "yellow wall", "gray wall")

_PALETTES = {
    season: {
        name: [ImageColor.getrgb(color) for color in colors.split()]
        for name, colors in [
            *((name, pair[column]) for name, pair in _COLORS.items()),
            *((name, f"{color} {color}") for name, color in _FIXED.items()),
        ]
    }
    for column, season in enumerate(SEASONS.values())
}

# Name in the palette, shade in [0, 1], corners [n, 2] as (x, y). In a scene, x and y are in [0, 1]
# from the upper left. A single object stands on (0, 0) and is about 1 high; y points down.
_Shape = tuple[str, float, np.ndarray]

_TURN = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def _polygon(name: str, shade: float, *corners: tuple[float, float]) -> _Shape:
    return name, shade, np.array(corners)


def _box(name: str, left: float, top: float, right: float, bottom: float) -> _Shape:
    return _polygon(name, 0.0, (left, top), (right, top), (right, bottom), (left, bottom))


def _ellipse(name: str, shade: float, x: float, y: float, rx: float, ry: float) -> _Shape:
    return name, shade, _CIRCLE * (rx, ry) + (x, y)


def _cloud(rng: np.random.Generator) -> list[_Shape]:
    puffs = [(-0.9, 0.35), (-0.3, 0.55), (0.35, 0.7), (0.95, 0.4)]
    shade = rng.uniform(0, 1)
    shapes = [
        _ellipse("cloud", shade, x, -0.3, 0.6, size * rng.uniform(0.8, 1.2)) for x, size in puffs
    ]
    return [*shapes, _ellipse("cloud", shade, 0, 0, 1.6, 0.3)]


def _mountain(rng: np.random.Generator, name: str) -> list[_Shape]:
    """Draws a peak of height 1, lit from the left, with a cap of rock in summer, snow in winter."""
    lean, left, right = rng.uniform(-0.15, 0.15), -rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2)
    cap = rng.uniform(0.35, 0.5)
    fold = np.array((0, 0.6 * cap, cap, 0.75, 1))  # the edge between light and shade, top to bottom
    ridge = np.stack([lean + fold * rng.uniform(-0.25, 0.35, 5), fold - 1], axis=1)
    shapes = []
    for shade, foot in ((1.0, left), (0.0, right)):
        brim = (lean + (foot - lean) * cap, cap - 1)
        notch = (lean + (foot - lean) * cap * 0.45, cap * 0.75 - 1)
        shapes += [
            (f"{name} rock", shade, np.array([*ridge, (foot, 0)])),
            (f"{name} peak", shade, np.array([*ridge[:3], notch, brim])),
        ]
    return shapes


def _conifer(rng: np.random.Generator) -> list[_Shape]:
    shade, width = rng.uniform(0, 1), rng.uniform(0.2, 0.28)
    shapes = [_box("trunk", -0.04, -0.2, 0.04, 0)]
    for top, bottom, part in ((-0.6, -0.12, 1.0), (-0.8, -0.38, 0.8), (-1.0, -0.62, 0.6)):
        half = width * part
        shapes += [
            _polygon("conifer", shade, (0, top), (half, bottom), (-half, bottom)),
            _polygon("conifer edge", shade, (0, top), (-half, bottom), (-half / 3, bottom - 0.04)),
        ]
    return shapes


def _broadleaf(rng: np.random.Generator) -> list[_Shape]:
    shade, width = rng.uniform(0, 1), rng.uniform(0.24, 0.34)
    return [
        _box("trunk", -0.04, -0.45, 0.04, 0),
        _ellipse("crown", shade, -0.5 * width, -0.5, 0.75 * width, 0.2),
        _ellipse("crown", shade, 0.5 * width, -0.5, 0.75 * width, 0.22),
        _ellipse("crown", shade, 0, -0.68, 0.9 * width, 0.32),
        _ellipse("crown edge", shade, -0.75 * width, -0.52, 0.38 * width, 0.1),
        _ellipse("crown edge", shade, -0.2 * width, -0.74, 0.6 * width, 0.2),
    ]


def _house(rng: np.random.Generator, roof: str) -> list[_Shape]:
    wall = rng.choice(_WALLS)
    shapes = [
        _box("brick", 0.3, -1.12, 0.45, -0.8),
        _box(wall, -0.7, -0.5, 0.7, 0),
        _polygon(wall, 0, (-0.7, -0.5), (-0.4, -0.95), (-0.05, -0.5)),
        _polygon(roof, 0, (-0.4, -1), (0.55, -1), (0.8, -0.42), (-0.02, -0.42)),
        _polygon(f"{roof} top", 0, (-0.4, -1), (0.55, -1), (0.67, -0.72), (0.3, -0.68),
                 (0.05, -0.75), (-0.2, -0.7)),
        _polygon(roof, 0, (-0.4, -1), (-0.34, -0.9), (-0.74, -0.36), (-0.82, -0.42)),
        _box("wood", -0.48, -0.32, -0.28, 0),
        _box("window", -0.48, -0.65, -0.3, -0.48),
        _box("window", 0.1, -0.32, 0.28, -0.12),
        _box("window", 0.42, -0.32, 0.6, -0.12),
    ]  # fmt: skip
    mirror = rng.choice((-1, 1))
    return [(name, shade, corners * (mirror, 1)) for name, shade, corners in shapes]


def _hill(rng: np.random.Generator, name: str, top: float) -> list[_Shape]:
    """Draws the ground from a wavy crest to the lower edge, in stripes that get lighter."""
    x = np.linspace(0, 1, 25)
    waves, phases = rng.uniform((0.5, 1.5), (1.2, 2.5)), rng.uniform(0, 2 * np.pi, 2)
    crest = np.sin(2 * np.pi * np.outer(x, waves) + phases) @ (0.03, 0.012)
    stripes = []
    for shade in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + crest * (1 - 0.5 * shade) + 0.18 * shade
        stripes.append((name, shade, np.stack([[*x, 1, 0], [*y, 1.01, 1.01]], axis=1)))
    return stripes


def _scene(rng: np.random.Generator, unit: np.ndarray) -> list[_Shape]:
    """Draws a scene from far to near.

    `unit` [2] is the shorter side as a fraction of (width, height): it keeps the proportions of
    houses and trees in images that are not square.
    """
    shapes: list[_Shape] = []

    def put(things: list[_Shape], x: float, y: float, width: float, height: float) -> None:
        scale, foot = unit * (width, height), np.array((x, y))
        shapes.extend((name, shade, corners * scale + foot) for name, shade, corners in things)

    # sky
    horizon = rng.uniform(0.4, 0.5)
    bands = np.linspace(0, horizon + 0.1, 33)
    shapes += [
        _polygon("sky", t, (0, top), (1, top), (1, bottom), (0, bottom))
        for t, top, bottom in zip(np.linspace(0, 1, 32), bands[:-1], bands[1:], strict=True)
    ]
    sun = [_ellipse("halo", 0, 0, 0, 1.35, 1.35), _ellipse("sun", 0, 0, 0, 1, 1)]
    put(sun, rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.2), 0.055, 0.055)
    for x in np.arange(rng.integers(2, 4)) / 3 + rng.uniform(0, 0.3):
        size = rng.uniform(0.05, 0.09)
        put(_cloud(rng), x, rng.uniform(0.07, 0.26), size, size)

    # mountains
    for name, count, low, high in (("far", 5, 0.1, 0.2), ("near", 3, 0.12, 0.3)):
        for x in rng.permutation(count) / (count - 1) + rng.uniform(-0.12, 0.12, count):
            height = rng.uniform(low, high)
            put(_mountain(rng, name), x, horizon + 0.08, 1.1 * height, height)

    # ground and lake
    shapes += _hill(rng, "far hill", horizon + 0.02)
    for x in rng.uniform(0, 1, rng.integers(6, 16)):
        put(_conifer(rng), x, horizon + 0.09, 0.09, rng.uniform(0.06, 0.1))
    shapes += _hill(rng, "middle hill", horizon + 0.1)
    shapes += _hill(rng, "near hill", horizon + 0.25)
    lake_x, lake_y = rng.uniform(0.15, 0.85), rng.uniform(0.78, 0.86)
    lake_rx, lake_ry = rng.uniform(0.25, 0.42), rng.uniform(0.07, 0.1)
    lake = np.array((lake_x, lake_y))
    bulge = 1 + 0.07 * np.sin(3 * _TURN + rng.uniform(0, 2 * np.pi))
    bank = _CIRCLE * (lake_rx, lake_ry) * bulge[:, None]
    shapes.append(("shore", 0, bank + lake + _CIRCLE * (0.02, 0.015)))
    for t in (1.0, 0.75, 0.5, 0.25, 0.0):  # darker inward
        shapes.append(("lake", t, bank * (0.84 + 0.16 * t) + lake + (0, 0.16 * (1 - t) * lake_ry)))
    for _ in range(4):
        x, y = rng.uniform(-0.55, 0.55, 2) * (lake_rx, lake_ry) + (lake_x, lake_y)
        shapes.append(_ellipse("glint", 0, x, y, rng.uniform(0.03, 0.08), 0.004))

    # houses and trees, the farthest first
    houses = rng.integers(1, 4)
    places, roofs = rng.permutation(3)[:houses], rng.permutation(_ROOFS)[:houses]
    standing = []
    views = [(lake_x, lake_y, 0.6 * lake_rx)]  # places that no tree may hide
    for place, roof in zip(places, roofs, strict=True):
        x = (place + rng.uniform(0.3, 0.7)) / 3
        y = rng.uniform(horizon + 0.14, lake_y - lake_ry - 0.02)
        views.append((x, y, 0.1))
        standing.append((y, x, 0.06 + 0.35 * (y - horizon), _house(rng, roof)))
    trees = rng.integers(12, 30)
    for x in (np.arange(trees) + rng.uniform(0, 1, trees)) / trees:
        y = rng.uniform(horizon + 0.12, 0.98)
        tree = (_conifer if rng.uniform() < 0.55 else _broadleaf)(rng)
        size = (0.1 + 0.42 * (y - horizon)) * rng.uniform(0.75, 1.1)
        wet = np.hypot((x - lake_x) / (lake_rx + 0.04), (y - lake_y) / (lake_ry + 0.03)) < 1
        hides = any(abs(x - vx) < half and y - size < vy < y + 0.02 for vx, vy, half in views)
        if not wet and not hides:
            standing.append((y, x, size, tree))
    for y, x, size, things in sorted(standing, key=lambda item: item[0]):
        put(things, x, y, size, size)
    return shapes


def landscape(index: int, season: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draws scene number `index` of the series `seed` in one season.

    The scene depends only on `(seed, index)`: the other season with the same arguments is the
    ground truth of a translation, and another size shows the same scene. Equal arguments give equal
    bytes with the same versions of NumPy and Pillow.

    Args:
        index: number of the scene, 0 or more.
        season: `"summer"` or `"winter"`.
        height: image height in pixels.
        width: image width in pixels.
        seed: random seed of the series, 0 or more.

    Returns:
        uint8 RGB image [height, width, 3].

    Raises:
        ValueError: for another season, a size below 1, or a negative index or seed.
    """
    if season not in _PALETTES:
        raise ValueError(f"season is {season!r}: use one of {sorted(_PALETTES)}")
    if min(height, width) < 1:
        raise ValueError(f"size is {height}x{width}: height and width must be 1 or more")
    size = np.array((width, height))
    scene = _scene(np.random.default_rng((seed, index)), min(size) / size)

    # Pillow draws without antialiasing, so draw a larger image and average it.
    scale = min(max(2048 // max(height, width), 2), 4)
    canvas = Image.new("RGB", (width * scale, height * scale))
    draw = ImageDraw.Draw(canvas)
    pixels = size * scale
    for name, shade, corners in scene:
        first, last = _PALETTES[season][name]
        color = tuple(round(x + shade * (y - x)) for x, y in zip(first, last, strict=True))
        draw.polygon((corners * pixels).ravel().tolist(), fill=color)
    return np.array(canvas.reduce(scale))


def synthetic_sets(side: int, paired: bool = False) -> dict[str, ImageSet]:
    """Returns the embedded dataset at `side` pixels, with paired or unpaired training images."""

    def images(first, count, season):
        return ImageSet(
            names=tuple(f"landscape_{first + i:04d}.png" for i in range(count)),
            read=lambda i: landscape(first + i, season, side, side),
        )

    test = 2 * TRAIN
    return {
        "trainA": images(0, TRAIN, SEASONS["a"]),
        "trainB": images(0 if paired else TRAIN, TRAIN, SEASONS["b"]),
        "testA": images(test, TEST, SEASONS["a"]),
        "truthA": images(test, TEST, SEASONS["b"]),
        "testB": images(test + TEST, TEST, SEASONS["b"]),
        "truthB": images(test + TEST, TEST, SEASONS["a"]),
    }
