"""How near images come to those they should equal: the truth, the cycle's start, a label map."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import ImageSet, to_channels

# Colours of label maps, RGB. Cityscapes: its 19 training classes, from road to bicycle, and what is
# left out of them. Facades: the 12 classes of the CMP base.
PALETTES = {
    "cityscapes": """
        804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98
        4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20 000000
    """,
    "facades": """
        0000aa 0000ff 0055ff 00aaff 00ffff 55ffaa aaff55 ffff00 ffaa00 ff5500 ff0000 aa0000
    """,
}

SSIM_SIDE = 11  # pixels: of the window that SSIM compares

_MEASURES: dict[str, Callable] = {
    "l1": lambda image, true: np.abs(image.astype(np.float64) - true).mean() / 127.5,
    "psnr": lambda image, true: tf.image.psnr(image, true, max_val=255),
    "ssim": lambda image, true: (
        tf.image.ssim(image, true, max_val=255) if min(true.shape[:2]) >= SSIM_SIDE else np.nan
    ),
}


def score_translations(translate: Callable, real: ImageSet, truth: ImageSet):
    """`truth_scores` of a set's translations, and of the untranslated images for comparison.

    Args:
        translate: a function of image to image, from `translator`.
        real: the images to translate.
        truth: their true counterparts, in the same order.

    Returns:
        `(scores of the translations, scores of the inputs)`.
    """
    after, before = [], []
    for i in range(len(real)):
        image, true = real.read(i), truth.read(i)
        after.append(truth_scores([translate(image)], [true]))
        before.append(truth_scores([to_channels(image, true.shape[2])], [true]))
    return mean_scores(after), mean_scores(before)


def truth_scores(images, truth) -> dict[str, float]:
    """Mean distance of images to their true counterparts.

    Args:
        images, truth: sequences of uint8 `[h, w, c]`, pair by pair of one size.

    Returns:
        "l1": mean absolute difference on the scale of [-1, 1] (0 is equal, 2 the most);
        "psnr": mean peak signal-to-noise ratio in dB;
        "ssim": mean structural similarity (Wang et al. 2004), 1 is equal; NaN if an image has a
            side of fewer than SSIM_SIDE pixels.
    """
    return _mean_over_pairs(images, truth, ("l1", "psnr", "ssim"))


def cycle_scores(real, again) -> dict[str, float]:
    """How near images come back after there and back again; near is no proof of a translation.

    Args:
        real, again: sequences of uint8 `[h, w, c]`, pair by pair of one size.

    Returns:
        "l1" and "psnr", as in `truth_scores`.
    """
    return _mean_over_pairs(again, real, ("l1", "psnr"))


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each score over images, of which each has the same."""
    means = np.mean([list(row.values()) for row in rows], axis=0)
    return dict(zip(rows[0], means.tolist(), strict=True))


def _mean_over_pairs(images, truth, names) -> dict[str, float]:
    scores = []
    for image, true in zip(images, truth, strict=True):
        if image.shape != true.shape:
            raise ValueError(
                f"an image of {image.shape} cannot be compared with one of {true.shape}: "
                "resize pairs to one size."
            )
        scores.append({name: float(_MEASURES[name](image, true)) for name in names})
    return mean_scores(scores)


def color_shift(images: Iterable, others: Iterable) -> float:
    """How far the mean colors of images are from those of their counterparts.

    Args:
        images, others: uint8 `[h, w, 1 or 3]` in sRGB, pair by pair.

    Returns:
        The mean distance in CIE L*a*b* (D65): 1 is about the least that is seen, 100 is black
        against white.
    """
    distances = [
        np.linalg.norm(_lab(image).mean((0, 1)) - _lab(other).mean((0, 1)))
        for image, other in zip(images, others, strict=True)
    ]
    return float(np.mean(distances))


