"""The layers that CycleGAN's networks need and Keras lacks, all NHWC."""

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.cpu.fused_norm import (
    kernels_are_faster,
    standardized,
    standardized_images,
    widened,
)
from tf_cyclegan.cpu.winograd import convolution_3x3


@keras.saving.register_keras_serializable("tf_cyclegan")
class InstanceNormalization(keras.layers.Layer):
    """Normalises every channel of every image over its own height and width.

    `y = (x - mean) / sqrt(var + epsilon) * gamma + beta`, with the mean and the biased variance
    of one channel of one example (Ulyanov et al. 2016, arXiv:1607.08022). Training and inference
    are the same. Statistics of half floats are taken in float32.

    The arguments, their order and the weight names `gamma` and `beta` are those of
    `tfa.layers.InstanceNormalization`, so code, configs and weights written for TensorFlow Addons
    carry over. One default differs: `epsilon` is the 1e-5 of the authors' code, TensorFlow Addons
    had 1e-3; pass `epsilon=1e-3` with weights trained there. The authors' generators use no
    affine part: `center=False, scale=False`.

    Keras' `GroupNormalization(groups=-1)` computes the same in five dimensions, which phone GPUs
    do not take; here the moments stay in the rank of the input.

    Args:
        groups: accepted and ignored, as TensorFlow Addons does.
        axis: the channel axis.
        epsilon: added to the variance.
        center: whether to add a trained `beta`.
        scale: whether to multiply by a trained `gamma`.

    Call arguments:
        inputs: `[n, ..., c]` of rank 3 or more (for `axis=-1`), any float dtype.

    Returns:
        A tensor of the shape and dtype of the inputs.

    Raises:
        ValueError: the axis is 0, the rank is under 3, or the channel count is not known.
    """

    def __init__(
        self,
        groups=-1,
        axis=-1,
        epsilon=1e-5,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if axis == 0:
            raise ValueError("InstanceNormalization: axis 0 is the batch; name the channel axis.")
        del groups  # one group per channel is what makes this instance normalisation
        self.axis = axis
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) < 3:
            raise ValueError(
                f"InstanceNormalization needs [batch, ..., channels] of rank 3 or more, "
                f"got {tuple(input_shape)}: there is nothing to take the mean over."
            )
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                f"InstanceNormalization needs a known channel count on axis {self.axis}, "
                f"got {tuple(input_shape)}."
            )
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                shape=(channels,),
                name="gamma",
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = self.add_weight(
                shape=(channels,),
                name="beta",
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self.built = True

    def call(self, inputs, training=None):
        rank = len(inputs.shape)
        spatial_axes = [i for i in range(1, rank) if i != self.axis % rank]
        if training and on_cpu() and spatial_axes == [1, 2] and kernels_are_faster(inputs):
            y = standardized_images(inputs, self.epsilon)
        elif training:
            y = standardized(inputs, spatial_axes, self.epsilon)
        else:
            x = widened(inputs)
            # Mean first, then squares of the differences: E[x^2] - E[x]^2 cancels in short floats.
            centred = x - tf.reduce_mean(x, spatial_axes, keepdims=True)
            # Not tf.square: LiteRT's converter would fuse it to an operator without 16-bit
            # integers.
            variance = tf.reduce_mean(centred * centred, spatial_axes, keepdims=True)
            y = centred * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(self._affine(y), inputs.dtype)

    def normalize(self, inputs, mean, variance):
        """`call` with the moments of a larger whole, of which the inputs are a part.

        Args:
            inputs: as for `call`.
            mean, variance: of the whole, in float32, of shapes that broadcast with the inputs.
        """
        y = (widened(inputs) - mean) * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(self._affine(y), inputs.dtype)

    def _affine(self, y):
        if self.scale or self.center:
            y = widened(y)
        if self.scale:
            y *= self._by_channel(self.gamma, y)
        if self.center:
            y += self._by_channel(self.beta, y)
        return y

    def _by_channel(self, weight, x):
        shape = [1] * len(x.shape)
        shape[self.axis] = x.shape[self.axis]
        return tf.reshape(tf.cast(weight, x.dtype), shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
        }


@keras.saving.register_keras_serializable("tf_cyclegan")
class ReflectionPadding2D(keras.layers.Layer):
    """Pads height and width by mirroring about the border pixel, which is not repeated.

    PyTorch's `ReflectionPad2d`; the paper pads this way to avoid artefacts at the borders
    (section 7.1).

    Args:
        padding: pixels added on each of the four sides.

    Call arguments:
        inputs: `[n, h, w, c]` with h and w greater than `padding`.

    Returns:
        `[n, h + 2 * padding, w + 2 * padding, c]`.

    Raises:
        ValueError: height or width is known and no greater than `padding`.
    """

    def __init__(self, padding=1, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, inputs, training=None):
        p = self.padding
        for size in inputs.shape[1:3]:
            if size is not None and size <= p:
                raise ValueError(
                    f"A feature map of {inputs.shape[1]}x{inputs.shape[2]} cannot be mirrored by "
                    f"{p}: use larger images, or translate.py, which pads them for you."
                )
        if training and None not in inputs.shape[1:] and on_cpu():
            return reflected(inputs, p)
        return tf.pad(inputs, widths(p), mode="REFLECT")

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        p = 2 * self.padding
        return (n, None if h is None else h + p, None if w is None else w + p, c)

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def widths(padding):
    """Of height and width, as TensorFlow takes them."""
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]]


