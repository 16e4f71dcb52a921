"""Checks of image sizes that are known only when a graph runs."""

import tensorflow as tf


def checked_when_run(
    images: tf.Tensor, complaint: str, multiple: int = 1, smallest: int = 1
) -> tf.Tensor:
    """Returns the images, after a check of height and width when the graph runs.

    A graph of unknown height and width comes from Keras' `predict` once it has seen two sizes, from
    input signatures and from exporters. It gets two operations. The first is an assertion with the
    given message. XLA, ONNX and LiteRT drop assertions, so the second reshapes the images to the
    nearest valid size: for a valid size this costs nothing, for another it fails in every runtime,
    and most of them print the name of the operation. A graph of known sizes gets no checks.

    Args:
        images: `[n, h, w, c]`, c known.
        complaint: error message that says which sizes are valid and what to do.
        multiple: what height and width must be multiples of.
        smallest: smallest valid height and width.

    Returns:
        A tensor of the same values and static shape. If the size is invalid, computing it raises
        a `tf.errors.InvalidArgumentError`.
    """
    if None not in images.shape[1:3]:
        return images
    count, height, width, channels = images.shape
    shape = tf.shape(images)
    sides = shape[1:3]
    nearest = tf.maximum(sides - sides % multiple, smallest)
    fits = tf.reduce_all(nearest == sides)
    with tf.control_dependencies([tf.debugging.Assert(fits, [complaint, "Got", sides])]):
        name = f"sides_are_multiples_of_{multiple}_and_at_least_{smallest}"
        same = tf.reshape(images, [count or shape[0], nearest[0], nearest[1], channels], name)
    same.set_shape(images.shape)
    return same
