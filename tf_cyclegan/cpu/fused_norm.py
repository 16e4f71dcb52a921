"""What InstanceNormalization trains by: standard scores with gradients of fewer operations.

Ioffe and Szegedy 2015, section 3, simplified: with y the result, m(.) the mean and f the factor
`1 / sqrt(var + epsilon)`, `dx = f * (dy - m(dy) - y * m(dy * y))`. All can be differentiated again.
Of what they compute only y is kept for the gradient, in the dtype of x.
"""

import keras
import tensorflow as tf


def widened(x):
    """At least float32: half floats lose the variance, and float16 sums overflow."""
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))


def standardized(x, axes, epsilon):
    """`(x - mean) / sqrt(var + epsilon)` over some axes."""

    @tf.custom_gradient
    def standardize(x):
        wide = widened(x)
        centred = wide - tf.reduce_mean(wide, axes, keepdims=True)
        factor = tf.math.rsqrt(tf.reduce_mean(centred * centred, axes, keepdims=True) + epsilon)
        y = tf.cast(centred * factor, x.dtype)
        return y, lambda dy: gradient(dy, y, factor, axes)

    return standardize(x)


def gradient(dy, y, factor, axes):
    """That of `standardized` by x, given `factor` of a dtype that is `widened`."""
    with tf.control_dependencies([dy]):  # or a graph would widen y at once, and keep that
        wide, wide_dy = widened(tf.identity(y)), widened(dy)
    along = tf.reduce_mean(wide_dy * wide, axes, keepdims=True)
    dx = factor * (wide_dy - tf.reduce_mean(wide_dy, axes, keepdims=True) - wide * along)
    return tf.cast(dx, y.dtype)


def kernels_are_faster(x):
    """Whether `standardized_images` is, on a CPU: of few and large maps (docs/performance.md)."""
    known = x.shape.is_fully_defined() and x.dtype != tf.float64
    return known and x.shape[0] <= 2 and x.shape.num_elements() >= 1 << 17


def standardized_images(x, epsilon):
    """`standardized` over height and width by batch norm's kernels, faster on a CPU.

    An image is a batch of one for them, since a batch shares its moments.

    Args:
        x: `[n, h, w, c]`, of which `kernels_are_faster`.
    """
    images = [standardized_image(image, epsilon) for image in tf.split(x, x.shape[0])]
    return tf.concat(images, axis=0)


def standardized_image(x, epsilon):
    """`standardized_images` of one."""
    _, height, width, channels = x.shape
    pixels, axes = height * width, [1, 2]
    zeros, ones, none = tf.zeros([channels]), tf.ones([channels]), tf.zeros([0])

    @tf.custom_gradient
    def standardize(x):
        y, _, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=ones, offset=zeros, mean=none, variance=none, epsilon=epsilon
        )

        @tf.custom_gradient
        def inverse_deviation(_):  # of x: the kernel's variance has no gradient in TensorFlow
            factor = tf.math.rsqrt(variance * ((pixels - 1) / pixels) + epsilon)
            return factor, lambda d: tf.cast(-(factor**2) / pixels * d * widened(y), x.dtype)

        factor = inverse_deviation(x)
        return y, lambda dy: by_kernel(dy, y, factor)

    @tf.custom_gradient
    def by_kernel(dy, y, factor):
        # With y in the place of x, whose moments are 0 and 1, x need not be kept.
        dx, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy,
            x=y,
            scale=factor,
            reserve_space_1=zeros,
            reserve_space_2=ones,
            reserve_space_3=none,
            epsilon=0.0,
        )

        def second(d):
            with tf.GradientTape() as tape:
                tape.watch([dy, y, factor])
                dx = gradient(dy, y, factor, axes)
            return tape.gradient(dx, [dy, y, factor], d)

        return dx, second

    return standardize(x)
