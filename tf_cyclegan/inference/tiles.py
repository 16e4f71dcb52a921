"""An image too large for memory in, its translation out: computed tile by tile, without seams.

Instance norm takes its statistics over the whole image. Tiles that are translated each alone take
their own, and differ in colour where they meet. Here every norm waits for the statistics of all
tiles of the layer before it:

    image --encoder, once for each of its norms, then into--> x   [h/4, w/4, 4 filters], on disk
    x --convolution--> y --norm, ReLU, convolution--> z             of each residual block, on disk
    x + norm(z) --> x
    x --decoder, once for each of its norms, then into--> translation

The larger maps of encoder and decoder are never kept, only computed again for each norm. A tile is
computed with as many pixels around it as its layers look at, and padded at the image's border
only: it is what the whole image would give.
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
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.inference.translator import padded
from tf_cyclegan.layers import CropTopLeft, InstanceNormalization, ReflectionPadding2D

MAX_TILED_PIXELS = 3 * MAX_PIXELS  # of an image that is tiled; Pillow's own limit lies above it
SMALLEST_TILE = 128  # pixels a side, below which more is computed around a tile than in it

Span = tuple[int, int]  # rows or columns: the first, and the one behind the last
Window = tuple[Span, Span]  # of rows and of columns


def tiled_translator(generator, tile: int, folder) -> Callable[[np.ndarray], np.ndarray]:
    """`tf_cyclegan.inference.translator.translator` in bounded memory.

    The translation is the same up to rounding: within two grey levels in float32, where it is the
    more exact one (docs/large_images.md). Memory holds the image, its translation and a tile.
    Scratch files hold 3 * filters bytes for each pixel of the image (filters bytes without
    residual blocks), and its translation; they have no name, and are gone when the process ends,
    however it ends.

    Args:
        generator: a `ResNetGenerator`, built.
        tile: pixels a side of an image that memory would do for, a multiple of 16, at least
            SMALLEST_TILE. Of that, half the side is computed at a time in the residual blocks, a
            quarter in encoder and decoder, which need the most memory for each pixel.
        folder: for the scratch files; on a disk, as some systems keep /tmp in memory.

    Returns:
        A function of uint8 `[h, w, 1 or 3]` to uint8 `[h, w, c']`. It raises an `ImageError`
        where disk or memory run out.

    Raises:
        ValueError: another generator, or a tile that cannot be.
    """
    if not isinstance(generator, ResNetGenerator):
        raise ValueError(
            f"A {type(generator).__name__} sees the whole image at once and cannot be tiled: "
            "leave out --tile, or use a ResNet generator."
        )
    check_tile(tile)
    network = _TiledResNet(generator, tile)

    def translate(image):
        try:
            if shutil.disk_usage(folder).free < scratch_bytes(generator, *image.shape[:2]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return network.translate(image, folder)
        except tf.errors.ResourceExhaustedError:
            raise ImageError(
                f"tiles of {tile} pixels need more memory than there is: use a smaller --tile"
            ) from None
        except OSError as error:
            raise ImageError(
                f"{scratch_bytes(generator, *image.shape[:2])} bytes of scratch files do not "
                f"fit into {folder} ({error.strerror}): set TMPDIR to a folder on a larger disk"
            ) from None

    return translate


def check_tile(tile: int) -> None:
    """Raises a ValueError where images cannot be computed by tiles of that side."""
    if tile < SMALLEST_TILE or tile % 16:
        raise ValueError(f"tile is {tile}: use a multiple of 16, {SMALLEST_TILE} or more.")


def scratch_bytes(generator, height: int, width: int) -> int:
    """What the scratch files for an image of that size hold."""
    pixels = padded(height, generator.multiple) * padded(width, generator.multiple)
    maps = 3 if generator.blocks else 1
    return pixels * (maps * generator.filters + generator.channels)


class _TiledResNet:
    """A ResNet generator as the chains of layers that are computed from what is kept.

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
            waiting = []  # the encoder's last norm and ReLU, applied whenever x is read until x + z
        tanh = keras.layers.Activation("tanh", dtype=generator.variable_dtype)
        self.decoder = _Chain([*waiting, *generator.decoder.layers, tanh], self.channels)

    def translate(self, image, folder):
        """uint8 `[h, w, 1 or 3]` to uint8 `[h, w, c']`; an OSError where the disk is too small."""
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
    """The passes over one image, and the moments that they find.

    Args:
        height: of the padded image, to tell a map's scale by.

    Attributes:
        moments: norm -> mean and variance `[2, c]` of what goes into it, over the whole image.
    """

    def __init__(self, height):
        self.height = height
        self.moments = {}

    def windows(self, tile, shape) -> Iterator[tuple[Window, Window]]:
        """The windows side by side of a map of that shape, each of `tile` pixels or a little less.

        With each comes what to compute for it, of one size in all of them: TensorFlow keeps the
        memory it once had, and buffers of other sizes do not fit into what others left.
        """
        spans = []
        for size in shape[:2]:
            side = -(-size // -(-size // (tile * shape[0] // self.height)))
            starts = range(0, size, side)
            spans.append([((s, min(s + side, size)), _inward(s, side, size)) for s in starts])
        for (rows, more_rows), (columns, more_columns) in itertools.product(*spans):
            yield (rows, columns), (more_rows, more_columns)

    def measure(self, tile, chain, source):
        """Takes the moments of the norms inside a chain, one norm after the other."""
        for norm, before in chain.norms_inside:
            windows = self.windows(tile, before.shapes(source.shape)[-1])
            self.moments[norm] = _merge(before.measure(source, w, self.moments) for w in windows)

    def compute(self, tile, chain, source, target, reader):
        """Fills a map; takes the moments of the norm that its reader begins with, if it does."""

        def parts():
            for windows in self.windows(tile, target.shape):
                values = chain(source, windows, self.moments)
                target.write(windows[0], values.numpy()[0])
                yield _moments(values)

        self.moments |= dict.fromkeys(reader.norms[:1], _merge(parts()))


class _Chain:
    """Layers in a row, computed for any window of their output.

    Args:
        layers: of a `ResNetGenerator`.
        channels: of what goes in.

    Attributes:
        norms: the instance norms among them, whose moments come from outside.
        norms_inside: (norm, the chain before it) for those that are not the first layer.

    Call arguments:
        source: `_Image` or `_Map`.
        windows: of the output, the wanted one, and what to compute for it.
        moments: as in `_Tiles`.

    Returns:
        float32 `[1, rows, columns, c']`: this window of what the layers give for the whole source.
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
        """`_moments` of the wanted window."""
        return self._window_moments(*self._inputs(source, windows, moments))

    @functools.cached_property
    def _values(self):
        return tf.function(self._run).get_concrete_function(*self._signature)

    @functools.cached_property
    def _window_moments(self):
        # One graph, in which the squares take the memory of what they are squares of.
        function = tf.function(lambda *inputs: _moments(self._run(*inputs)))
        return function.get_concrete_function(*self._signature)

    def shapes(self, shape):
        """(h, w, c) of what goes into each layer for a source of that shape, and of the output."""
        shapes = [shape]
        for layer in self.layers:
            shapes.append(layer.compute_output_shape((1, *shapes[-1]))[1:])
        return shapes

    def _inputs(self, source, windows, moments):
        """What the source holds there, what to keep of each layer's output, the norms' moments."""
        wanted, computed = windows
        cuts = []
        for layer, shape in reversed([*zip(self.layers, self.shapes(source.shape), strict=False)]):
            spans = [_span(layer, *span, size) for span, size in zip(computed, shape, strict=False)]
            cuts.append([np.subtract(w, s[2]) for w, s in zip(wanted, spans, strict=True)])
            wanted = computed = tuple((first, last) for first, last, _ in spans)
        cuts = np.array(cuts[::-1], np.int32).reshape(-1, 2, 2)
        values = tf.constant(source.read(wanted)[np.newaxis])  # a copy, of which one is let go here
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
    """The layers up to each convolution, and those behind the last, which may be none."""
    groups: list[list] = [[]]
    for layer in layers:
        groups[-1].append(layer)
        if isinstance(layer, keras.layers.Conv2D):
            groups.append([])
    return groups


def _span(layer, start: int, stop: int, size: int) -> tuple[int, int, int]:
    """What a layer needs for some rows, or columns, of its output.

    As many for as many, wherever they are; those at a border get some from further inside.

    Args:
        layer: one of a `ResNetGenerator`'s.
        start, stop: the wanted ones.
        size: how many its input has in all.

    Returns:
        (first, last, offset): the layer, given first to before last of its input, puts out what it
        puts out for the whole input from number `offset` on. Padding layers pad whatever they are
        given: what they put where the image goes on lies outside start to stop.
    """
    count = stop - start
    if isinstance(layer, (ReflectionPadding2D, keras.layers.ZeroPadding2D)):
        padding = (layer.compute_output_shape((1, size, size, 1))[1] - size) // 2
        # A convolution over 2 * padding + 1 follows, so all that is mirrored is there.
        first, last = _inward(start - padding, count, size)
        return first, last, first
    if isinstance(layer, keras.layers.Conv2D):
        stride = layer.strides[0]
        return start * stride, (stop - 1) * stride + layer.kernel_size[0], start
    if isinstance(layer, CropTopLeft):
        return start, stop + 1, start
    if isinstance(layer, (keras.layers.Conv2DTranspose, keras.layers.UpSampling2D)):
        reach = layer.kernel_size[0] if isinstance(layer, keras.layers.Conv2DTranspose) else 2
        first, last = _inward((start - reach) // 2 + 1, count // 2 + 2, size)
        return first, last, 2 * first
    return start, stop, start  # pixel by pixel


def _inward(first: int, count: int, size: int) -> Span:
    """`count` of `size` from number `first` on, moved to where there are as many; or all."""
    first = max(min(first, size - count), 0)
    return first, min(first + count, size)


@tf.function(input_signature=[tf.TensorSpec([1, None, None, None])])
def _moments(x):
    """`[1, h, w, c]` -> its number of pixels, and mean and variance `[c]` in float64."""
    # Sums of a million short floats would lose digits: rows in float32, their sum in float64.
    mean = tf.reduce_mean(tf.cast(tf.reduce_mean(x, 2), tf.float64), 1)
    squares = tf.math.squared_difference(x, tf.cast(mean, x.dtype))
    variance = tf.reduce_mean(tf.cast(tf.reduce_mean(squares, 2), tf.float64), 1)
    return tf.size(x[..., 0]), mean[0], variance[0]


def _merge(parts) -> np.ndarray:
    """The `_moments` of all tiles -> mean and variance of the whole, float32 `[2, c]`.

    Chan, Golub and LeVeque 1979: squares are of differences from means, so nothing cancels.
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
    """An image as a map to read from, padded as `translator` pads it.

    Args:
        image: uint8 `[h, w, 1 or 3]`; no copy of it is made.
        channels: 1 or 3.
        multiple: of the padded sides.
    """

    def __init__(self, image, channels, multiple):
        self.image = image
        self.lines = [
            np.pad(np.arange(side), (0, padded(side, multiple) - side), mode="symmetric")
            for side in image.shape[:2]
        ]
        self.shape = (*map(len, self.lines), channels)

    def read(self, window: Window) -> np.ndarray:
        """float32 `[rows, columns, channels]` in [-1, 1]."""
        rows, columns = (line[slice(*span)] for line, span in zip(self.lines, window, strict=True))
        return to_float(to_channels(self.image[rows[:, np.newaxis], columns], self.shape[2]))


class _Map:
    """A map, `[h, w, c]`, in a file that has no name, row after row.

    It is read and written, not mapped into memory, where its pages would count as the process'.

    Args:
        folder: of the file.
        shape: (h, w, c).
        dtype: of its numbers.
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
        """`[rows, columns, c]`."""
        (top, bottom), (left, right) = window
        values = np.empty((bottom - top, right - left, self.shape[2]), self.dtype)
        for row, line in enumerate(values, start=top):
            self._transfer(self.file.readinto, row, left, line)
        return values

    def write(self, window: Window, values: np.ndarray):
        """Puts `[rows, columns, c]` into place; an OSError where the disk is full."""
        (top, _), (left, _) = window
        for row, line in enumerate(values, start=top):
            self._transfer(self.file.write, row, left, line)

    def _transfer(self, transfer, row, left, line):
        self.file.seek((row * self.shape[1] + left) * self.shape[2] * self.dtype.itemsize)
        rest = memoryview(line).cast("B")
        while rest:  # one call may move less
            rest = rest[transfer(rest) :]
