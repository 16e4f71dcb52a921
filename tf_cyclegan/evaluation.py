"""What a pair of generators makes of a test split, measured: the numbers of evaluation.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_cyclegan.data.augment import resize
from tf_cyclegan.data.pictures import PictureSet, to_channels
from tf_cyclegan.distances import collapse, fid, kid
from tf_cyclegan.metrics import color_shift, cycle_scores, truth_scores

Translate = Callable[[np.ndarray], np.ndarray]  # uint8 [h, w, c] to uint8 [h, w, c']

PIXELS = 8  # a side, of the small pictures that stand for features where no network is named


def pixel_features(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Pictures scaled to 8x8 pixels: float32 `[n, 192]` in [-1, 1].

    They know color and layout but no content, cost nothing, and are always at hand: for a data
    set's own runs against each other, and to notice a collapse while training.
    """
    small = [resize(to_channels(picture, 3), (PIXELS, PIXELS)) for picture in pictures]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 127.5 - 1


def evaluate_direction(
    forward: Translate,
    backward: Translate,
    inputs: PictureSet,
    targets: PictureSet,
    truth: PictureSet | None,
    features: Callable[[Iterable[np.ndarray]], np.ndarray],
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Measures one direction on a whole split.

    Args:
        forward, backward: this direction and the other, from `tf_cyclegan.translate.translator`.
        inputs: the pictures to translate, each in its own size.
        targets: real pictures of the domain they should look like, no pairs.
        truth: the inputs' true counterparts, where they are known.
        features: pictures to `[n, d]`.

    Returns:
        Scores by group: `distance` (KID and FID to the targets, and those of the untranslated
        inputs), `cycle` (input -> fake -> back), `identity` (targets through the same generator;
        None where channels differ), `truth` (None where it is not known), `color` (shift of the
        identity's and of the translation's mean color), `collapse`. And the
        first pictures by column name: real, fake, cycled, and truth where it is known.
    """
    real = [inputs.read(i) for i in range(len(inputs))]
    aims = [targets.read(i) for i in range(len(targets))]
    fakes = [forward(picture) for picture in real]
    cycled = [backward(fake) for fake in fakes]
    real_features, fake_features, aim_features = map(features, (real, fakes, aims))

    # Half of a small set, so that subsets differ and their spread says something.
    subset_size = min(1000, max(min(len(real), len(aims)) // 2, 2))

    def distances(of):
        mean, spread = kid(aim_features, of, subset_size=subset_size)
        return {"kid": mean, "kid_spread": spread, "fid": fid(aim_features, of)}

    found = collapse(real_features, fake_features, aim_features)
    scores: dict[str, Any] = {
        "pictures": {"inputs": len(real), "targets": len(aims), "kid_subset": subset_size},
        "distance": distances(fake_features) | {"untranslated": distances(real_features)},
        "cycle": cycle_scores(real, cycled),
        "identity": None,
        "truth": None,
        "color": {"identity": None, "truth": None},
        "collapse": vars(found),
    }
    if real[0].shape[2] == aims[0].shape[2]:
        same = [forward(picture) for picture in aims]
        scores["identity"] = cycle_scores(aims, same)
        scores["color"]["identity"] = color_shift(same, aims)
    columns = {"real": real, "fake": fakes, "cycled": cycled}
    if truth is not None:
        columns["truth"] = true = [truth.read(i) for i in range(len(truth))]
        before = [to_channels(p, t.shape[2]) for p, t in zip(real, true, strict=True)]
        scores["truth"] = truth_scores(fakes, true) | {"untranslated": truth_scores(before, true)}
        scores["color"]["truth"] = color_shift(fakes, true)
    return scores, columns