def reflected(x, padding):
    """`ReflectionPadding2D` with its pixels gathered, which takes a CPU a third of the time."""
    _, height, width, channels = x.shape
    places = np.arange(height * width, dtype=np.int32).reshape(height, width)
    places = np.pad(places, padding, mode="reflect")

    @tf.custom_gradient
    def reflect(x):
        y = tf.gather(tf.reshape(x, [-1, height * width, channels]), places, axis=1)
        return y, lambda dy: tf.raw_ops.MirrorPadGrad(
            input=dy, paddings=widths(padding), mode="REFLECT"
        )

    return reflect(x)


@keras.saving.register_keras_serializable("tf_cyclegan")
class CropTopLeft(keras.layers.Layer):
    """Drops the first row and column, so that a transposed convolution lines up with PyTorch's.

    A 3x3 transposed convolution of stride 2 gives 2n + 1 rows. PyTorch's `padding=1,
    output_padding=1` keeps rows 1 to 2n; Keras' "same" keeps 0 to 2n - 1, one pixel off.
    """

    def call(self, inputs):
        # Not inputs[:, 1:, 1:]: that has a gradient of one thread, 5 % of a step on a CPU.
        # Sizes are spelled out where they are known, since XNNPACK takes no -1 for "the rest".
        n, h, w, c = inputs.shape
        return tf.slice(inputs, [0, 1, 1, 0], [n or -1, h - 1 if h else -1, w - 1 if w else -1, c])

    def compute_output_shape(self, input_shape):
        n, h, w, c = input_shape
        return (n, h and h - 1, w and w - 1, c)