def _lab(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB `[h, w, 1 or 3]` -> L*a*b* `[h, w, 3]` (IEC 61966-2-1, CIE 15)."""
    rgb = to_channels(image, 3) / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    xyz = xyz / [0.9505, 1.0, 1.089]  # of white
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def read_palette(spec: str) -> np.ndarray:
    """The colours of label maps.

    Args:
        spec: a name in `PALETTES`, or a text file of colours such as `804080`, one a line or more.

    Returns:
        uint8 `[classes, 3]`.

    Raises:
        ValueError: it is neither, or something in the file is no such colour.
    """
    text = PALETTES.get(spec)
    if text is None:
        try:
            text = Path(spec).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            names = ", ".join(PALETTES)
            raise ValueError(f"{spec} is no palette: use {names}, or a text file.") from None
    colours = [word.removeprefix("#") for word in text.split()]
    for colour in colours:
        if not re.fullmatch("[0-9a-fA-F]{6}", colour):
            raise ValueError(f"{spec}: {colour[:20]!r} is no colour: write red as ff0000.")
    return np.array([list(bytes.fromhex(colour)) for colour in colours], np.uint8).reshape(-1, 3)


def label_scores(images: Iterable, truth: Iterable, palette) -> dict[str, float]:
    """How many pixels of label maps are right (Long et al. 2015): for photo -> labels only.

    These are the columns of the paper's tables on photo -> labels. Its FCN-score of labels -> photo
    has the same columns, but runs a trained segmentation network on the generated photos first,
    which is not done here. Counts are over all pixels of all images; none are left out, whereas
    Cityscapes' own protocol leaves out the unlabelled ones.

    Args:
        images, truth: uint8 RGB label maps `[h, w, 3]`, pair by pair of one size.
        palette: uint8 `[classes, 3]`, each class' colour. A pixel is of the class whose colour is
            nearest; of equally near ones, the first.

    Returns:
        "pixel_accuracy": share of right pixels;
        "class_accuracy": that share in each class of the truth, mean over the classes there;
        "iou": intersection over union, mean over the classes of the truth and the images.

    Raises:
        ValueError: no images, or the palette or an image has another form.
    """
    return scores_of_counts(label_counts(images, truth, palette))


def label_counts(images: Iterable, truth: Iterable, palette) -> np.ndarray:
    """How many pixels of each class of the truth have each class, int64 `[classes, classes]`.

    Arguments and errors are those of `label_scores`, but for no images, which give zeros.
    """
    colours = np.asarray(palette)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) < 2:
        raise ValueError(f"a palette of {colours.shape} is no list of 2 or more RGB colours.")
    classes, counts = len(colours), np.zeros((len(colours), len(colours)), np.int64)
    for image, true in zip(images, truth, strict=True):
        if image.shape != true.shape or true.shape[2] != 3:
            raise ValueError(
                f"label maps of {image.shape} and {true.shape}: use RGB pairs of one size."
            )
        pairs = classes * _nearest_colour(true, colours) + _nearest_colour(image, colours)
        counts += np.bincount(pairs.ravel(), minlength=classes**2).reshape(counts.shape)
    return counts


def scores_of_counts(counts: np.ndarray) -> dict[str, float]:
    """`label_scores` of the pixels that `label_counts` has counted, in one call or several."""
    if not counts.any():
        raise ValueError("there are no label maps to score.")
    right, true_sum = np.diag(counts), counts.sum(1)
    union = true_sum + counts.sum(0) - right
    return {
        "pixel_accuracy": float(right.sum() / counts.sum()),
        "class_accuracy": float(np.mean(right[true_sum > 0] / true_sum[true_sum > 0])),
        "iou": float(np.mean(right[union > 0] / union[union > 0])),
    }


def _nearest_colour(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    colours = colours.astype(np.int64)
    # |p - c|^2 less |p|^2, which is the same for every colour; exact in integers.
    return (np.square(colours).sum(1) - 2 * image.astype(np.int64) @ colours.T).argmin(-1)
