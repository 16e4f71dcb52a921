"""3x3 convolutions by Winograd's minimal filtering, with a quarter of the multiplications.

Lavin and Gray 2016, arXiv:1509.09308, F(4x4, 3x3). A tile of 4x4 outputs needs 6x6 inputs. These
and the 3x3 kernel are transformed to 36 numbers each, so that 36 products replace 144:
`y = A (B x * G w)`. With the sum over channels, these are 36 matrix products.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tf_cyclegan import cpu

if TYPE_CHECKING:
    import keras

# The transforms of one dimension (section 4.3) and, below, of a tile flattened row by row.
INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
B, G, A = (np.kron(np.array(m), np.array(m)) for m in (INPUT, KERNEL, OUTPUT))


def is_faster(layer: "keras.layers.Conv2D", inputs: tf.Tensor) -> bool:
    """Returns whether `convolution_3x3` is faster, by benchmarks/train_step.py.

    Half-precision floats would lose too much precision.

    Args:
        layer: a Keras Conv2D.
        inputs: `[n, h, w, c]`.
    """
    n, height, width, channels = inputs.shape
    return (
        cpu.enabled()
        and (layer.kernel_size, layer.strides, layer.dilation_rate) == ((3, 3), (1, 1), (1, 1))
        and (layer.padding, layer.groups, layer.data_format) == ("valid", 1, "channels_last")
        and inputs.dtype == tf.float32
        and min(channels, layer.filters) >= 128
        and None not in (n, height, width)
        and height % 4 == width % 4 == 2
    )


@tf.custom_gradient
def convolution_3x3(
    inputs: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Computes an unpadded convolution of stride 1, and its gradients, by the transforms.

    It is meant for CPUs and float32. Its rounding error is about four times that of TensorFlow's
    convolution, 3e-6 of the result. It is twice differentiable.

    Args:
        inputs: `[n, 4i + 2, 4j + 2, c]`, all known.
        kernel: `[3, 3, c, k]`.

    Returns:
        `[n, 4i, 4j, k]`.
    """
    return forward(inputs, kernel), lambda dy: gradients(inputs, kernel, dy)


@tf.function  # one graph for all layers of a size: traced inline, a step would take twice as long
def forward(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Computes the convolution."""
    n, height, width, _ = inputs.shape
    x = transformed_inputs(inputs, after=inputs)
    y = linear(A, tf.matmul(x, transformed_kernel(kernel, after=x)))
    return image(tf.reshape(y, [4, 4, n, (height - 2) // 4, (width - 2) // 4, kernel.shape[3]]))


@tf.function
def gradients(inputs: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the gradients of inputs and kernel, the kernel's first to save memory."""
    n, height, width, c = inputs.shape
    dm = tf.reshape(linear(A.T, tiles(dy)), [36, -1, kernel.shape[3]])
    x = transformed_inputs(inputs, after=dm)  # recomputed: twice as large as inputs
    dw = linear(G.T, tf.matmul(x, dm, transpose_a=True))
    dx = linear(B.T, tf.matmul(dm, transformed_kernel(kernel, after=dw), transpose_b=True))
    dx = tf.reshape(dx, [6, 6, n, (height - 2) // 4, (width - 2) // 4, c])
    return sum_of_overlapping_tiles(dx), tf.reshape(dw, kernel.shape)


def transformed_inputs(inputs: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Computes the transformed inputs, `[36, n * i * j, c]`, after another tensor.

    Without this dependency, a graph would compute them early and keep them in memory.
    """
    with tf.control_dependencies([after]):
        x = overlapping_tiles(tf.identity(inputs))
    return tf.reshape(linear(B, x), [36, -1, inputs.shape[3]])


def transformed_kernel(kernel: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Computes the transformed kernel, `[36, c, k]`, after another tensor."""
    with tf.control_dependencies([after]):
        w = linear(G, tf.identity(kernel))
    return tf.reshape(w, [36, *kernel.shape[2:]])


def linear(matrix: np.ndarray, x: tf.Tensor) -> tf.Tensor:
    """Multiplies `matrix` with the leading dimensions of x; returns a matrix."""
    rows = tf.reshape(x, [matrix.shape[1], -1])
    return tf.matmul(tf.constant(matrix, x.dtype), rows)


def tiles(x: tf.Tensor) -> tf.Tensor:
    """Splits an image into tiles: `[n, 4i, 4j, c]` -> `[4, 4, n, i, j, c]`."""
    n, height, width, c = x.shape
    return tf.transpose(tf.reshape(x, [n, height // 4, 4, width // 4, 4, c]), [2, 4, 0, 1, 3, 5])


def image(x: tf.Tensor) -> tf.Tensor:
    """Joins tiles to an image: `[4, 4, n, i, j, c]` -> `[n, 4i, 4j, c]`."""
    _, _, n, rows, columns, c = x.shape
    return tf.reshape(tf.transpose(x, [2, 3, 0, 4, 1, 5]), [n, 4 * rows, 4 * columns, c])


def overlapping_tiles(x: tf.Tensor) -> tf.Tensor:
    """Gathers tiles that overlap by 2: `[n, 4i + 2, 4j + 2, c]` -> `[6, 6, n, i, j, c]`."""
    n, height, width, c = x.shape
    places = np.arange(n * height * width, dtype=np.int32).reshape(n, height, width)
    windows = np.lib.stride_tricks.sliding_window_view(places, (6, 6), axis=(1, 2))[:, ::4, ::4]
    return tf.gather(tf.reshape(x, [-1, c]), windows.transpose(3, 4, 0, 1, 2))


def sum_of_overlapping_tiles(x: tf.Tensor) -> tf.Tensor:
    """Adds up overlapping tiles: `[6, 6, n, i, j, c]` -> `[n, 4i + 2, 4j + 2, c]`."""
    none, after, before = [0, 0], [0, 1], [1, 0]
    x = tf.pad(x[:4], [none, none, none, after, none, none]) + tf.pad(
        x[4:], [[0, 2], none, none, before, none, none]
    )
    x = tf.pad(x[:, :4], [none, none, none, none, after, none]) + tf.pad(
        x[:, 4:], [none, [0, 2], none, none, before, none]
    )
    return image(x)[:, :-2, :-2]
