"""Prepares images for training: resizes them when read, crops and flips them at each step."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from tf_cyclegan.data.cache import CachedImages, cached_images, cached_sizes, data_key
from tf_cyclegan.data.image_files import (
    MAX_PIXELS,
    DatasetError,
    ImageError,
    ImageSet,
    read_size,
    to_pil,
)

# disable=None shows the progress bar on terminals only.
_BAR: dict[str, Any] = dict(desc="reading", unit="image", disable=None, leave=False)
AHEAD = 16  # images that are decoded in advance

T = TypeVar("T")


def resized_size(height, width, preprocess, load_size, crop_size, multiple):
    """Returns the (height, width) of an image after resizing, before any crop.

    As in the authors' `get_transform`, but whenever there is no crop, both sides are rounded to the
    multiple that the generator needs (the authors do this only with "none").

    Args:
        height, width: size of the original image.
        preprocess, load_size, crop_size, multiple: as in `Preprocessing`.
    """
    if preprocess == "resize_and_crop":
        return load_size, load_size
    if preprocess.startswith("scale_width"):
        height, width = max(round(height * load_size / width), crop_size), load_size
    if "crop" in preprocess:
        return height, width
    return tuple(max(round(side / multiple), 1) * multiple for side in (height, width))


def resize(image, size):
    """Resizes with Pillow's antialiased bicubic filter, as the authors' code does.

    Args:
        image: uint8 `[h, w, 1 or 3]`.
        size: (height, width).

    Returns:
        uint8 `[*size, c]`.
    """
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    pil = to_pil(image)
    pil = pil.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(pil).reshape(height, width, image.shape[2])


def resize_longer_side(image, pixels, max_pixels=MAX_PIXELS):
    """Resizes so that the longer side has `pixels` pixels, and the shorter one at least 1.

    Raises:
        ImageError: the result would have more than `max_pixels`.
    """
    scale = pixels / max(image.shape[:2])
    height, width = (max(round(scale * side), 1) for side in image.shape[:2])
    if height * width > max_pixels:
        raise ImageError(
            f"{width} x {height} would be more than {max_pixels} pixels: use a smaller --resize"
        )
    return resize(image, (height, width))


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic preprocessing of every image of a domain.

    Attributes:
        preprocess: "resize_and_crop" (to a square of `load_size`), "crop", "scale_width" (to a
            width of `load_size`), "scale_width_and_crop" or "none".
        load_size: side in pixels that images are resized to.
        crop_size: side in pixels of the random crop.
        multiple: the generators need height and width to be a multiple of this.
        cache: where to keep resized images: "memory", "disk" or "none".
        smallest: the smallest side in pixels that the networks can be trained on.
    """

    preprocess: str = "resize_and_crop"
    load_size: int = 286
    crop_size: int = 256
    multiple: int = 4
    cache: str = "memory"
    smallest: int = 1


