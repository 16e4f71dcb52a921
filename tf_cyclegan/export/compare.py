"""Compares the same generator in several runtimes: differences of the images, and latencies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import ImageSet, to_channels, to_float, to_uint8
from tf_cyclegan.data.resizing import resize
from tf_cyclegan.evaluation.contact_sheets import contact_sheet
from tf_cyclegan.export.description import Size, sides
from tf_cyclegan.inference.translator import find_images
from tf_cyclegan.training.run_folder import load_run_images

Runner = Callable[[np.ndarray], np.ndarray]  # float32 [1, h, w, c] in [-1, 1], in and out

EQUAL = 200.0  # dB, instead of infinity, which JSON does not support
SHOWN = 3  # images on the contact sheet
MAGNIFIED = 8  # factor by which the sheet amplifies differences


def keras_runner(generator) -> Runner:
    """Compiles a generator to a TensorFlow graph for images of any size."""
    run = tf.function(
        lambda image: generator(image, training=False),
        input_signature=[tf.TensorSpec([1, None, None, generator.input_channels])],
    )
    return lambda image: run(image).numpy()


def example_images(image_set: ImageSet, size: Size, channels: int, count: int) -> list[np.ndarray]:
    """Returns evenly spaced images of a set, in the form that exported files take.

    Args:
        image_set: the images.
        size: a side, or height and width.
        channels: 1 or 3.
        count: how many; fewer if the set is smaller.

    Returns:
        float32 `[1, h, w, channels]` in [-1, 1]: the largest centered crop of each image with the
        aspect ratio of h x w, resized.
    """
    chosen = np.linspace(0, len(image_set) - 1, min(count, len(image_set))).astype(int)
    size = sides(size)
    images = (_middle(to_channels(image_set.read(i), channels), *size) for i in chosen)
    return [to_float(resize(image, size))[np.newaxis] for image in images]


def _middle(image, target_height, target_width):
    height, width = image.shape[:2]
    h = max(1, min(height, width * target_height // target_width))
    w = max(1, min(width, height * target_width // target_height))
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def find_sets(inputs, run_dir, direction: str) -> tuple[ImageSet, ImageSet]:
    """Returns the images for calibration, and those for comparison.

    Args:
        inputs: images or folders for both; if empty, the run's own training images are used, and
            its test images if it has any.
        run_dir: the run folder.
        direction: "a2b" or "b2a".

    Raises:
        ValueError: there are no images.
    """
    if inputs:
        images = find_images(inputs, direction)
        return images, images
    if Path(run_dir).is_file():
        raise ValueError(f"{run_dir} is a file without images: name some with --images.")
    try:
        sets = load_run_images(run_dir)
    except ValueError as error:
        raise ValueError(f"{error} Give images with --images.") from None
    letter = "A" if direction == "a2b" else "B"
    return sets[f"train{letter}"], sets.get(f"test{letter}", sets[f"train{letter}"])


def difference(fakes: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, float]:
    """Computes how far images in [-1, 1] are from their references.

    Returns:
        `max` and `mean` of the absolute difference over all images; `psnr`, the mean over the
        images in dB for a range of 2: NaN if an image is NaN, EQUAL for two equal images.

    Raises:
        ValueError: two images differ in shape.
    """
    for fake, reference in zip(fakes, references, strict=True):
        if fake.shape != reference.shape:  # NumPy would broadcast some shapes
            raise ValueError(f"an image of shape {fake.shape} should have {reference.shape}.")
    errors = [np.abs(f - r).astype(np.float64) for f, r in zip(fakes, references, strict=True)]
    with np.errstate(divide="ignore"):
        psnr = [
            np.minimum(-10 * np.log10(np.mean(np.square(error)) / 4), EQUAL) for error in errors
        ]
    return {
        "max": float(np.max([error.max() for error in errors])),
        "mean": float(np.mean([error.mean() for error in errors])),
        "psnr": float(np.mean(psnr)),
    }


def latencies(runners: dict[str, Runner], image: np.ndarray, rounds: int = 7) -> dict[str, float]:
    """Measures the median milliseconds of each runner, in turns, so that noise affects all equally.

    Only the second of two runs counts: the first finds the caches of another runner.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            run(image)
            start = time.perf_counter()
            run(image)
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * median(seconds) for name, seconds in times.items()}


def comparison_sheet(
    images: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    fakes: dict[str, list[np.ndarray]],
) -> np.ndarray:
    """Draws inputs, Keras and each runtime side by side, with the differences to Keras below.

    Args:
        images, references: float32 `[1, h, w, c]` in [-1, 1], of one size; SHOWN are drawn.
        fakes: name -> the translations by another runtime.

    Returns:
        uint8 `[height, width, 3]`.
    """

    def rgb(image):
        return to_channels(to_uint8(image[0]), 3)

    def error(fake, reference):
        return rgb(MAGNIFIED * np.abs(fake - reference) - 1)

    images, references = images[:SHOWN], references[:SHOWN]
    blank = np.full_like(rgb(images[0]), 255)
    columns = {"real": [p for image in images for p in (rgb(image), blank)]}
    columns["Keras"] = [p for reference in references for p in (rgb(reference), blank)]
    for name, others in fakes.items():
        pairs = zip(others[:SHOWN], references, strict=True)
        columns[name] = [p for fake, ref in pairs for p in (rgb(fake), error(fake, ref))]
    side = images[0].shape[2]
    return contact_sheet(columns, scale=max(1, 128 // side))
