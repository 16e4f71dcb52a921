"""Translates images that are too large for memory, tile by tile and without seams.

Instance norm computes its statistics over the whole image. Tiles that are translated separately
would have statistics of their own, and differ in color at their borders. Here, every norm waits for
the statistics of all tiles of the layer before it:

    image --encoder, once for each of its norms, then into--> x   [h/4, w/4, 4 filters], on disk
    x --convolution--> y --norm, ReLU, convolution--> z             of each residual block, on disk
    x + norm(z) --> x
    x --decoder, once for each of its norms, then into--> translation

The larger maps of encoder and decoder are not stored, but computed again for each norm. A tile is
computed with all surrounding pixels in the receptive field of its layers, and padded only at the
border of the image, so its values are the same as for the whole image.
"""

import errno
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import MAX_PIXELS, ImageError, to_channels, to_float, to_uint8
from tf_cyclegan.generators import ResNetGenerator, in_float32
from tf_cyclegan.inference.translator import padded
from tf_cyclegan.layers import CropTopLeft, InstanceNormalization, ReflectionPadding2D

MAX_TILED_PIXELS = 3 * MAX_PIXELS  # maximum for tiled images, below the limit of Pillow
SMALLEST_TILE = 128  # side in pixels; smaller tiles have more pixels around them than inside

Span = tuple[int, int]  # rows or columns: (first, last + 1)
Window = tuple[Span, Span]  # rows and columns