class ResizedImages:
    """The resized images of one domain, cached according to `settings.cache`.

    With "memory" and "disk", every image is decoded once, in parallel, before training begins;
    later runs with "disk" reuse the images as long as no file has changed. With "none", each image
    is decoded at every use; the first run only reads the headers of files, and later runs not even
    those. All three give the same pixels. They are cached before any random augmentation, so every
    epoch still sees other crops.

    Args:
        images: an `ImageSet`.
        settings: a `Preprocessing`.
        channels: number of channels of the images.

    Attributes:
        crop: the side of the random square crop, or None.
        sizes: (h, w) of each image after resizing, `[n, 2]`.
        shape: (h, w) of the training images; None if images differ.
        error: the last exception of an access to an image, if there was one. `tf.data` hides it in
            its own error of many lines.

    Raises:
        ImageError: an image cannot be read.
        DatasetError: an image is too small for the crop or the networks, or the disk for the cache.
    """

    def __init__(self, images: ImageSet, settings: Preprocessing, channels: int = 3):
        self.images = images
        self.settings = settings
        self.crop = settings.crop_size if "crop" in settings.preprocess else None
        self.error: Exception | None = None
        self._kept: Sequence[np.ndarray] | CachedImages | None = None
        count = len(images)
        if settings.cache == "memory":
            self._kept = list(self._each(self._first_look))
            self.sizes = np.array([image.shape[:2] for image in self._kept])
        elif settings.cache == "disk":
            expected = resized_bytes(images, settings, channels)
            looks = self._each(self._first_look)
            self._kept = cached_images(self._key(channels), count, channels, expected, looks)
            self.sizes = self._kept.sizes
        elif paths := images.paths:
            # Not in threads: headers are parsed in Python, under its global lock.
            headers = map(read_size, tqdm(paths, **_BAR))
            sizes = cached_sizes(self._key(channels), count, headers)
            self.sizes = np.array([self._resized_size(*size) for size in sizes])
        elif settings.preprocess == "resize_and_crop":
            self.sizes = np.full((count, 2), settings.load_size)
        else:
            looks = self._each(self._first_look)
            self.sizes = np.array([image.shape[:2] for image in looks])
        for index, size in enumerate(self.sizes):
            self._check_size(index, *size)
        shapes = {(self.crop, self.crop)} if self.crop else set(map(tuple, self.sizes.tolist()))
        self.shape = shapes.pop() if len(shapes) == 1 else None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            return self._kept[index] if self._kept is not None else self._read_same(index)
        except Exception as error:
            self.error = error
            raise

    def _each(self, look: Callable[[int], T]) -> Iterator[T]:
        """Yields `look(index)` for every image in order; a few are computed in advance."""
        count = len(self.images)
        with (
            ThreadPoolExecutor() as pool,  # Pillow releases Python's global lock to decode
            tqdm(total=count, **_BAR) as bar,
        ):
            ahead: deque[Future[T]] = deque()
            for index in range(count + AHEAD):
                if index < count:
                    ahead.append(pool.submit(look, index))
                if index >= AHEAD and ahead:
                    yield ahead.popleft().result()
                    bar.update()

    def _first_look(self, index):
        image = self._read(index)
        self._check_size(index, *image.shape[:2])
        return image

    def _check_size(self, index, height, width):
        if self.crop and min(height, width) < self.crop:
            raise DatasetError(
                f"{self.images.names[index]}: {width} x {height} pixels cannot be cropped to "
                f"{self.crop}: use --preprocess=resize_and_crop, or leave it out"
            )
        if not self.crop and min(height, width) < self.settings.smallest:
            raise DatasetError(
                f"{self.images.names[index]}: {width} x {height} pixels are too few for the "
                f"networks, which need sides of {self.settings.smallest} or more: use "
                "--preprocess=resize_and_crop, or leave it out"
            )

    def _key(self, channels):
        if not self.images.paths:
            raise DatasetError(
                "--cache=disk needs a file for each image, which named datasets and pairs side by "
                "side do not have: use --cache=memory or --cache=none"
            )
        c = self.settings
        settings = (c.preprocess, c.load_size, c.crop_size, c.multiple, channels)
        return data_key(self.images.paths, settings)

    def _resized_size(self, height, width):
        c = self.settings
        return resized_size(height, width, c.preprocess, c.load_size, c.crop_size, c.multiple)

    def _read_same(self, index):
        image = self._read(index)
        if image.shape[:2] != tuple(self.sizes[index]):
            raise ImageError(
                f"{self.images.names[index]}: another image has replaced it during training: "
                "restore it"
            )
        return image

    def _read(self, index):
        image = self.images.read(index)
        return resize(image, self._resized_size(*image.shape[:2]))


