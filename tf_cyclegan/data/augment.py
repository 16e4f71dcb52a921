"""Pictures to what the networks train on: resized when read, cropped and flipped at each step."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from PIL import Image

from tf_cyclegan.data.pictures import MAX_PIXELS, DatasetError, PictureError, PictureSet


def resized_size(height, width, preprocess, load_size, crop_size, multiple):
    """(height, width) of a picture once resized, before any crop.

    The authors' `get_transform`; where nothing is cropped, both sides are rounded to the multiple
    that the generator needs (there only with "none").

    Args:
        height, width: of the picture as it is.
        preprocess, load_size, crop_size, multiple: as in `Config`.
    """
    if preprocess == "resize_and_crop":
        return load_size, load_size
    if preprocess.startswith("scale_width"):
        height, width = max(round(height * load_size / width), crop_size), load_size
    if "crop" in preprocess:
        return height, width
    return tuple(max(round(side / multiple), 1) * multiple for side in (height, width))


def resize(picture, size):
    """Resizes by Pillow's antialiased bicubic, which is what the authors' code uses.

    Args:
        picture: uint8 `[h, w, 1 or 3]`.
        size: (height, width).

    Returns:
        uint8 `[*size, c]`.
    """
    if picture.shape[:2] == tuple(size):
        return picture
    height, width = size
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, picture.shape[2])


def resize_longer_side(picture, pixels, max_pixels=MAX_PIXELS):
    """Resizes so that the longer side has `pixels` pixels; the shorter one keeps at least 1.

    Raises:
        PictureError: the result would have more than `max_pixels`.
    """
    scale = pixels / max(picture.shape[:2])
    height, width = (max(round(scale * side), 1) for side in picture.shape[:2])
    if height * width > max_pixels:
        raise PictureError(
            f"{width} x {height} would be more than {max_pixels} pixels: use a smaller --resize"
        )
    return resize(picture, (height, width))


class ResizedPictures:
    """The pictures of one domain, each read once, resized, and kept if the config says so.

    What is kept is from before any random draw, so every epoch still sees other crops.

    Args:
        pictures: a `PictureSet`.
        config: preprocessing settings, a `Config`.

    Attributes:
        crop: the side of the random square crop, or None.
        sizes: (h, w) of each picture once resized.
        shape: (h, w) of what is trained on; None where pictures differ.

    Raises:
        PictureError: a picture cannot be read; found here, before a training has begun.
        DatasetError: a picture is too small for the crop.
    """

    def __init__(self, pictures: PictureSet, config):
        self.pictures = pictures
        self.config = config
        self.crop = config.crop_size if "crop" in config.preprocess else None
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
            first = pool.map(self._first_look, range(len(pictures)))
            self.sizes, kept = zip(*first, strict=True)
        self._kept = kept if config.cache else None
        shapes = {(self.crop, self.crop) if self.crop else size for size in self.sizes}
        self.shape = shapes.pop() if len(shapes) == 1 else None

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self._kept[index] if self._kept else self._read(index)

    def _first_look(self, index):
        picture = self._read(index)
        height, width = picture.shape[:2]
        if self.crop and min(height, width) < self.crop:
            raise DatasetError(
                f"{self.pictures.names[index]}: {width} x {height} pixels cannot be cropped to "
                f"{self.crop}: use --preprocess=resize_and_crop, or leave it out"
            )
        return (height, width), picture if self.config.cache else None

    def _read(self, index):
        picture = self.pictures.read(index)
        c = self.config
        size = resized_size(*picture.shape[:2], c.preprocess, c.load_size, c.crop_size, c.multiple)
        return resize(picture, size)


def augment(picture, crop, flip, seed):
    """A random crop, a random flip, and the networks' range.

    Args:
        picture: uint8 `[h, w, c]`, a tensor.
        crop: side of the crop, or None.
        flip: whether to mirror every second picture, left to right.
        seed: int64 `[2]`; the same seed gives the same draw.

    Returns:
        float32 `[crop, crop, c]`, or `[h, w, c]`, in [-1, 1].
    """
    draw = tf.random.stateless_uniform([3], seed)
    if crop:
        space = tf.shape(picture)[:2] - crop + 1
        top, left = tf.unstack(tf.cast(draw[:2] * tf.cast(space, tf.float32), tf.int32))
        picture = picture[top : top + crop, left : left + crop]
    if flip:
        picture = tf.where(draw[2] < 0.5, picture[:, ::-1], picture)
    return tf.cast(picture, tf.float32) / 127.5 - 1.0
