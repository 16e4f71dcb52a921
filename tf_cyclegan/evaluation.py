"""What a pair of generators makes of a test split, measured: the numbers of evaluation.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_cyclegan.data.augment import resize, resize_longer_side
from tf_cyclegan.data.pictures import PictureSet, to_channels
from tf_cyclegan.distances import collapse, fid, kid
from tf_cyclegan.metrics import color_shift, cycle_scores, label_scores, truth_scores

Translate = Callable[[np.ndarray], np.ndarray]  # uint8 [h, w, c] to uint8 [h, w, c']

PIXELS = 8  # a side, of the small pictures that stand for features where no network is named


def pixel_features(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Pictures scaled to 8x8 pixels: float32 `[n, 192]` in [-1, 1].

    They know color and layout but no content, cost nothing, and are always at hand: for a data
    set's own runs against each other, and to notice a collapse while training.
    """
    small = [resize(to_channels(picture, 3), (PIXELS, PIXELS)) for picture in pictures]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 127.5 - 1


def resized(pictures: PictureSet, pixels: int) -> PictureSet:
    """The same pictures with `pixels` pixels on the longer side."""
    return PictureSet(pictures.names, lambda i: resize_longer_side(pictures.read(i), pixels))


def evaluate_direction(
    forward: Translate,
    backward: Translate,
    inputs: PictureSet,
    targets: PictureSet,
    truth: PictureSet | None,
    features: Callable[[Iterable[np.ndarray]], np.ndarray],
    palette: np.ndarray | None = None,
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Measures one direction on a whole split.

    Args:
        forward, backward: this direction and the other, from `tf_cyclegan.translate.translator`.
        inputs: the pictures to translate, each in its own size.
        targets: real pictures of the domain they should look like, no pairs.
        truth: the inputs' true counterparts, where they are known.
        features: pictures to `[n, d]`.
        palette: colours of the classes, `[classes, 3]`, where the targets are label maps.

    Returns:
        Scores by group: `distance` (KID and FID to the targets, and those of the untranslated
        inputs), `cycle` (input -> fake -> back), `identity` (targets through the same generator;
        None where channels differ), `truth` (None where it is not known), `labels` (with a palette
        alone), `color` (shift of the identity's and of the translation's mean color),
        `collapse`. And the pictures by column name: real, fake, cycled, and truth where it is
        known.

    Raises:
        ValueError: a picture and its truth differ in size, or there are too few pictures.
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
        if palette is not None:
            scores["labels"] = label_scores(fakes, true, palette)
    return scores, columns


def table(results: dict) -> str:
    """The scores in lines, a column for each direction, the untranslated pictures in brackets."""
    lines = [f"{'':<26}" + "".join(f"{direction:>30}" for direction in results)]

    def line(name, text):
        cells = [text(scores) for scores in results.values()]
        lines.append(f"{name:<26}" + "".join(f"{cell:>30}" for cell in cells))

    def kid(s):
        d = s["distance"]
        return f"{d['kid']:.4g} +- {d['kid_spread']:.2g} ({d['untranslated']['kid']:.4g})"

    def score(group, name, digits):
        def text(s):
            if s.get(group) is None or s[group][name] is None:
                return "not known"
            before = s[group].get("untranslated")
            bracket = f" ({before[name]:.{digits}f})" if before else ""
            return f"{s[group][name]:.{digits}f}{bracket}"

        return text

    line("KID", kid)
    line("FID", score("distance", "fid", 1))
    for group in ("cycle", "identity", "truth"):
        line(f"{group} L1", score(group, "l1", 3))
        line(f"{group} PSNR", score(group, "psnr", 1))
    line("truth SSIM", score("truth", "ssim", 3))
    if any("labels" in scores for scores in results.values()):
        line("pixel accuracy", score("labels", "pixel_accuracy", 3))
        line("class accuracy", score("labels", "class_accuracy", 3))
        line("class IoU", score("labels", "iou", 3))
    line("truth color shift", score("color", "truth", 1))
    line("identity color shift", score("color", "identity", 1))
    for name in ("inputs", "fakes", "targets"):
        line(f"diversity of {name}", score("collapse", name, 2))
    line("recall", score("collapse", "recall", 2))
    line("coverage", score("collapse", "coverage", 2))
    return "\n".join(lines)


def finite(scores: dict) -> dict:
    """The scores as JSON can hold them: null for the PSNR of equal pictures, which is infinite."""
    result = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            value = finite(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        result[name] = value
    return result