def resized_bytes(images: ImageSet, settings: Preprocessing, channels: int) -> int:
    """Estimates how many bytes the resized images of a domain take.

    If sizes differ, it reads the headers of about a hundred files; without files it returns 0.
    """
    c, count = settings, len(images)
    if c.preprocess == "resize_and_crop":
        return count * channels * c.load_size**2
    if not images.paths:
        return 0
    looked_at = [read_size(path) for path in images.paths[:: -(-count // 100)]]
    areas = [
        math.prod(resized_size(*size, c.preprocess, c.load_size, c.crop_size, c.multiple))
        for size in looked_at
    ]
    return round(count * channels * sum(areas) / len(areas))


@dataclass(frozen=True)
class RandomChanges:
    """How training images are changed at random, besides the crop.

    Attributes:
        flip: whether to flip an image left to right with probability 0.5.
        flip_vertical: whether to flip it upside down with probability 0.5.
        rotate: largest angle in degrees by which to rotate it before the crop. What lies outside
            of the image is filled by mirroring.
        color_jitter: brightness, contrast and saturation change by factors of 1 - x to 1 + x.
    """

    flip: bool = True
    flip_vertical: bool = False
    rotate: float = 0.0
    color_jitter: float = 0.0


def augment(image, crop, changes, seed):
    """Crops an image and changes it at random, and scales it to [-1, 1].

    Args:
        image: a uint8 tensor `[h, w, c]`.
        crop: side of the crop, or None.
        changes: a `RandomChanges`.
        seed: int64 `[2]`; the same random seed gives the same crop and changes.

    Returns:
        float32 `[crop, crop, c]`, or `[h, w, c]`, in [-1, 1].
    """
    top, left, flipped = draw_crop_and_flip(tf.shape(image)[:2], crop, seed)
    # Another key than that of the crop, whose draws must not depend on these settings.
    others = tf.random.stateless_uniform([5], seed + tf.constant([1 << 33, 0], tf.int64))
    if changes.rotate:
        image = rotate(image, (2 * others[0] - 1) * changes.rotate)
    if crop:
        image = image[top : top + crop, left : left + crop]
    if changes.flip:
        image = tf.where(flipped, image[:, ::-1], image)
    if changes.flip_vertical:
        image = tf.where(others[1] < 0.5, image[::-1], image)
    if changes.color_jitter:
        image = change_colors(image, 1 + (2 * others[2:] - 1) * changes.color_jitter)
    return tf.cast(image, tf.float32) / 127.5 - 1.0


def rotate(image, degrees):
    """Rotates a uint8 image `[h, w, c]` around its center: float32 of the same shape."""
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(image)[:2]))
    x, y, angle = (width - 1) / 2, (height - 1) / 2, degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # From a pixel (column, row) of the result to its place in the image.
    transform = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, 0.0, 0.0]
    rotated = keras.ops.image.affine_transform(
        tf.cast(image, tf.float32),
        tf.stack(transform),
        fill_mode="reflect",
        data_format="channels_last",
    )
    return tf.ensure_shape(rotated, image.shape)


def change_colors(image, factors):
    """Multiplies brightness, contrast and saturation of an image with values of 0 to 255.

    Args:
        image: `[h, w, c]`.
        factors: float32 `[3]`.

    Returns:
        float32 `[h, w, c]` in [0, 255].
    """
    brightness, contrast, saturation = tf.unstack(factors)
    image = tf.cast(image, tf.float32) * brightness
    mean = tf.reduce_mean(image)
    image = mean + (image - mean) * contrast
    gray = tf.reduce_mean(image, axis=-1, keepdims=True)
    return tf.clip_by_value(gray + (image - gray) * saturation, 0.0, 255.0)


def draw_crop_and_flip(size, crop, seed):
    """Draws the position of a crop, and whether to flip the image.

    Args:
        size: int32 `[2]`, height and width of the image.
        crop, seed: as for `augment`.

    Returns:
        The first row and column of the crop, int32, and whether to flip, a boolean.
    """
    draw = tf.random.stateless_uniform([3], seed)
    space = tf.cast(size - (crop or size) + 1, tf.float32)
    top, left = tf.unstack(tf.cast(draw[:2] * space, tf.int32))
    return top, left, draw[2] < 0.5