@keras.saving.register_keras_serializable("tf_cyclegan")
class ResidualBlock(keras.layers.Layer):
    """`x + f(x)`, f two reflection-padded 3x3 convolutions, each with norm, a ReLU between them.

    No ReLU follows the sum, as in the authors' code and Johnson et al. 2016.

    Args:
        filters: channels in and out.
        norm: "instance", "batch" or "none".
        dropout: rate of the dropout between the two convolutions, 0 for none.

    Call arguments:
        inputs: `[n, h, w, filters]`, h and w at least 2.

    Returns:
        A tensor of the inputs' shape.
    """

    def __init__(self, filters, norm="instance", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.norm = norm
        self.dropout = dropout
        dtype = self.dtype_policy
        self.body = keras.Sequential(
            [
                ReflectionPadding2D(1, dtype=dtype),
                convolution(filters, 3, norm=norm, dtype=dtype),
                *normalization(norm, dtype),
                ReLU(dtype=dtype),
                *([keras.layers.Dropout(dropout, dtype=dtype)] if dropout else []),
                ReflectionPadding2D(1, dtype=dtype),
                convolution(filters, 3, norm=norm, dtype=dtype),
                *normalization(norm, dtype),
            ]
        )

    def build(self, input_shape):
        self.body.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        return inputs + self.body(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "norm": self.norm,
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable("tf_cyclegan")
class Conv2D(keras.layers.Conv2D):
    """Keras' own, which on a CPU trains by Winograd's convolutions where they are faster.

    It has the name of Keras' layer, since files of weights know a layer by that.
    """

    def call(self, inputs, training=None):
        if not (training and on_cpu() and self._winograd_is_faster(inputs)):
            return super().call(inputs)
        outputs = convolution_3x3(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs)

    def _winograd_is_faster(self, inputs):
        """As benchmarks/train_step.py has it; half floats would lose too much precision."""
        n, height, width, channels = inputs.shape
        return (
            (self.kernel_size, self.strides, self.dilation_rate) == ((3, 3), (1, 1), (1, 1))
            and (self.padding, self.groups, self.data_format) == ("valid", 1, "channels_last")
            and inputs.dtype == tf.float32
            and min(channels, self.filters) >= 128
            and None not in (n, height, width)
            and height % 4 == width % 4 == 2
        )


@keras.saving.register_keras_serializable("tf_cyclegan")
class ReLU(keras.layers.ReLU):
    """Keras' own, which in training keeps its input for the gradient, and not its output.

    The norm before it keeps the same tensor, and what follows mostly keeps a padded copy of the
    output: a sixth less memory for a step.
    """

    def call(self, inputs, training=None):
        return relu_by_input(inputs) if training else super().call(inputs)


@tf.custom_gradient
def relu_by_input(x):
    """`max(x, 0)`."""
    return tf.nn.relu(x), lambda dy: tf.raw_ops.ReluGrad(gradients=dy, features=x)


def on_cpu():
    """Whether layers may train by what is faster on a CPU; GPUs have kernels of their own.

    In translation they never do: exported models compute as the network.
    """
    return not tf.config.list_logical_devices("GPU")


def initializer():
    """N(0, 0.02), not truncated: section 7.1 and the authors' `init_weights`."""
    return keras.initializers.RandomNormal(stddev=0.02)


def convolution(filters, size, strides=1, norm="none", use_bias=None, dtype=None):
    """An unpadded convolution with the authors' initializer and rule for biases.

    Args:
        filters, size, strides: as in `keras.layers.Conv2D`.
        norm: the norm that follows. A bias stands before "instance" only, as in the authors'
            code; instance norm takes it out again, it is kept so that weights can be exchanged.
        use_bias: overrides that rule, for the first and last layers.
    """
    return Conv2D(
        filters,
        size,
        strides=strides,
        padding="valid",
        data_format="channels_last",
        use_bias=norm == "instance" if use_bias is None else use_bias,
        kernel_initializer=initializer(),
        dtype=dtype,
    )


def normalization(norm, dtype=None):
    """The norm layers that follow a convolution: a list of one, or of none.

    Args:
        norm: "instance" (no affine part, epsilon 1e-5), "batch" (PyTorch's epsilon 1e-5 and
            momentum, gamma from N(1, 0.02)) or "none".

    Raises:
        ValueError: another name.
    """
    if norm == "instance":
        return [InstanceNormalization(epsilon=1e-5, center=False, scale=False, dtype=dtype)]
    if norm == "batch":
        return [
            keras.layers.BatchNormalization(
                momentum=0.9,
                epsilon=1e-5,
                gamma_initializer=keras.initializers.RandomNormal(mean=1.0, stddev=0.02),
                synchronized=True,
                dtype=dtype,
            )
        ]
    if norm == "none":
        return []
    raise ValueError(f"norm={norm!r} is not known: use 'instance', 'batch' or 'none'.")


def check_nhwc(shape, channels):
    """Raises a ValueError where images of a shape are not `[n, height, width, channels]`."""
    if len(shape) != 4 or shape[-1] not in (None, channels):
        raise ValueError(
            f"The images are {tuple(shape)}, and this network takes (n, height, width, {channels}"
            "): give a batch, with the channels last."
        )


def check_positive(**values):
    """Raises a ValueError that names the first of the values that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: use 1 or more.")
