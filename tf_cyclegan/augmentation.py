"""Differentiable augmentation of what the discriminators see: Zhao et al. 2020, arXiv:2006.10738.

With few training images, discriminators memorize them. If real images and fakes are augmented
alike before a discriminator sees them, and gradients flow through the augmentation, the generators
still learn the distribution of the images without augmentation.
"""

import tensorflow as tf

from tf_cyclegan.random_numbers import random_integers, to_unit_interval

KINDS = ("translation", "color", "cutout")
SHIFT = 1 / 8  # largest translation, as a share of the side
HOLE = 1 / 2  # side of the cutout, as a share of the side


def check_kinds(names: str) -> None:
    """Raises a ValueError if names is not a list of `KINDS`, separated by commas."""
    for name in names.split(",") if names else []:
        if name not in KINDS:
            raise ValueError(
                f"d_augment has {name!r}: use one or more of {', '.join(KINDS)}, with commas."
            )


def augment(images: tf.Tensor, names: str, seed: int, place: tf.Tensor) -> tf.Tensor:
    """Augments a batch, each image by its own random draw.

    As in the authors' code: "color" changes brightness by up to 0.5, saturation by a factor of 0 to
    2 and contrast by a factor of 0.5 to 1.5; "translation" shifts by up to an eighth of a side;
    "cutout" erases a square of half the side, which may be partly outside. Pixels that are missing
    become 0, which is gray.

    Args:
        images: `[n, h, w, c]` in [-1, 1].
        names: any of `KINDS`, separated by commas.
        seed: from `tf_cyclegan.random_numbers.derive_seed`.
        place: int64 scalar; the same seed and place give the same draws, whatever the names.

    Returns:
        `[n, h, w, c]`. Colors may be outside of [-1, 1].

    Raises:
        ValueError: a name is unknown.
    """
    check_kinds(names)
    count, height, width = tf.unstack(tf.shape(images)[:3])
    draws = tf.cast(to_unit_interval(random_integers(7 * count, seed, place)), images.dtype)
    brightness, saturation, contrast, *rest = tf.unstack(tf.reshape(draws, [7, count, 1, 1, 1]))
    down, right, top, left = (draw[:, 0, 0, 0] for draw in rest)
    kinds = names.split(",")
    if "color" in kinds:
        images += brightness - 0.5
        gray = tf.reduce_mean(images, axis=3, keepdims=True)
        images = gray + (images - gray) * (2 * saturation)
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        images = mean + (images - mean) * (contrast + 0.5)
    if "translation" in kinds:
        images = shift(images, 1, offsets(down, height))
        images = shift(images, 2, offsets(right, width))
    if "cutout" in kinds:
        inside = hole(top, height)[:, :, tf.newaxis] & hole(left, width)[:, tf.newaxis, :]
        images = tf.where(inside[..., tf.newaxis], tf.zeros_like(images), images)
    return images


def offsets(draws: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Maps draws `[n]` in [0, 1) to shifts of up to `SHIFT` of a side, int32."""
    most = round_to_int(SHIFT, side)
    return tf.cast(draws * tf.cast(2 * most + 1, draws.dtype), tf.int32) - most


def shift(images: tf.Tensor, axis: int, by: tf.Tensor) -> tf.Tensor:
    """Shifts each image by its own number of pixels `[n]` along an axis; what is missing is 0."""
    side = tf.shape(images)[axis]
    source = tf.range(side) - by[:, tf.newaxis]  # [n, side]
    padding = [[0, 0]] * 4
    padding[axis] = [1, 1]
    return tf.gather(
        tf.pad(images, padding), tf.clip_by_value(source + 1, 0, side + 1), axis=axis, batch_dims=1
    )


def hole(draws: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Returns which pixels of a side are in the cutout: bool `[n, side]`."""
    size = round_to_int(HOLE, side)
    center = tf.cast(draws * tf.cast(side + 1 - size % 2, draws.dtype), tf.int32)
    distance = tf.range(side) - (center - size // 2)[:, tf.newaxis]
    return (distance >= 0) & (distance < size)


def round_to_int(share: float, side: tf.Tensor) -> tf.Tensor:
    """Returns a share of a side in whole pixels."""
    return tf.cast(share * tf.cast(side, tf.float32) + 0.5, tf.int32)
