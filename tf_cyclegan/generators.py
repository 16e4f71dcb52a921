"""Generators: translate an image of one domain into an image of the other, of the same size.

Images are float32 NHWC in [-1, 1]. Height and width can be any multiple of the model's `multiple`.
"""

import json
import re
from typing import Any

import keras
import tensorflow as tf

from tf_cyclegan.layers import (
    CropTopLeft,
    ReflectionPadding2D,
    ReLU,
    ResidualBlock,
    check_nhwc,
    check_positive,
    convolution,
    depthwise,
    initializer,
    normalization,
    separable_convolution,
)
from tf_cyclegan.model_archive import save
from tf_cyclegan.sizes import checked_when_run


@keras.saving.register_keras_serializable("tf_cyclegan")
class ResNetGenerator(keras.Model):
    """The paper's generator: downsample by 4, residual blocks, upsample by 4 (section 7.2).

    With the defaults it equals the authors' `resnet_9blocks`, with 11,378,179 weights.

    Args:
        filters: channels of the first layer; the residual blocks have 4 times as many.
        blocks: number of residual blocks. The paper uses 6 for 128x128 and 9 from 256x256 up.
        channels: channels of the output, 3 for RGB, 1 for gray.
        upsampling: "transpose" for the paper's transposed convolutions, or "resize" for
            nearest-neighbor resizing and a convolution, which avoids checkerboard artifacts (Odena
            et al. 2016).
        norm: "instance" (the paper's), "batch" or "none".
        dropout: dropout rate inside the residual blocks, 0 for none.
        separable: whether each 3x3 convolution is depthwise-separable, as in MobileNet (Howard et
            al. 2017, arXiv:1704.04861), for small generators on phones. Needs
            `upsampling="resize"`.
        kernel: side of the kernels of the first and the last convolution: 7 in the paper, or 3, 5
            or 9. At few filters, these two layers take most of the time, and 5 halves it.

    Call arguments:
        inputs: `[n, h, w, c]` in [-1, 1], h and w multiples of 4 and at least 8.

    Returns:
        `[n, h, w, channels]` in [-1, 1], float32 also under mixed precision.

    Raises:
        ValueError: an argument is invalid, or height or width is not a multiple of 4.
        tf.errors.InvalidArgumentError: the same, in a graph that was traced without sizes.

    Attributes:
        recompute: whether training recomputes activations to save memory, see `run_part`. Off by
            default, and not saved with the model.
    """

    multiple = 4
    recompute = False

    def __init__(
        self,
        filters: int = 64,
        blocks: int = 9,
        channels: int = 3,
        upsampling: str = "transpose",
        norm: str = "instance",
        dropout: float = 0.0,
        separable: bool = False,
        kernel: int = 7,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(filters=filters, channels=channels)
        if blocks < 0:
            raise ValueError(f"blocks={blocks}: use 0 or more residual blocks.")
        if kernel not in (3, 5, 7, 9):
            raise ValueError(f"kernel={kernel}: use 3, 5, 7 or 9.")
        if separable and upsampling != "resize":
            raise ValueError("separable=True needs upsampling='resize'.")
        self.filters = filters
        self.blocks = blocks
        self.channels = channels
        self.upsampling = upsampling
        self.norm = norm
        self.dropout = dropout
        self.separable = separable
        self.kernel = kernel
        dtype = self.dtype_policy

        def downsample(filters: int) -> list[keras.Layer]:
            # PyTorch pads one zero on every side, Keras' "same" only right and below.
            padding = keras.layers.ZeroPadding2D(1, data_format="channels_last", dtype=dtype)
            if separable:
                return [padding, *separable_convolution(filters, 2, norm, dtype)]
            return [padding, convolution(filters, 3, strides=2, norm=norm, dtype=dtype)]

        def norm_relu() -> list[keras.Layer]:
            return [*normalization(norm, dtype), ReLU(dtype=dtype)]

        self.encoder = keras.Sequential(
            [
                ReflectionPadding2D(kernel // 2, dtype=dtype),
                convolution(filters, kernel, norm=norm, dtype=dtype),  # [n, h, w, filters]
                *norm_relu(),
                *downsample(2 * filters),
                *norm_relu(),  # [n, h/2, w/2, 2 filters]
                *downsample(4 * filters),
                *norm_relu(),  # [n, h/4, w/4, 4 filters]
            ],
            name="encoder",
        )
        self.transformer = keras.Sequential(
            [
                ResidualBlock(4 * filters, norm, dropout, separable, dtype=dtype)
                for _ in range(blocks)
            ],
            name="transformer",
        )
        self.decoder = keras.Sequential(
            [
                *upsample(2 * filters, upsampling, norm, separable, dtype),
                *norm_relu(),  # [n, h/2, w/2, 2 filters]
                *upsample(filters, upsampling, norm, separable, dtype),
                *norm_relu(),  # [n, h, w, filters]
                ReflectionPadding2D(kernel // 2, dtype=dtype),
                convolution(channels, kernel, use_bias=True, dtype=dtype),  # [n, h, w, channels]
            ],
            name="decoder",
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        n, h, w, self.input_channels = input_shape
        bottom = (n, h and h // 4, w and w // 4, 4 * self.filters)
        self.encoder.build(input_shape)
        if self.blocks:
            self.transformer.build(bottom)
        self.decoder.build(bottom)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        check_nhwc(inputs.shape, self.input_channels)
        x = check_multiple(inputs, self.multiple)
        x = run_part(self, self.encoder, x, training)
        if self.blocks:
            x = run_part(self, self.transformer, x, training)
        x = run_part(self, self.decoder, x, training)
        # Half precision would leave only 256 or 2048 levels between -1 and 1 at the output.
        return keras.ops.tanh(keras.ops.cast(x, self.variable_dtype))

    save = save

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "blocks": self.blocks,
            "channels": self.channels,
            "upsampling": self.upsampling,
            "norm": self.norm,
            "dropout": self.dropout,
            "separable": self.separable,
            "kernel": self.kernel,
        }


@keras.saving.register_keras_serializable("tf_cyclegan")
class UNetGenerator(keras.Model):
    """The generator of pix2pix: a U-Net with `depth` halvings and skip connections at every size.

    Isola et al. 2017, arXiv:1611.07004, section 6.1.1; the authors' `unet_256` for `depth=8`,
    `unet_128` for `depth=7`. Skips are concatenated as [skip, up].

    Args:
        filters: channels of the first layer; deeper layers have at most 8 times as many.
        depth: number of halvings, at least 2; height and width are multiples of `2 ** depth`.
        channels: channels of the output.
        norm: "instance", "batch" or "none". The innermost and the outermost layer have none.
        dropout: dropout rate in the layers of `8 * filters` between the fourth and the innermost.

    Call arguments:
        inputs: `[n, h, w, c]` in [-1, 1].

    Returns:
        `[n, h, w, channels]` in [-1, 1], float32 also under mixed precision.

    Raises:
        ValueError: an argument is invalid, or a side is not a multiple of `2 ** depth`.
        tf.errors.InvalidArgumentError: the same, in a graph that was traced without sizes.

    Attributes:
        recompute: as in `ResNetGenerator`.
    """

    recompute = False

    def __init__(
        self,
        filters: int = 64,
        depth: int = 8,
        channels: int = 3,
        norm: str = "instance",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(filters=filters, channels=channels)
        if depth < 2:
            raise ValueError(f"depth={depth}: a U-Net needs 2 halvings or more.")
        self.filters = filters
        self.depth = depth
        self.channels = channels
        self.norm = norm
        self.dropout = dropout
        self.multiple = 2**depth
        self.down_blocks = [self._down_block(level) for level in range(depth)]
        self.up_blocks = [self._up_block(level) for level in range(depth)]

    def _width(self, level: int) -> int:
        return self.filters * min(2**level, 8)

    def _down_block(self, level: int) -> keras.Sequential:
        dtype = self.dtype_policy
        plain = level in (0, self.depth - 1)
        return keras.Sequential(
            [
                *([keras.layers.LeakyReLU(0.2, dtype=dtype)] if level > 0 else []),
                keras.layers.Conv2D(
                    self._width(level),
                    4,
                    strides=2,
                    padding="same",  # sides are even here, so one zero on every side
                    data_format="channels_last",
                    use_bias=self.norm == "instance",
                    kernel_initializer=initializer(),
                    dtype=dtype,
                ),
                *([] if plain else normalization(self.norm, dtype)),
            ],
            name=f"down_{level}",
        )

    def _up_block(self, level: int) -> keras.Sequential:
        dtype = self.dtype_policy
        outermost = level == 0
        middle = 4 <= level < self.depth - 1
        return keras.Sequential(
            [
                ReLU(dtype=dtype),
                keras.layers.Conv2DTranspose(
                    self.channels if outermost else self._width(level - 1),
                    4,
                    strides=2,
                    padding="same",
                    data_format="channels_last",
                    use_bias=outermost or self.norm == "instance",
                    kernel_initializer=initializer(),
                    dtype=dtype,
                ),
                *([] if outermost else normalization(self.norm, dtype)),
                *(
                    [keras.layers.Dropout(self.dropout, dtype=dtype)]
                    if middle and self.dropout
                    else []
                ),
            ],
            name=f"up_{level}",
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        n, h, w, c = input_shape
        self.input_channels = c
        for level, (down, up) in enumerate(zip(self.down_blocks, self.up_blocks, strict=True)):
            size = (n, h and h // 2**level, w and w // 2**level)
            below = (n, h and h // 2 ** (level + 1), w and w // 2 ** (level + 1))
            innermost = level == self.depth - 1
            down.build((*size, c))
            c = self._width(level)
            up.build((*below, c if innermost else 2 * c))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        check_nhwc(inputs.shape, self.input_channels)
        x = check_multiple(inputs, self.multiple)
        skips = []
        for down in self.down_blocks:
            x = run_part(self, down, x, training)
            skips.append(x)  # level i: [n, h/2^(i+1), w/2^(i+1), width(i)]
        x = run_part(self, self.up_blocks[-1], skips.pop(), training)
        for up in reversed(self.up_blocks[:-1]):
            x = keras.ops.concatenate([skips.pop(), x], axis=-1)
            x = run_part(self, up, x, training)
        return keras.ops.tanh(keras.ops.cast(x, self.variable_dtype))  # [n, h, w, channels]

    save = save

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "depth": self.depth,
            "channels": self.channels,
            "norm": self.norm,
            "dropout": self.dropout,
        }


def as_generator(network: keras.Model, multiple: int = 32) -> keras.Model:
    """Prepares any Keras model of images to images for translation and export.

    Args:
        network: a built model, `[n, h, w, c] -> [n, h, w, c']`. A float32 generator of this package
            needs no preparation and is not changed.
        multiple: what height and width must be a multiple of, for other networks: images are
            padded to it. 32 suits up to five halvings.

    Returns:
        The network in float32, with the attributes `input_channels`, `channels` and `multiple`.

    Raises:
        ValueError: the network does not map images to images, or only those of a known size.
    """
    if not network.built:
        raise ValueError(
            f"{type(network).__name__} is not built yet: train the model before you save it, or "
            "call build((None, None, None, channels))."
        )
    network = in_float32(network)
    if hasattr(network, "input_channels") and hasattr(network, "multiple"):
        return network
    built: dict[str, Any] = network.get_build_config() or {}
    found = getattr(network, "input_shape", None) or built.get("input_shape")
    shape: tuple[Any, ...] = tuple(found) if isinstance(found, tuple | list) else ()
    if len(shape) == 4 and None not in shape[1:3]:
        raise ValueError(
            f"{type(network).__name__} takes only images of {shape[2]}x{shape[1]} pixels: build "
            "it with keras.Input((None, None, channels)) to translate images of any size."
        )
    image: list[int] = []
    output: Any = []
    if len(shape) == 4:
        image = [1, 2 * multiple, 4 * multiple, shape[3]]
        output = network.compute_output_spec(keras.KerasTensor(image))
        output = list(getattr(output, "shape", []))
    if len(output) != 4 or output[:3] != image[:3] or not {image[3], output[3]} <= {1, 3}:
        raise ValueError(
            f"{type(network).__name__} is not a generator: it must map one batch [n, h, w, 1 or 3] "
            "to another with the same height and width. Build it with "
            "keras.Input((None, None, channels))."
        )
    any_size = tf.TensorSpec([None, None, None, shape[3]])
    try:
        tf.function(network, autograph=False).get_concrete_function(any_size)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{type(network).__name__} cannot translate images of any size: a layer needs to know "
            f"the size ({str(error).strip().splitlines()[0]})."
        ) from None
    network.input_channels, network.channels, network.multiple = shape[3], output[3], multiple
    return network


def in_float32(network: keras.Model) -> keras.Model:
    """Returns a copy whose layers compute in float32, or the same network if they do already.

    Exported files run on devices without half-precision kernels.
    """
    config = json.dumps(keras.saving.serialize_keras_object(network))
    wide = re.sub(r'"(mixed_)?b?float16"', '"float32"', config)
    if wide == config:
        return network
    copy = keras.saving.deserialize_keras_object(json.loads(wide))
    if not copy.built:
        copy.build_from_config(network.get_build_config())
    copy.set_weights(network.get_weights())
    return copy


def run_part(
    network: keras.Model, part: keras.Sequential, x: tf.Tensor, training: bool | None
) -> tf.Tensor:
    """Computes `part(x)`, with less memory in training if `network.recompute` is set.

    Then only x is kept, and everything else is recomputed for the gradients. The recomputed values
    must be the same, so `part` must have no state and no randomness.
    """
    if network.recompute and training:
        # In a graph, keras.remat does not support keyword arguments.
        return keras.remat(lambda x: part(x, training=True))(x)
    return part(x, training=training)


def upsample(
    filters: int,
    upsampling: str,
    norm: str,
    separable: bool,
    dtype: keras.DTypePolicy | str | None,
) -> list[keras.Layer]:
    """Returns layers that double height and width: `[n, h, w, c] -> [n, 2h, 2w, filters]`.

    In a separable pair the 1x1 convolution comes first, where the map is small and has many
    channels (Haase and Amthor 2020, arXiv:2003.13549).
    """
    if upsampling == "transpose":
        return [
            keras.layers.Conv2DTranspose(
                filters,
                3,
                strides=2,
                padding="valid",
                data_format="channels_last",
                use_bias=norm == "instance",
                kernel_initializer=initializer(),
                dtype=dtype,
            ),
            CropTopLeft(dtype=dtype),
        ]
    if upsampling == "resize":
        resized = [
            keras.layers.UpSampling2D(
                2, data_format="channels_last", interpolation="nearest", dtype=dtype
            ),
            ReflectionPadding2D(1, dtype=dtype),
        ]
        if not separable:
            return [*resized, convolution(filters, 3, norm=norm, dtype=dtype)]
        return [convolution(filters, 1, dtype=dtype), *resized, depthwise(dtype=dtype)]
    raise ValueError(f"upsampling={upsampling!r} is not known: use 'transpose' or 'resize'.")


def with_size_check(generator: keras.Model, images: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the translations, symbolically, after a check that sides are multiples.

    This package's generators check their sizes themselves; for networks of your own, a layer does.
    """
    if isinstance(generator, ResNetGenerator | UNetGenerator):
        return generator(images)
    check = keras.layers.Lambda(check_multiple, arguments={"multiple": generator.multiple})
    return generator(check(images))


def check_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Returns the images `[n, h, w, c]`, after a check that height and width are multiples.

    Raises:
        ValueError: a known side is not a multiple. If the graph was traced without sizes, a
            `tf.errors.InvalidArgumentError` is raised when it runs instead.
    """
    advice = "pad the image, or use tf-cyclegan translate, which pads for you."
    for name, size in zip(("height", "width"), images.shape[1:3], strict=True):
        if size is not None and (size % multiple or size == 0):
            raise ValueError(f"{name} {size} is not a multiple of {multiple}: {advice}")
    complaint = f"Height and width must be multiples of {multiple}: {advice}"
    return checked_when_run(images, complaint, multiple, smallest=multiple)
