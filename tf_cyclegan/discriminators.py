"""Discriminators: map an image to logits, which are high where it looks real."""

from typing import Any

import keras
import tensorflow as tf

from tf_cyclegan.layers import check_nhwc, check_positive, convolution, normalization
from tf_cyclegan.model_archive import save
from tf_cyclegan.sizes import checked_when_run


@keras.saving.register_keras_serializable("tf_cyclegan")
class PatchDiscriminator(keras.Model):
    """PatchGAN: one logit for each overlapping patch, of 70x70 pixels with three layers.

    Section 7.2 of the paper; the authors' `NLayerDiscriminator`, 2,764,737 weights by default.
    Every convolution is 4x4 with one zero of padding on every side, so each of the two with stride
    1 shrinks the map by one: 256x256 gives 30x30 logits. The activation is LeakyReLU 0.2, and the
    first layer has no norm.

    Args:
        filters: channels of the first layer; later layers have at most 8 times as many.
        layers: number of layers of stride 2, 1 to 5: patches of 16, 34, 70, 142 and 286 pixels.
        norm: "instance", "batch" or "none", as in the authors' code; or "spectral", in place of
            norm layers: each convolution is divided by its spectral norm (Miyato et al. 2018,
            arXiv:1802.05957). Keras' `SpectralNormalization` does this by overwriting the kernel in
            every call with `training=True`; gradients do not flow through the norm.

    Call arguments:
        inputs: `[n, h, w, c]` in [-1, 1], large enough for one logit (24x24 for 3 layers).

    Returns:
        `[n, h', w', 1]` logits, float32 also under mixed precision.

    Raises:
        ValueError: an argument is invalid, or the images are too small for one logit.
        tf.errors.InvalidArgumentError: the same, in a graph that was traced without sizes.
    """

    def __init__(
        self, filters: int = 64, layers: int = 3, norm: str = "instance", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_positive(filters=filters)
        if not 1 <= layers <= 5:
            raise ValueError(f"layers={layers}: use 1 to 5 in a PatchDiscriminator.")
        self.filters = filters
        self.strided_layers = layers  # `layers` is reserved by keras.Model
        self.norm = norm
        dtype = self.dtype_policy
        stack = padded_convolution(filters, 2, norm, use_bias=True, dtype=dtype)
        stack += [keras.layers.LeakyReLU(0.2, dtype=dtype)]  # [n, h/2, w/2, filters]
        for level in range(1, layers + 1):
            # [n, h/2^(level+1), ...]; the last level is one pixel smaller than the one before
            strides = 2 if level < layers else 1
            stack += padded_convolution(filters * min(2**level, 8), strides, norm, dtype=dtype)
            stack += norm_after(norm, dtype)
            stack += [keras.layers.LeakyReLU(0.2, dtype=dtype)]
        stack += padded_convolution(1, 1, norm, use_bias=True, dtype=dtype)
        self.stack = keras.Sequential(stack, name="stack")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.input_channels = input_shape[-1]
        self.stack.build(input_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        check_nhwc(inputs.shape, self.input_channels)
        smallest = 3 * 2**self.strided_layers  # the last two convolutions take a pixel each
        for size in inputs.shape[1:3]:
            if size is not None and size < smallest:  # TensorFlow would return another tensor
                raise ValueError(
                    f"An image of {inputs.shape[1]}x{inputs.shape[2]} is too small for one logit: "
                    f"with layers={self.strided_layers} use {smallest}x{smallest} or more."
                )
        complaint = f"Every side must be {smallest} or more to give at least one logit."
        images = checked_when_run(inputs, complaint, smallest=smallest)
        return keras.ops.cast(self.stack(images, training=training), self.variable_dtype)

    save = save

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "layers": self.strided_layers,
            "norm": self.norm,
        }


@keras.saving.register_keras_serializable("tf_cyclegan")
class PixelDiscriminator(keras.Model):
    """Scores each pixel separately with 1x1 convolutions: the authors' `PixelDiscriminator`.

    Args:
        filters: channels of the first layer; the second has twice as many.
        norm: norm after the second layer: "instance", "batch" or "none"; or "spectral", as in a
            `PatchDiscriminator`.

    Call arguments:
        inputs: `[n, h, w, c]` in [-1, 1].

    Returns:
        `[n, h, w, 1]` logits, float32 also under mixed precision.
    """

    def __init__(self, filters: int = 64, norm: str = "instance", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(filters=filters)
        self.filters = filters
        self.norm = norm
        dtype = self.dtype_policy
        self.stack = keras.Sequential(
            [
                convolution_before(norm, filters, 1, use_bias=True, dtype=dtype),
                keras.layers.LeakyReLU(0.2, dtype=dtype),
                convolution_before(norm, 2 * filters, 1, dtype=dtype),
                *norm_after(norm, dtype),
                keras.layers.LeakyReLU(0.2, dtype=dtype),
                convolution_before(norm, 1, 1, dtype=dtype),
            ],
            name="stack",
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.input_channels = input_shape[-1]
        self.stack.build(input_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        check_nhwc(inputs.shape, self.input_channels)
        return keras.ops.cast(self.stack(inputs, training=training), self.variable_dtype)

    save = save

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "norm": self.norm}


def padded_convolution(
    filters: int,
    strides: int,
    norm: str = "none",
    use_bias: bool | None = None,
    dtype: keras.DTypePolicy | str | None = None,
) -> list[keras.Layer]:
    """Returns a 4x4 convolution with one zero on every side, PyTorch's `padding=1`."""
    return [
        keras.layers.ZeroPadding2D(1, data_format="channels_last", dtype=dtype),
        convolution_before(norm, filters, 4, strides, use_bias=use_bias, dtype=dtype),
    ]


def convolution_before(
    norm: str,
    filters: int,
    size: int,
    strides: int = 1,
    use_bias: bool | None = None,
    dtype: keras.DTypePolicy | str | None = None,
) -> keras.Layer:
    """Returns a convolution as from `layers.convolution`; with "spectral", divided by its norm."""
    if norm != "spectral":
        return convolution(filters, size, strides, norm=norm, use_bias=use_bias, dtype=dtype)
    inner = convolution(filters, size, strides, use_bias=True, dtype=dtype)
    # In the dtype of the weights: the layer overwrites them with what it has computed.
    return keras.layers.SpectralNormalization(inner, dtype=inner.variable_dtype)


def norm_after(norm: str, dtype: keras.DTypePolicy | str | None = None) -> list[keras.Layer]:
    """Returns the norm layers as from `layers.normalization`; with "spectral", none."""
    return [] if norm == "spectral" else normalization(norm, dtype)
