"""How near pictures come to the truth, where it is known."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.pictures import PictureSet, to_channels


def score_translations(translate: Callable, real: PictureSet, truth: PictureSet):
    """`truth_scores` of a set's translations, and of the untranslated pictures for comparison.

    Args:
        translate: a function of picture to picture, from `translator`.
        real: the pictures to translate.
        truth: their true counterparts, in the same order.

    Returns:
        `(scores of the translations, scores of the inputs)`.
    """
    inputs = [real.read(i) for i in range(len(real))]
    true = [truth.read(i) for i in range(len(truth))]
    before = [to_channels(p, t.shape[2]) for p, t in zip(inputs, true, strict=True)]
    return truth_scores(map(translate, inputs), true), truth_scores(before, true)


def truth_scores(pictures, truth) -> dict[str, float]:
    """Mean distance of pictures to their true counterparts.

    Args:
        pictures, truth: sequences of uint8 `[h, w, c]`, pair by pair of one size, h and w at
            least 11.

    Returns:
        "l1": mean absolute difference on the scale of [-1, 1] (0 is equal, 2 the most);
        "psnr": mean peak signal-to-noise ratio in dB;
        "ssim": mean structural similarity (Wang et al. 2004), 1 is equal.
    """
    scores: dict[str, list[float]] = {"l1": [], "psnr": [], "ssim": []}
    for picture, true in zip(pictures, truth, strict=True):
        difference = np.abs(picture.astype(np.float64) - true)
        scores["l1"].append(difference.mean() / 127.5)
        scores["psnr"].append(float(tf.image.psnr(picture, true, max_val=255)))
        scores["ssim"].append(float(tf.image.ssim(picture, true, max_val=255)))
    return {name: float(np.mean(values)) for name, values in scores.items()}