def tiled_translator(generator, tile: int, folder) -> Callable[[np.ndarray], np.ndarray]:
    """Works like `tf_cyclegan.inference.translator.translator`, in bounded memory.

    The translation is the same up to rounding: within two gray levels in float32, where it is the
    more exact one (docs/large_images.md). Memory holds the image, its translation and a tile.
    Scratch files hold 3 * filters bytes for each pixel of the image (filters bytes without
    residual blocks), and its translation. They are unnamed, and removed whenever the process ends,
    even if it is killed.

    Args:
        generator: a built `ResNetGenerator`; one in half precision is computed in float32.
        tile: side in pixels of an image that would fit into memory, a multiple of 16 of at least
            SMALLEST_TILE. The residual blocks are computed with tiles of half that side, encoder
            and decoder, which need more memory for each pixel, with a quarter.
        folder: folder for the scratch files, on a disk: some systems keep /tmp in memory.

    Returns:
        A function of uint8 `[h, w, 1 or 3]` to uint8 `[h, w, c']`. It raises an `ImageError` if
        disk space or memory runs out.

    Raises:
        ValueError: the generator is not a `ResNetGenerator`, or the tile is invalid.
    """
    if not isinstance(generator, ResNetGenerator):
        raise ValueError(
            f"A {type(generator).__name__} needs the whole image at once and cannot be tiled: "
            "leave out --tile, or use a ResNet generator."
        )
    check_tile(tile)
    network = _TiledResNet(in_float32(generator), tile)

    def translate(image):
        try:
            if shutil.disk_usage(folder).free < scratch_bytes(generator, *image.shape[:2]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return network.translate(image, folder)
        except tf.errors.ResourceExhaustedError:
            raise ImageError(
                f"tiles of {tile} pixels need more memory than is available: use a smaller --tile"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ImageError(
                    f"scratch files cannot be written to {folder} ({error.strerror}): set TMPDIR "
                    "to a folder that exists and that you can write to"
                ) from None
            raise ImageError(
                f"{scratch_bytes(generator, *image.shape[:2])} bytes of scratch files do not "
                f"fit into {folder} ({error.strerror}): set TMPDIR to a folder on a larger disk"
            ) from None

    return translate


def check_tile(tile: int) -> None:
    """Raises a ValueError if the side of tiles is invalid."""
    if tile < SMALLEST_TILE or tile % 16:
        raise ValueError(f"tile is {tile}: use a multiple of 16, {SMALLEST_TILE} or more.")


def scratch_bytes(generator, height: int, width: int) -> int:
    """Returns the number of bytes of the scratch files for an image."""
    pixels = padded(height, generator.multiple) * padded(width, generator.multiple)
    maps = 3 if generator.blocks else 1
    return pixels * (maps * generator.filters + generator.channels)


class _TiledResNet:
    """A ResNet generator, split into chains of layers between the maps on disk.

    Args:
        generator, tile: as in `tiled_translator`.
    """

    def __init__(self, generator, tile):
        self.tile = tile
        self.channels_in, self.channels_out = generator.input_channels, generator.channels
        self.multiple = generator.multiple
        self.channels = 4 * generator.filters  # of the maps on disk
        *encoder, waiting = _split(generator.encoder.layers)
        self.encoder = _Chain(sum(encoder, []), self.channels_in)
        self.blocks = []
        for block in generator.transformer.layers:
            first, second, last = _split(block.body.layers)
            chains = (waiting + first, second, waiting, last)
            self.blocks.append([_Chain(layers, self.channels) for layers in chains])
            waiting = []  # the encoder's last norm and ReLU; the first block applies them to x
        tanh = keras.layers.Activation("tanh", dtype=generator.variable_dtype)
        self.decoder = _Chain([*waiting, *generator.decoder.layers, tanh], self.channels)

    def translate(self, image, folder):
        """Translates uint8 `[h, w, 1 or 3]` to uint8 `[h, w, c']`; OSError if the disk is full."""
        height, width = image.shape[:2]
        source = _Image(image, self.channels_in, self.multiple)
        shape = (source.shape[0] // 4, source.shape[1] // 4, self.channels)
        with ExitStack() as files:
            x, y, z = (files.enter_context(_Map(folder, shape, np.float32)) for _ in range(3))
            fake_shape = (*source.shape[:2], self.channels_out)
            fake = files.enter_context(_Map(folder, fake_shape, np.uint8))
            tiles = _Tiles(source.shape[0])
            half, quarter = self.tile // 2, self.tile // 4

            tiles.measure(quarter, self.encoder, source)
            reader = self.blocks[0][0] if self.blocks else self.decoder
            tiles.compute(quarter, self.encoder, source, x, reader)
            for first, second, skip, last in self.blocks:
                tiles.compute(half, first, x, y, second)
                tiles.compute(half, second, y, z, last)
                for windows in tiles.windows(half, shape):
                    total = skip(x, windows, tiles.moments) + last(z, windows, tiles.moments)
                    x.write(windows[0], total.numpy()[0])
            tiles.measure(quarter, self.decoder, x)
            for windows in tiles.windows(quarter, fake_shape):
                values = self.decoder(x, windows, tiles.moments)
                fake.write(windows[0], to_uint8(values.numpy()[0]))
            return fake.read(((0, height), (0, width)))


class _Tiles:
    """The passes over one image, and the moments that they compute.

    Args:
        height: height of the padded image, which gives the scale of a map.

    Attributes:
        moments: norm -> mean and variance `[2, c]` of its input, over the whole image.
    """

    def __init__(self, height):
        self.height = height
        self.moments = {}

    def windows(self, tile, shape) -> Iterator[tuple[Window, Window]]:
        """Yields adjacent windows of a map, with sides of `tile` image pixels or a little less.

        With each window comes a larger one to compute, of the same size for all: TensorFlow keeps
        freed memory, and buffers of different sizes would fragment it.
        """
        spans = []
        for size in shape[:2]:
            side = -(-size // -(-size // (tile * shape[0] // self.height)))
            starts = range(0, size, side)
            spans.append([((s, min(s + side, size)), _inward(s, side, size)) for s in starts])
        for (rows, more_rows), (columns, more_columns) in itertools.product(*spans):
            yield (rows, columns), (more_rows, more_columns)

    def measure(self, tile, chain, source):
        """Computes the moments of the norms inside a chain, one norm after the other."""
        for norm, before in chain.norms_inside:
            windows = self.windows(tile, before.shapes(source.shape)[-1])
            self.moments[norm] = _merge(before.measure(source, w, self.moments) for w in windows)

    def compute(self, tile, chain, source, target, reader):
        """Fills a map, and computes the moments for a norm at the start of its reader, if any."""

        def parts():
            for windows in self.windows(tile, target.shape):
                values = chain(source, windows, self.moments)
                target.write(windows[0], values.numpy()[0])
                yield _moments(values)

        self.moments |= dict.fromkeys(reader.norms[:1], _merge(parts()))


class _Chain:
    """A sequence of layers, computed for any window of its output.

    Args:
        layers: consecutive layers of a `ResNetGenerator`.
        channels: number of input channels.

    Attributes:
        norms: the instance norms among the layers, whose moments are passed in.
        norms_inside: (norm, chain before it) for norms that are not the first layer.

    Call arguments:
        source: `_Image` or `_Map`.
        windows: the requested window of the output, and the window to compute for it.
        moments: as in `_Tiles`.

    Returns:
        float32 `[1, rows, columns, c']`: this window of the output for the whole source.
    """

    def __init__(self, layers, channels):
        self.layers = layers
        self.norms = [layer for layer in layers if isinstance(layer, InstanceNormalization)]
        self.norms_inside = [
            (layer, _Chain(layers[:i], channels))
            for i, layer in enumerate(layers)
            if i > 0 and layer in self.norms
        ]
        self._signature = (
            tf.TensorSpec([1, None, None, channels]),
            tf.TensorSpec([len(layers), 2, 2], tf.int32),
            [tf.TensorSpec([2, None])] * len(self.norms),
        )

    def __call__(self, source, windows, moments):
        return self._values(*self._inputs(source, windows, moments))

    def measure(self, source, windows, moments):
        """Returns the `_moments` of the requested window."""
        return self._window_moments(*self._inputs(source, windows, moments))

    @functools.cached_property
    def _values(self):
        return tf.function(self._run).get_concrete_function(*self._signature)

    @functools.cached_property
    def _window_moments(self):
        # In one graph, the squared differences can reuse the memory of the values.
        function = tf.function(lambda *inputs: _moments(self._run(*inputs)))
        return function.get_concrete_function(*self._signature)

    def shapes(self, shape):
        """Returns (h, w, c) of the input of each layer, and of the output, for a source shape."""
        shapes = [shape]
        for layer in self.layers:
            shapes.append(layer.compute_output_shape((1, *shapes[-1]))[1:])
        return shapes

    def _inputs(self, source, windows, moments):
        """Returns the part of the source to read, the crop of each output, and the moments."""
        wanted, computed = windows
        cuts = []
        for layer, shape in reversed([*zip(self.layers, self.shapes(source.shape), strict=False)]):
            spans = [_span(layer, *span, size) for span, size in zip(computed, shape, strict=False)]
            cuts.append([np.subtract(w, s[2]) for w, s in zip(wanted, spans, strict=True)])
            wanted = computed = tuple((first, last) for first, last, _ in spans)
        cuts = np.array(cuts[::-1], np.int32).reshape(-1, 2, 2)
        values = tf.constant(source.read(wanted)[np.newaxis])  # a copy: the array is freed here
        return values, tf.constant(cuts), [tf.constant(moments[norm]) for norm in self.norms]

    def _run(self, x, cuts, moments):
        moments = dict(zip(self.norms, moments, strict=True))
        for i, layer in enumerate(self.layers):
            if layer in moments:
                x = layer.normalize(x, *tf.unstack(moments[layer]))
            else:
                x = layer(x, training=False)
            x = x[:, cuts[i, 0, 0] : cuts[i, 0, 1], cuts[i, 1, 0] : cuts[i, 1, 1]]
        return tf.cast(x, tf.float32)


def _split(layers) -> list[list]:
    """Splits layers after each full convolution; the last group may be empty."""
    groups: list[list] = [[]]
    for layer in layers:
        groups[-1].append(layer)
        if isinstance(layer, keras.layers.Conv2D):
            groups.append([])
    return groups


def _span(layer, start: int, stop: int, size: int) -> tuple[int, int, int]:
    """Returns which rows, or columns, of its input a layer needs for some of its output.

    Their number depends only on the number of outputs: at a border, the span moves inwards.

    Args:
        layer: a layer of a `ResNetGenerator`.
        start, stop: the requested output, from `start` to before `stop`.
        size: total number of rows or columns of the input.

    Returns:
        (first, last, offset): given its input from first to before last, the layer returns its
        output for the whole input from index `offset` on. Padding layers also pad where the image
        continues, but that padding lies outside of start to stop.
    """
    count = stop - start
    if isinstance(layer, (ReflectionPadding2D, keras.layers.ZeroPadding2D)):
        padding = (layer.compute_output_shape((1, size, size, 1))[1] - size) // 2
        # A convolution of size 2 * padding + 1 follows, so all mirrored pixels are in the input.
        first, last = _inward(start - padding, count, size)
        return first, last, first
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        stride = layer.strides[0]
        return start * stride, (stop - 1) * stride + layer.kernel_size[0], start
    if isinstance(layer, CropTopLeft):
        return start, stop + 1, start
    if isinstance(layer, (keras.layers.Conv2DTranspose, keras.layers.UpSampling2D)):
        reach = layer.kernel_size[0] if isinstance(layer, keras.layers.Conv2DTranspose) else 2
        first, last = _inward((start - reach) // 2 + 1, count // 2 + 2, size)
        return first, last, 2 * first
    return start, stop, start  # pointwise layers


def _inward(first: int, count: int, size: int) -> Span:
    """Returns a span of `count` from `first` on, moved or shortened to lie within `size`."""
    first = max(min(first, size - count), 0)
    return first, min(first + count, size)


@tf.function(input_signature=[tf.TensorSpec([1, None, None, None])])
def _moments(x):
    """Computes number of pixels, mean `[c]` and variance `[c]`, in float64, of `[1, h, w, c]`."""
    # Sums of a million float32 would be imprecise: sum rows in float32, and those in float64.
    mean = tf.reduce_mean(tf.cast(tf.reduce_mean(x, 2), tf.float64), 1)
    squares = tf.math.squared_difference(x, tf.cast(mean, x.dtype))
    variance = tf.reduce_mean(tf.cast(tf.reduce_mean(squares, 2), tf.float64), 1)
    return tf.size(x[..., 0]), mean[0], variance[0]


def _merge(parts) -> np.ndarray:
    """Merges the `_moments` of all tiles to mean and variance of the whole, float32 `[2, c]`.

    Chan, Golub and LeVeque 1979: squared differences from means avoid cancellation.
    """
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        n, part_mean, variance = int(part[0]), part[1].numpy(), part[2].numpy()
        difference = part_mean - mean
        squares += n * variance + difference**2 * (count * n / (count + n))
        mean += difference * (n / (count + n))
        count += n
    return np.stack([mean, squares / count]).astype(np.float32)


class _Image:
    """An image to read windows from, padded in the same way as by `translator`.

    Args:
        image: uint8 `[h, w, 1 or 3]`, which is not copied.
        channels: number of channels to read, 1 or 3.
        multiple: what the padded sides are multiples of.
    """

    def __init__(self, image, channels, multiple):
        self.image = image
        self.lines = [
            np.pad(np.arange(side), (0, padded(side, multiple) - side), mode="symmetric")
            for side in image.shape[:2]
        ]
        self.shape = (*map(len, self.lines), channels)

    def read(self, window: Window) -> np.ndarray:
        """Reads a window as float32 `[rows, columns, channels]` in [-1, 1]."""
        rows, columns = (line[slice(*span)] for line, span in zip(self.lines, window, strict=True))
        return to_float(to_channels(self.image[rows[:, np.newaxis], columns], self.shape[2]))


class _Map:
    """A feature map `[h, w, c]` in an unnamed file, row by row.

    The file is not memory-mapped, since its pages would count as memory of the process.

    Args:
        folder: folder of the file.
        shape: (h, w, c).
        dtype: dtype of the values.
    """

    def __init__(self, folder, shape, dtype):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def read(self, window: Window) -> np.ndarray:
        """Reads a window as `[rows, columns, c]`."""
        (top, bottom), (left, right) = window
        values = np.empty((bottom - top, right - left, self.shape[2]), self.dtype)
        for row, line in enumerate(values, start=top):
            self._transfer(self.file.readinto, row, left, line)
        return values

    def write(self, window: Window, values: np.ndarray):
        """Writes a window, `[rows, columns, c]`; raises an OSError if the disk is full."""
        (top, _), (left, _) = window
        for row, line in enumerate(values, start=top):
            self._transfer(self.file.write, row, left, line)

    def _transfer(self, transfer, row, left, line):
        self.file.seek((row * self.shape[1] + left) * self.shape[2] * self.dtype.itemsize)
        rest = memoryview(line).cast("B")
        while rest:  # a call may transfer only a part
            rest = rest[transfer(rest) :]
