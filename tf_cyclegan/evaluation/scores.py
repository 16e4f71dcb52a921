"""Measures how a pair of generators translates a test split: the numbers of evaluation.json."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_cyclegan.data.image_files import ImageError, ImageSet, to_channels
from tf_cyclegan.data.resizing import resize, resize_longer_side
from tf_cyclegan.evaluation.contact_sheets import thumbnail
from tf_cyclegan.evaluation.distances import collapse, coverage, diversity, fid, kid, recall
from tf_cyclegan.evaluation.metrics import (
    SSIM_SIDE,
    color_shift,
    cycle_scores,
    label_counts,
    mean_scores,
    scores_of_counts,
    truth_scores,
)

Translate = Callable[[np.ndarray], np.ndarray]  # uint8 [h, w, c] to uint8 [h, w, c']

SHOWN = 8  # images on the contact sheet of a direction
PIXELS = 8  # side of the small images that replace features if no network is given


def pixel_features(images: Iterable[np.ndarray]) -> np.ndarray:
    """Scales images to 8x8 pixels and returns them as features: float32 `[n, 192]` in [-1, 1].

    They capture color and layout but no content. They cost nothing, and suffice to compare training
    runs on the same dataset and to detect a collapse during training.
    """
    small = [resize(to_channels(image, 3), (PIXELS, PIXELS)) for image in images]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 127.5 - 1


def resized(images: ImageSet, pixels: int) -> ImageSet:
    """Returns the same images with `pixels` pixels on the longer side."""
    return ImageSet(images.names, lambda i: resize_longer_side(images.read(i), pixels))


def evaluate_direction(
    forward: Translate,
    backward: Translate | None,
    inputs: ImageSet,
    targets: ImageSet,
    truth: ImageSet | None,
    features: Callable[[Iterable[np.ndarray]], np.ndarray],
    palette: np.ndarray | None = None,
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Measures one direction on a whole split, one image at a time.

    Memory holds the features and scores of all images, but only the first SHOWN images. Inputs are
    read twice, all others once.

    Args:
        forward, backward: this direction and the other, from
            `tf_cyclegan.inference.translator.translator`. None if there is no other direction.
        inputs: the images to translate, each at its own size.
        targets: unpaired real images of the target domain.
        truth: the ground truth for the inputs, if it is known.
        features: a function from images to `[n, d]`.
        palette: colors of the classes, `[classes, 3]`, if the targets are label maps.

    Returns:
        Scores by group: `images` (how many were measured and, if some could not be read or
        translated, `left_out`: name -> reason), `distance` (KID and FID to the targets, also for
        the untranslated inputs), `cycle` (input -> fake -> back; None without `backward`),
        `identity` (targets through the
        same generator; None if channels differ), `truth` (None if it is not known), `labels` (only
        with a palette), `color` (shift of the mean color by identity and translation), `collapse`.
        A measure is None if there are too few images or they are too small; `not_measured` then
        gives the reason. Also thumbnails of the first images that have the size of the first one,
        by column name: real, fake, cycled, and truth if it is known.

    Raises:
        ValueError: not a single image can be read and translated.
    """
    rows: dict[str, list] = defaultdict(list)  # group -> the scores of each image
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    measured: list[int] = []  # indices of inputs
    left_out: dict[str, str] = {}
    first: tuple[int, ...] | None = None  # shape of the first input
    counts: np.ndarray = np.zeros((), np.int64)  # becomes [classes, classes], from `label_counts`

    def fakes():
        nonlocal counts, first
        for i, name in enumerate(inputs.names):
            try:
                real = inputs.read(i)
                fake = forward(real)
                shown = {"real": real, "fake": fake}
                if backward is not None:
                    shown["cycled"] = backward(fake)
                if truth is not None:
                    shown["truth"] = true = truth.read(i)
                    if true.shape[:2] != real.shape[:2]:
                        raise ImageError(
                            f"{name}: it has {real.shape[1]} x {real.shape[0]} pixels, its truth "
                            f"{true.shape[1]} x {true.shape[0]}: resize both to one size"
                        )
            except ImageError as error:
                left_out[name] = str(error)
                continue
            measured.append(i)
            if backward is not None:
                rows["cycle"].append(cycle_scores([real], [shown["cycled"]]))
            if truth is not None:
                before = to_channels(real, true.shape[2])
                rows["truth"].append(truth_scores([fake], [true]))
                rows["untranslated"].append(truth_scores([before], [true]))
                rows["truth color"].append(color_shift([fake], [true]))
                if palette is not None:
                    counts = counts + label_counts([fake], [true], palette)
            first = first or real.shape
            if len(columns["real"]) < SHOWN and real.shape == first:
                for column, image in shown.items():
                    columns[column].append(thumbnail(image))
            yield fake
        _check_some(measured, inputs, left_out)

    def aims():
        same_channels, read = None, 0
        for i, name in enumerate(targets.names):
            try:
                aim = targets.read(i)
                if same_channels is None:
                    same_channels = aim.shape[2] == columns["real"][0].shape[2]
                same = forward(aim) if same_channels else None
            except ImageError as error:
                left_out[name] = str(error)
                continue
            if same is not None:
                rows["identity"].append(cycle_scores([aim], [same]))
                rows["identity color"].append(color_shift([same], [aim]))
            read += 1
            yield aim
        _check_some(read, targets, left_out)

    fake_features, aim_features = features(fakes()), features(aims())
    real_features = features(inputs.read(i) for i in measured)

    # === Measures of whole sets ===
    not_measured: dict[str, str] = {}

    def attempt(name, measure):
        """Returns a measure, or None and adds an entry to `not_measured`."""
        try:
            return measure()
        except ValueError as error:
            not_measured[name] = str(error)
            return None

    # Half of a small set, so that subsets differ and their spread is meaningful.
    subset_size = min(1000, max(min(len(real_features), len(aim_features)) // 2, 2))

    def distances(of):
        found = attempt("kid", lambda: kid(aim_features, of, subset_size=subset_size))
        mean, spread = found or (None, None)
        return {
            "kid": mean,
            "kid_spread": spread,
            "fid": attempt("fid", lambda: fid(aim_features, of)),
        }

    def collapse_scores():
        sets = real_features, fake_features, aim_features
        found = attempt("collapse", lambda: collapse(*sets))
        if found is not None:
            return vars(found)
        spread = [attempt("diversity", lambda rows=rows: diversity(rows)) for rows in sets]
        return {
            **dict(zip(("inputs", "fakes", "targets"), spread, strict=True)),
            "twins": None,
            "recall": attempt("recall", lambda: recall(aim_features, fake_features)),
            "coverage": attempt("coverage", lambda: coverage(aim_features, fake_features)),
            "collapsed": None,
            "verdict": f"Collapse is not judged: {not_measured['collapse']}",
        }

    scores: dict[str, Any] = {
        "images": {
            "inputs": len(real_features),
            "targets": len(aim_features),
            "kid_subset": subset_size,
        },
        "distance": distances(fake_features) | {"untranslated": distances(real_features)},
        "cycle": mean_scores(rows["cycle"]) if rows["cycle"] else None,
        "identity": mean_scores(rows["identity"]) if rows["identity"] else None,
        "truth": None,
        "color": {name: _mean(rows[f"{name} color"]) for name in ("identity", "truth")},
        "collapse": collapse_scores(),
    }
    if truth is not None:
        scores["truth"] = mean_scores(rows["truth"])
        scores["truth"]["untranslated"] = mean_scores(rows["untranslated"])
        if math.isnan(scores["truth"]["ssim"]):
            scores["truth"]["ssim"] = scores["truth"]["untranslated"]["ssim"] = None
            not_measured["ssim"] = f"some images have a side of fewer than {SSIM_SIDE} pixels."
        if palette is not None:
            scores["labels"] = scores_of_counts(counts)
    if left_out:
        scores["images"]["left_out"] = left_out
    if not_measured:
        scores["not_measured"] = not_measured
    return scores, dict(columns)


def _check_some(measured, images, left_out):
    if not measured:
        reason = next(left_out[name] for name in images.names)
        raise ValueError(f"none of {len(images)} images can be measured ({reason}).")


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def table(results: dict) -> str:
    """Formats the scores, one column per direction, with untranslated images in brackets."""
    lines = [f"{'':<26}" + "".join(f"{direction:>30}" for direction in results)]

    def line(name, text):
        cells = [text(scores) for scores in results.values()]
        lines.append(f"{name:<26}" + "".join(f"{cell:>30}" for cell in cells))

    def kid(s):
        d = s["distance"]
        if d["kid"] is None:
            return "not measured"
        return f"{d['kid']:.4g} +- {d['kid_spread']:.2g} ({d['untranslated']['kid']:.4g})"

    def score(group, name, digits):
        def text(s):
            if s.get(group) is None or (group == "color" and s[group][name] is None):
                return "not known"
            if s[group][name] is None:
                return "not measured"
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
    """Returns the scores for JSON, with None for infinity, such as the PSNR of equal images."""
    result = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            value = finite(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        result[name] = value
    return result
