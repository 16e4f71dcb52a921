"""Checks of what a user passes to `CycleGAN`: images, datasets, optimizers and callbacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

# The shape [n, h, w, c] of a batch of images.
ImageShape = tuple[int | None, int | None, int | None, int]

NEED_ONE_OPTIMIZER = (  # callbacks that use `model.optimizer`
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)
ONE_DOMAIN = (
    "CycleGAN takes batches (real_a, real_b): to translate images of one domain, call one of "
    "model.generators(), or use tf_cyclegan.load_translator."
)
OUT_OF_RANGE = (
    "The images of {} are not all in [-1, 1]: scale them, for example with x / 127.5 - 1 if they "
    "are in [0, 255], and clip values that resizing pushed out of range."
)
NOT_DIVISIBLE = (
    "A batch cannot be divided into d_steps equal parts: pass batches of a multiple of d_steps."
)


def check_images(data: tuple[tf.Tensor, ...], parts: int = 1) -> list[tf.Tensor]:
    """Returns a batch `(real_a, real_b)` unchanged, with checks of its values in the graph.

    Args:
        data: the batch.
        parts: how many equal parts the batch will be divided into.

    Raises:
        ValueError: the images are not floats, or the size of a static batch cannot be divided.
        tf.errors.InvalidArgumentError: they are not all in [-1, 1], or cannot be divided. XLA drops
            these checks.
    """
    real_a, real_b, weight = keras.utils.unpack_x_y_sample_weight(data)
    if real_b is None:
        raise ValueError(ONE_DOMAIN)
    if weight is not None:
        raise ValueError("CycleGAN has no use for sample weights: leave them out.")
    check_floats(real_a, real_b)
    checked = []
    for domain, images in (("a", real_a), ("b", real_b)):
        # 1.001 allows for the rounding of float16. NaN fails as well.
        good = tf.reduce_all(tf.abs(images) <= 1.001)
        checks = [tf.debugging.Assert(good, [OUT_OF_RANGE.format(domain)])]
        if (images.shape[0] or 0) % parts:
            raise ValueError(NOT_DIVISIBLE)
        if parts > 1:
            divisible = tf.equal(tf.shape(images)[0] % parts, 0)
            checks.append(tf.debugging.Assert(divisible, [NOT_DIVISIBLE]))
        with tf.control_dependencies(checks):
            checked.append(tf.identity(images))
    return checked


def check_floats(real_a: tf.Tensor, real_b: tf.Tensor) -> None:
    """Raises a ValueError if the images are not floats."""
    for domain, images in (("a", real_a), ("b", real_b)):
        if not tf.as_dtype(images.dtype).is_floating:
            raise ValueError(
                f"The images of {domain} are {tf.as_dtype(images.dtype).name}: make them float32 "
                "in [-1, 1], for example with x / 127.5 - 1."
            )


def check_generator(name: str, real: tf.Tensor, fake: tf.Tensor, channels: int) -> None:
    """Raises a ValueError if a generator changed the size, or returned other channels.

    Args:
        name: the generator's name, for the message.
        real, fake: its input and its output.
        channels: how many channels the images of the other domain have.
    """
    expected = tf.TensorShape([*real.shape[:3], channels])
    if not expected.is_compatible_with(fake.shape):
        raise ValueError(
            f"{name} returned {fake.shape} for images of {real.shape}, instead of {expected}: a "
            "generator keeps height and width, and returns the channels of the other domain."
        )


def check_optimizers(*optimizers: keras.optimizers.Optimizer) -> None:
    """Raises a ValueError if two optimizers are one, or if one averages weights to no effect."""
    inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
    if inner[0] is inner[1]:
        raise ValueError(
            "generator_optimizer and discriminator_optimizer are the same object, but an optimizer "
            "keeps the state of one of them only: create two."
        )
    if any(optimizer.use_ema and not optimizer.ema_overwrite_frequency for optimizer in inner):
        raise ValueError(
            "An optimizer has use_ema=True, but nothing would use the averages: remove it, or set "
            "ema_overwrite_frequency."
        )


def image_shapes(x: Any, y: Any = None) -> list[ImageShape] | None:
    """Returns the shapes of real_a and real_b in the data passed to `fit`.

    Args:
        x: a dataset, plain or distributed; or real_a, if y is given.
        y: real_b, or None.

    Returns:
        Two tuples of length 4, with None for sides that vary; or None if they are unknown.

    Raises:
        ValueError: the data is not pairs of image batches.
    """
    if y is not None:
        elements = (x, y)
    elif isinstance(x, tuple | list):
        raise ValueError(
            "CycleGAN trains on a tf.data.Dataset of (real_a, real_b), or on two arrays: pass them "
            "as x and y."
        )
    elif hasattr(x, "element_spec"):
        elements = x.element_spec
    elif hasattr(x, "shape"):
        elements = x
    else:
        return None  # a generator or a PyDataset
    count = len(elements) if isinstance(elements, tuple | list) else 1
    if count != 2:
        raise ValueError(
            f"CycleGAN trains on batches (real_a, real_b), but each batch of the data has {count} "
            "part(s): combine two datasets with tf_cyclegan.data.unpaired(a, b)."
        )
    # A distributed dataset has a spec for each replica: take the first.
    first = [tf.nest.flatten(element, expand_composites=True)[0].shape for element in elements]
    shapes = [tuple(tf.TensorShape(shape).as_list()) for shape in first]
    for domain, shape in zip("ab", shapes, strict=True):
        if len(shape) != 4 or shape[3] is None:
            raise ValueError(
                f"The images of {domain} have the shape {shape}: use batches [n, h, w, channels]."
            )
    return shapes


@contextmanager
def clear_errors(callbacks: Any) -> Iterator[None]:
    """Rejects callbacks that cannot work, and turns a failed image check into one line."""
    for callback in keras.tree.flatten(callbacks):
        if isinstance(callback, NEED_ONE_OPTIMIZER):
            raise ValueError(
                f"{type(callback).__name__} needs a model with one optimizer, but CycleGAN has "
                "two: remove it. For a schedule, pass a "
                "keras.optimizers.schedules.LearningRateSchedule to each as its learning_rate."
            )
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        for line in (*map(OUT_OF_RANGE.format, "ab"), NOT_DIVISIBLE):
            if line in error.message:
                raise ValueError(line) from None
        raise
