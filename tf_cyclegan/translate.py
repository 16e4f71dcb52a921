"""A picture of any size in, its translation of the same size out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.pictures import to_float, to_uint8
from tf_cyclegan.interop import load_generator

SMALLEST = 8  # pixels a side, below which the ResNet's deepest map cannot be mirrored


def load_translator(run_dir_or_file, direction: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads one direction of a run folder, or a generator's own file, for use on pictures.

    Args:
        run_dir_or_file: a run folder, a folder of imported weights, a `.keras` or a `.pth` file.
        direction: "a2b" or "b2a"; which file of a folder is meant.

    Returns:
        A function from picture to picture; see `translator`.

    Raises:
        ValueError: nothing is there, or it is no generator.
    """
    path = Path(run_dir_or_file)
    if path.is_dir():
        path = path / f"{direction}.keras"
        if not path.is_file():
            raise ValueError(
                f"{path} is not there: name a run folder that has saved once, or one written by "
                "import_weights.py."
            )
    return translator(load_generator(path))


def translator(generator) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps a generator so that it takes a picture of any size and gives one of the same size.

    The picture is mirrored outwards at its right and lower border up to the next multiple that the
    generator needs, and the translation is cropped back.

    Args:
        generator: `[n, h, w, c]` to `[n, h, w, c']` in [-1, 1], with an attribute `multiple`.

    Returns:
        A function of uint8 `[h, w, c]` to uint8 `[h, w, c']`.
    """
    multiple = getattr(generator, "multiple", 1)
    channels = generator.input_channels
    run = tf.function(
        lambda image: generator(image, training=False),
        input_signature=[tf.TensorSpec([1, None, None, channels])],
    )

    def translate(picture):
        height, width = picture.shape[:2]
        pad = [(0, padded(side, multiple) - side) for side in (height, width)]
        image = np.pad(to_float(picture), [*pad, (0, 0)], mode="symmetric")
        return to_uint8(run(image[np.newaxis]).numpy()[0, :height, :width])

    return translate


def padded(side: int, multiple: int) -> int:
    """The next multiple, at least SMALLEST, that a side is padded to."""
    return -(-max(side, SMALLEST) // multiple) * multiple
