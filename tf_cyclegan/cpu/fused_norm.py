"""Standardization for InstanceNormalization in training, with gradients of fewer operations.

Ioffe and Szegedy 2015, section 3, simplified: with y the result, m(.) the mean and f the factor
`1 / sqrt(var + epsilon)`, `dx = f * (dy - m(dy) - y * m(dy * y))`. All functions are twice
differentiable. The only large tensor kept for the gradient is y, in the dtype of x.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tf_cyclegan import cpu


def widened(x: tf.Tensor) -> tf.Tensor:
    """Casts to at least float32: in half precision the variance is imprecise, and sums overflow."""
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))


def standardized(x: tf.Tensor, axes: list[int], epsilon: float) -> tf.Tensor:
    """Computes `(x - mean) / sqrt(var + epsilon)` over the given axes."""
    if axes == [1, 2] and kernels_are_faster(x):
        return standardized_images(x, epsilon)

    @tf.custom_gradient
    def standardize(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        wide = widened(x)
        centred = wide - tf.reduce_mean(wide, axes, keepdims=True)
        factor = tf.math.rsqrt(tf.reduce_mean(centred * centred, axes, keepdims=True) + epsilon)
        y = tf.cast(centred * factor, x.dtype)
        return y, lambda dy: gradient(dy, y, factor, axes)

    return standardize(x)


def gradient(dy: tf.Tensor, y: tf.Tensor, factor: tf.Tensor, axes: list[int]) -> tf.Tensor:
    """Computes the gradient of `standardized`, given `factor` in the dtype of `widened`."""
    with tf.control_dependencies([dy]):  # or a graph would widen y early, and keep the copy
        wide, wide_dy = widened(tf.identity(y)), widened(dy)
    along = tf.reduce_mean(wide_dy * wide, axes, keepdims=True)
    dx = factor * (wide_dy - tf.reduce_mean(wide_dy, axes, keepdims=True) - wide * along)
    return tf.cast(dx, y.dtype)


def kernels_are_faster(x: tf.Tensor) -> bool:
    """Returns whether `standardized_images` is faster: for few and large maps, on a CPU."""
    if not cpu.enabled():
        return False
    known = x.shape.is_fully_defined() and x.dtype != tf.float64
    return known and x.shape[0] <= 2 and x.shape.num_elements() >= 1 << 17


def standardized_images(x: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Computes `standardized` over height and width with the kernels of batch norm.

    Each image is a batch of its own, since batch norm computes one mean per batch.

    Args:
        x: `[n, h, w, c]`, for which `kernels_are_faster` is true (see docs/performance.md).
    """
    images = [standardized_image(image, epsilon) for image in tf.split(x, x.shape[0])]
    return tf.concat(images, axis=0)


def standardized_image(x: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Computes `standardized_images` for a single image `[1, h, w, c]`."""
    _, height, width, channels = x.shape
    pixels, axes = height * width, [1, 2]
    zeros, ones, none = tf.zeros([channels]), tf.ones([channels]), tf.zeros([0])

    @tf.custom_gradient
    def standardize(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        y, _, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=ones, offset=zeros, mean=none, variance=none, epsilon=epsilon
        )

        @tf.custom_gradient
        def inverse_deviation(  # of x: TensorFlow has no gradient of the kernel's variance
            _: tf.Tensor,
        ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            factor = tf.math.rsqrt(variance * ((pixels - 1) / pixels) + epsilon)
            return factor, lambda d: tf.cast(-(factor**2) / pixels * d * widened(y), x.dtype)

        factor = inverse_deviation(x)
        return y, lambda dy: by_kernel(dy, y, factor)

    @tf.custom_gradient
    def by_kernel(
        dy: tf.Tensor, y: tf.Tensor, factor: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        # Uses y, with mean 0 and variance 1, in place of x, so that x need not be kept.
        dx, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy,
            x=y,
            scale=factor,
            reserve_space_1=zeros,
            reserve_space_2=ones,
            reserve_space_3=none,
            epsilon=0.0,
        )

        def second(d: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch([dy, y, factor])
                dx = gradient(dy, y, factor, axes)
            return tape.gradient(dx, [dy, y, factor], d)

        return dx, second

    return standardize(x)
