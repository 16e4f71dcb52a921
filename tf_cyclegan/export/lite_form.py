"""Rewrites a generator for LiteRT, with other operators but the same results.

Two layers are not supported everywhere. XNNPACK, LiteRT's CPU backend, has no mirror padding, which
splits the graph into partitions; Keras' nearest upsampling becomes operators that no GPU supports.
"""

import keras
import numpy as np

from tf_cyclegan.export.description import Size, sides, size_text
from tf_cyclegan.generators import ResNetGenerator, check_multiple, with_size_check
from tf_cyclegan.inference.translator import SMALLEST
from tf_cyclegan.layers import ReflectionPadding2D, ResidualBlock


def lite_form(generator, size: Size | None) -> keras.Model:
    """Rewrites a generator for conversion to LiteRT, batch 1.

    For a fixed size, mirror padding becomes slices and concatenations. For any size it is kept,
    because slices depend on the size. Nearest upsampling with the following convolution becomes one
    transposed convolution, which needs less than half the multiplications; before a depthwise
    convolution it becomes a transposed convolution of its own.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        size: a side, or height and width, multiples of `generator.multiple`; None for any size.

    Returns:
        A functional model from float32 `[1, h, w, c]` in [-1, 1] to `[1, h, w, c']`, equal to the
        generator up to float32 rounding. For any size, it checks that sides are multiples.

    Raises:
        ValueError: the size is not supported, see `check_size`.
    """
    if size is not None:
        check_size(generator, size)
    height, width = (None, None) if size is None else sides(size)
    image = keras.Input((height, width, generator.input_channels), batch_size=1, name="image")
    if not isinstance(generator, ResNetGenerator):  # others have none of the layers to rewrite
        return keras.Model(image, with_size_check(generator, image))
    x = keras.layers.Lambda(check_multiple, arguments={"multiple": generator.multiple})(image)
    x = _rewrite(generator.encoder.layers, x)
    x = _rewrite(generator.transformer.layers, x)
    x = _rewrite(generator.decoder.layers, x)
    return keras.Model(image, keras.ops.tanh(x))


def check_size(generator, size: Size) -> None:
    """Raises a ValueError if a side is not a multiple of `generator.multiple`, or too small."""
    smallest = max(SMALLEST, generator.multiple)
    if any(side % generator.multiple or side < smallest for side in sides(size)):
        raise ValueError(
            f"size is {size_text(size)}: use a multiple of {generator.multiple}, {smallest} or "
            "more."
        )


def _rewrite(layers, x):
    remaining = iter(layers)
    for layer in remaining:
        if isinstance(layer, ResidualBlock):
            x = x + _rewrite(layer.body.layers, x)
        elif isinstance(layer, ReflectionPadding2D):
            x = _mirrored(x, layer.padding, "reflect")
        elif isinstance(layer, keras.layers.UpSampling2D):
            padding, convolution = next(remaining), next(remaining)
            if isinstance(convolution, keras.layers.DepthwiseConv2D):
                x = convolution(_mirrored(_repeated(x), padding.padding, "reflect"))
            else:
                x = _upsampled(x, convolution)
        else:
            x = layer(x)
    return x


def _mirrored(x, padding, mode):
    """Pads height and width, with NumPy's mode "reflect" or "symmetric"."""
    if None in x.shape:
        return keras.ops.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]], mode)
    skip = 1 if mode == "reflect" else 0  # the border itself is not repeated
    for axis in (1, 2):
        last = x.shape[axis] - 1
        before = [_line(x, axis, skip + i) for i in reversed(range(padding))]
        after = [_line(x, axis, last - skip - i) for i in range(padding)]
        # GPU backends concatenate at most 4 tensors.
        x = keras.ops.concatenate([_joined(before, axis), x, _joined(after, axis)], axis)
    return x


def _line(x, axis, index):
    return x[:, index : index + 1] if axis == 1 else x[:, :, index : index + 1]


def _joined(lines, axis):
    return keras.ops.concatenate(lines, axis) if len(lines) > 1 else lines[0]


def _repeated(x):
    """Applies nearest upsampling by 2: a transposed convolution whose kernel is 0 or 1."""
    channels = x.shape[3]
    layer = keras.layers.Conv2DTranspose(channels, 2, strides=2, use_bias=False)
    x = layer(x)
    layer.set_weights([np.tile(np.eye(channels, dtype=np.float32), (2, 2, 1, 1))])
    return x


def _upsampled(x, convolution):
    """Applies nearest upsampling by 2, mirror padding by 1 and a 3x3 convolution as one operator.

    Each source pixel fills a box of 2x2 pixels, so the convolution equals a transposed one with
    stride 2 and a 4x4 kernel, the 3x3 kernel summed over the box. Mirroring the upsampled border
    by 1 equals repeating the source's border.
    """
    kernel = convolution.kernel.numpy()[::-1, ::-1]  # [3, 3, c, c'], flipped for the transposed one
    box = np.zeros((4, 4, *kernel.shape[2:]), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            box[row : row + 3, column : column + 3] += kernel
    use_bias = convolution.bias is not None
    transposed = keras.layers.Conv2DTranspose(kernel.shape[3], 4, strides=2, use_bias=use_bias)
    x = transposed(_mirrored(x, 1, "symmetric"))  # [1, 2h + 6, 2w + 6, c']
    bias = [convolution.bias.numpy()] if use_bias else []
    transposed.set_weights([box.transpose(0, 1, 3, 2), *bias])
    return x[:, 3:-3, 3:-3]
