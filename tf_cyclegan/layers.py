"""The layers that CycleGAN needs and Keras lacks, all for NHWC tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_cyclegan.cpu import winograd
from tf_cyclegan.cpu.fused_norm import standardized, widened


@keras.saving.register_keras_serializable("tf_cyclegan")
class InstanceNormalization(keras.layers.Layer):
    """Normalizes each channel of each image over its height and width.

    `y = (x - mean) / sqrt(var + epsilon) * gamma + beta`, with the mean and the biased variance
    of one channel of one example (Ulyanov et al. 2016, arXiv:1607.08022). Training and inference
    are the same. For half-precision inputs, the statistics are computed in float32.

    The arguments, their order and the weight names `gamma` and `beta` are those of
    `tfa.layers.InstanceNormalization`, so code, configs and weights written for TensorFlow Addons
    carry over. One default differs: `epsilon` is 1e-5 as in the authors' code, while TensorFlow
    Addons had 1e-3; pass `epsilon=1e-3` with weights trained there. The authors' generators use no
    affine part: `center=False, scale=False`.

    Keras' `GroupNormalization(groups=-1)` computes the same, but with five-dimensional tensors,
    which phone GPUs do not support. Here all tensors keep the rank of the input.

    Args:
        groups: ignored, for compatibility with TensorFlow Addons.
        axis: the channel axis.
        epsilon: added to the variance.
        center: whether to add a trained `beta`.
        scale: whether to multiply by a trained `gamma`.

    Call arguments:
        inputs: `[n, ..., c]` of rank 3 or more (for `axis=-1`), any float dtype.

    Returns:
        A tensor of the shape and dtype of the inputs.

    Raises:
        ValueError: the axis is 0, the rank is below 3, or the number of channels is unknown.
    """

    def __init__(
        self,
        groups: int = -1,
        axis: int = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | keras.initializers.Initializer = "zeros",
        gamma_initializer: str | keras.initializers.Initializer = "ones",
        beta_regularizer: str | keras.regularizers.Regularizer | None = None,
        gamma_regularizer: str | keras.regularizers.Regularizer | None = None,
        beta_constraint: str | keras.constraints.Constraint | None = None,
        gamma_constraint: str | keras.constraints.Constraint | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if axis == 0:
            raise ValueError("InstanceNormalization: axis 0 is the batch; pass the channel axis.")
        del groups  # instance normalization always has one group per channel
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

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) < 3:
            raise ValueError(
                f"InstanceNormalization needs [batch, ..., channels] of rank 3 or more, "
                f"got {tuple(input_shape)}: add the spatial axes."
            )
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                f"InstanceNormalization needs a known channel count on axis {self.axis}, "
                f"got {tuple(input_shape)}: set that axis in the input shape."
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

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        rank = len(inputs.shape)
        spatial_axes = [i for i in range(1, rank) if i != self.axis % rank]
        if training:
            y = standardized(inputs, spatial_axes, self.epsilon)
        else:
            x = widened(inputs)
            # Not E[x^2] - E[x]^2, which loses precision by cancellation.
            centred = x - tf.reduce_mean(x, spatial_axes, keepdims=True)
            # Not tf.square: LiteRT's converter would fuse it into an operator that does not support
            # 16-bit integers.
            variance = tf.reduce_mean(centred * centred, spatial_axes, keepdims=True)
            y = centred * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(self._affine(y), inputs.dtype)

    def normalize(self, inputs: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Normalizes a part of an image with the mean and variance of the whole image.

        Args:
            inputs: as for `call`.
            mean, variance: of the whole image, float32, in shapes that broadcast with the inputs.
        """
        y = (widened(inputs) - mean) * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(self._affine(y), inputs.dtype)

    def _affine(self, y: tf.Tensor) -> tf.Tensor:
        if self.scale or self.center:
            y = widened(y)
        if self.scale:
            y *= self._by_channel(self.gamma, y)
        if self.center:
            y += self._by_channel(self.beta, y)
        return y

    def _by_channel(self, weight: keras.Variable, x: tf.Tensor) -> tf.Tensor:
        shape = [1] * len(x.shape)
        shape[self.axis] = x.shape[self.axis]
        return tf.reshape(tf.cast(weight, x.dtype), shape)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
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

    The same as PyTorch's `ReflectionPad2d`. The paper uses it to reduce artifacts at the borders
    (section 7.1).

    Args:
        padding: pixels added on each of the four sides.

    Call arguments:
        inputs: `[n, h, w, c]` with h and w greater than `padding`.

    Returns:
        `[n, h + 2 * padding, w + 2 * padding, c]`.

    Raises:
        ValueError: `padding` is negative or not an integer; or height or width is known and not
            greater than it.
    """

    def __init__(self, padding: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(padding, int) or padding < 0:
            raise ValueError(
                f"ReflectionPadding2D(padding={padding}): use an integer of 0 or more."
            )
        self.padding = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        p = self.padding
        for size in inputs.shape[1:3]:
            if size is not None and size <= p:
                raise ValueError(
                    f"A feature map of {inputs.shape[1]}x{inputs.shape[2]} is too small to be "
                    f"padded by {p}: use larger images, or tf-cyclegan translate, "
                    "which pads them for you."
                )
        return tf.pad(inputs, [[0, 0], [p, p], [p, p], [0, 0]], mode="REFLECT")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[Any, ...]:
        n, h, w, c = input_shape
        p = 2 * self.padding
        return (n, None if h is None else h + p, None if w is None else w + p, c)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


@keras.saving.register_keras_serializable("tf_cyclegan")
class CropTopLeft(keras.layers.Layer):
    """Drops the first row and column to align a transposed convolution with PyTorch's.

    A 3x3 transposed convolution of stride 2 gives 2n + 1 rows. PyTorch's `padding=1,
    output_padding=1` keeps rows 1 to 2n, but Keras' "same" keeps rows 0 to 2n - 1.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # Not inputs[:, 1:, 1:]: its gradient is single-threaded and takes 5 % of a step on a CPU.
        # Known sizes are explicit, since XNNPACK does not support -1 for "the rest".
        n, h, w, c = inputs.shape
        return tf.slice(inputs, [0, 1, 1, 0], [n or -1, h - 1 if h else -1, w - 1 if w else -1, c])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        n, h, w, c = input_shape
        return (n, h and h - 1, w and w - 1, c)


@keras.saving.register_keras_serializable("tf_cyclegan")
class ResidualBlock(keras.layers.Layer):
    """Computes `x + f(x)`, where f is two reflection-padded 3x3 convolutions.

    A norm follows each convolution, and a ReLU the first norm. There is no ReLU after the sum, as
    in the authors' code and Johnson et al. 2016.

    Args:
        filters: channels of input and output.
        norm: "instance", "batch" or "none".
        dropout: rate of the dropout between the two convolutions, 0 for none.
        separable: whether the convolutions are depthwise-separable.

    Call arguments:
        inputs: `[n, h, w, filters]`, h and w at least 2.

    Returns:
        A tensor of the inputs' shape.
    """

    def __init__(
        self,
        filters: int,
        norm: str = "instance",
        dropout: float = 0.0,
        separable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.norm = norm
        self.dropout = dropout
        self.separable = separable
        dtype = self.dtype_policy

        def convolved() -> list[keras.Layer]:
            if separable:
                return separable_convolution(filters, 1, norm, dtype)
            return [convolution(filters, 3, norm=norm, dtype=dtype)]

        self.body = keras.Sequential(
            [
                ReflectionPadding2D(1, dtype=dtype),
                *convolved(),
                *normalization(norm, dtype),
                ReLU(dtype=dtype),
                *([keras.layers.Dropout(dropout, dtype=dtype)] if dropout else []),
                ReflectionPadding2D(1, dtype=dtype),
                *convolved(),
                *normalization(norm, dtype),
            ]
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.body.build(input_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return inputs + self.body(inputs, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "norm": self.norm,
            "dropout": self.dropout,
            "separable": self.separable,
        }


@keras.saving.register_keras_serializable("tf_cyclegan")
class Conv2D(keras.layers.Conv2D):
    """Keras' Conv2D, with Winograd convolutions in training on a CPU where they are faster.

    It keeps the name of Keras' layer because weights files identify layers by it.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not (training and winograd.is_faster(self, inputs)):
            return super().call(inputs)
        outputs = winograd.convolution_3x3(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs)


@keras.saving.register_keras_serializable("tf_cyclegan")
class ReLU(keras.layers.ReLU):
    """Keras' ReLU, which in training keeps its input for the gradient instead of its output.

    The norm before it keeps the same tensor anyway, and the next layer mostly keeps a padded copy
    of the output, so this saves a sixth of the memory of a step.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return relu_by_input(inputs) if training else super().call(inputs)


@tf.custom_gradient
def relu_by_input(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes `max(x, 0)` with a gradient that needs only x."""
    return tf.nn.relu(x), lambda dy: tf.raw_ops.ReluGrad(gradients=dy, features=x)


def initializer() -> keras.initializers.Initializer:
    """Returns N(0, 0.02), not truncated: section 7.1 and the authors' `init_weights`."""
    return keras.initializers.RandomNormal(stddev=0.02)


def convolution(
    filters: int,
    size: int,
    strides: int = 1,
    norm: str = "none",
    use_bias: bool | None = None,
    dtype: keras.DTypePolicy | str | None = None,
) -> Conv2D:
    """Returns an unpadded convolution with the authors' initializer and rule for biases.

    Args:
        filters, size, strides: as in `keras.layers.Conv2D`.
        norm: the norm that follows. Only a convolution before "instance" has a bias, as in the
            authors' code. Instance norm cancels it, but weights files have it.
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


def depthwise(
    strides: int = 1, dtype: keras.DTypePolicy | str | None = None
) -> keras.layers.DepthwiseConv2D:
    """Returns an unpadded 3x3 convolution of each channel by itself, without a bias."""
    return keras.layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="valid",
        data_format="channels_last",
        use_bias=False,
        depthwise_initializer=initializer(),
        dtype=dtype,
    )


def separable_convolution(
    filters: int, strides: int, norm: str, dtype: keras.DTypePolicy | str | None = None
) -> list[keras.Layer]:
    """Returns an unpadded 3x3 convolution in two parts: one of each channel, and a 1x1 one.

    It needs about a ninth of the weights and multiplications of a full convolution. Howard et al.
    2017, arXiv:1704.04861, have a norm and a ReLU between the two. Here, there is no layer between
    them, because a norm made students slower and not better (docs/student.md).
    """
    return [depthwise(strides, dtype), convolution(filters, 1, norm=norm, dtype=dtype)]


def normalization(norm: str, dtype: keras.DTypePolicy | str | None = None) -> list[keras.Layer]:
    """Returns the norm layers that follow a convolution: a list of one or none.

    Args:
        norm: "instance" (no affine part, epsilon 1e-5), "batch" (PyTorch's epsilon 1e-5 and
            momentum, gamma from N(1, 0.02)) or "none".

    Raises:
        ValueError: the norm is unknown.
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


def check_nhwc(shape: Sequence[int | None], channels: int | None) -> None:
    """Raises a ValueError if the shape of images is not `[n, height, width, channels]`."""
    if len(shape) != 4 or shape[-1] not in (None, channels):
        raise ValueError(
            f"The shape of the images is {tuple(shape)}, but this network takes (n, height, width, "
            f"{channels}): pass a batch with the channels last."
        )


def check_positive(**values: int) -> None:
    """Raises a ValueError that names the first of the values that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value}: use 1 or more.")
