"""Image sizes that only a running graph knows."""

import tensorflow as tf


def checked_when_run(images, complaint, multiple=1, smallest=1):
    """The images; a graph of unknown height or width refuses, as it runs, what does not fit.

    Keras' `predict` traces such a graph once it has seen two sizes; so do input signatures and
    exporters. It gets two operations. An assertion stops it with the complaint. XLA, ONNX and
    LiteRT leave assertions out, so after it comes a reshape to the nearest sides that would fit:
    it costs nothing where these are the sides already, and fails in every runtime where they are
    not, most of which print its name. A graph of known sizes stays as it is.

    Args:
        images: `[n, h, w, c]`, c known.
        complaint: a sentence that says what fits and how to mend what does not.
        multiple: what height and width must be multiples of.
        smallest: the least that each must be.

    Returns:
        A tensor of the same values and static shape. Where one of the sides does not fit,
        computing it raises a `tf.errors.InvalidArgumentError`.
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
