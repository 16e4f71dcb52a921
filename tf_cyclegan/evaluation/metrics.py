"""Compares images with what they should equal: ground truth, cycle input, or label map."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import ImageSet, to_channels

# RGB colors of label maps. Cityscapes: its 19 training classes, from road to bicycle, and the color
# of unlabeled pixels. Facades: the 12 classes of the CMP base.
PALETTES = {
    "cityscapes": """
        804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98
        4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20 000000
    """,
    "facades": """
        0000aa 0000ff 0055ff 00aaff 00ffff 55ffaa aaff55 ffff00 ffaa00 ff5500 ff0000 aa0000
    """,
}

SSIM_SIDE = 11  # pixels, side of the window that SSIM compares

_MEASURES: dict[str, Callable] = {
    "l1": lambda image, true: np.abs(image.astype(np.float64) - true).mean() / 127.5,
    "psnr": lambda image, true: tf.image.psnr(image, true, max_val=255),
    "ssim": lambda image, true: (
        tf.image.ssim(image, true, max_val=255) if min(true.shape[:2]) >= SSIM_SIDE else np.nan
    ),
}


def score_translations(translate: Callable, real: ImageSet, truth: ImageSet):
    """Computes `truth_scores` of translations, and of the untranslated images for comparison.

    Args:
        translate: a function from image to image, from `translator`.
        real: the images to translate.
        truth: their ground truth, in the same order.

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
    """Computes the mean distance of images to their ground truth.

    Args:
        images, truth: sequences of uint8 `[h, w, c]`; both images of a pair have the same size.

    Returns:
        "l1": mean absolute difference on the scale of [-1, 1] (0 is equal, 2 the maximum);
        "psnr": mean peak signal-to-noise ratio in dB;
        "ssim": mean structural similarity (Wang et al. 2004), 1 is equal; NaN if an image has a
            side of fewer than SSIM_SIDE pixels.
    """
    return _mean_over_pairs(images, truth, ("l1", "psnr", "ssim"))


def cycle_scores(real, again) -> dict[str, float]:
    """Computes how close cycled images are to the real ones; this does not judge the translation.

    Args:
        real, again: sequences of uint8 `[h, w, c]`; both images of a pair have the same size.

    Returns:
        "l1" and "psnr", as in `truth_scores`.
    """
    return _mean_over_pairs(again, real, ("l1", "psnr"))


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each score over images that all have the same scores."""
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
    """Computes how far the mean colors of images are from those of their counterparts.

    Args:
        images, others: uint8 `[h, w, 1 or 3]` in sRGB, in pairs.

    Returns:
        The mean distance in CIE L*a*b* (D65): about 1 is just visible, 100 is black against white.
    """
    distances = [
        np.linalg.norm(_lab(image).mean((0, 1)) - _lab(other).mean((0, 1)))
        for image, other in zip(images, others, strict=True)
    ]
    return float(np.mean(distances))


def _lab(image: np.ndarray) -> np.ndarray:
    """Converts uint8 sRGB `[h, w, 1 or 3]` to L*a*b* `[h, w, 3]` (IEC 61966-2-1, CIE 15)."""
    rgb = to_channels(image, 3) / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    xyz = xyz / [0.9505, 1.0, 1.089]  # the white point
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def read_palette(spec: str) -> np.ndarray:
    """Reads the colors of label maps.

    Args:
        spec: a name in `PALETTES`, or a text file of colors such as `804080`, separated by spaces
            or newlines.

    Returns:
        uint8 `[classes, 3]`.

    Raises:
        ValueError: it is neither, or something in the file is not a color.
    """
    text = PALETTES.get(spec)
    if text is None:
        try:
            text = Path(spec).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            names = ", ".join(PALETTES)
            raise ValueError(f"{spec} is not a palette: use {names}, or a text file.") from None
    colors = [word.removeprefix("#") for word in text.split()]
    for color in colors:
        if not re.fullmatch("[0-9a-fA-F]{6}", color):
            raise ValueError(f"{spec}: {color[:20]!r} is not a color: write red as ff0000.")
    return np.array([list(bytes.fromhex(color)) for color in colors], np.uint8).reshape(-1, 3)


def label_scores(images: Iterable, truth: Iterable, palette) -> dict[str, float]:
    """Computes how many pixels of label maps are correct (Long et al. 2015).

    Use it for photo -> labels only.

    These are the columns of the paper's tables on photo -> labels. Its FCN-score of labels -> photo
    has the same columns, but runs a trained segmentation network on the generated photos first,
    which is not done here. Counts are over all pixels of all images; none are left out, whereas
    Cityscapes' own protocol leaves out the unlabeled ones.

    Args:
        images, truth: uint8 RGB label maps `[h, w, 3]`, pair by pair of one size.
        palette: uint8 `[classes, 3]`, each class' color. A pixel is of the class whose color is
            nearest; of equally near ones, the first.

    Returns:
        "pixel_accuracy": share of correct pixels;
        "class_accuracy": mean over the classes in the ground truth of that share in each;
        "iou": intersection over union, mean over the classes in the ground truth and the images.

    Raises:
        ValueError: there are no images, or the palette or an image has another shape.
    """
    return scores_of_counts(label_counts(images, truth, palette))


def label_counts(images: Iterable, truth: Iterable, palette) -> np.ndarray:
    """Computes the confusion matrix of the pixels, int64 `[classes, classes]`, truth in rows.

    Arguments and errors are those of `label_scores`, but without images the result is zeros.
    """
    colors = np.asarray(palette)
    if colors.ndim != 2 or colors.shape[1] != 3 or len(colors) < 2:
        raise ValueError(f"a palette needs 2 or more RGB colors, not shape {colors.shape}.")
    classes, counts = len(colors), np.zeros((len(colors), len(colors)), np.int64)
    for image, true in zip(images, truth, strict=True):
        if image.shape != true.shape or true.shape[2] != 3:
            raise ValueError(
                f"label maps have shapes {image.shape} and {true.shape}: use RGB pairs of one size."
            )
        pairs = classes * _nearest_color(true, colors) + _nearest_color(image, colors)
        counts += np.bincount(pairs.ravel(), minlength=classes**2).reshape(counts.shape)
    return counts


def scores_of_counts(counts: np.ndarray) -> dict[str, float]:
    """Computes `label_scores` from the results of one or more calls of `label_counts`."""
    if not counts.any():
        raise ValueError("there are no label maps to score.")
    right, true_sum = np.diag(counts), counts.sum(1)
    union = true_sum + counts.sum(0) - right
    return {
        "pixel_accuracy": float(right.sum() / counts.sum()),
        "class_accuracy": float(np.mean(right[true_sum > 0] / true_sum[true_sum > 0])),
        "iou": float(np.mean(right[union > 0] / union[union > 0])),
    }


def _nearest_color(image: np.ndarray, colors: np.ndarray) -> np.ndarray:
    colors = colors.astype(np.int64)
    # |p - c|^2 minus |p|^2, which is the same for every color; exact in integers.
    return (np.square(colors).sum(1) - 2 * image.astype(np.int64) @ colors.T).argmin(-1)
