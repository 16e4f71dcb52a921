"""Loads folders of images and named datasets as `tf.data.Dataset`s for `CycleGAN.fit`.

Each image is a float32 tensor `[crop, crop, channels]` in [-1, 1]: resized, randomly cropped and
randomly flipped, as in section 7.1 of the paper and in the authors' code. Every epoch has its own
order and crops. The same random seed gives the same epochs.
"""

import os
import zlib
from collections.abc import Sequence

import tensorflow as tf

from tf_cyclegan.data.folders import file_images, folder_images, pair_up
from tf_cyclegan.data.image_files import DatasetError, ImageSet, in_gray
from tf_cyclegan.data.resizing import Preprocessing, RandomChanges, ResizedImages, augment
from tf_cyclegan.data.synthetic import synthetic_sets
from tf_cyclegan.data.tfds import load_tfds
from tf_cyclegan.random_numbers import derive_seed

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def images(
    source: Source,
    size: int = 286,
    crop: int = 256,
    channels: int = 3,
    flip: bool = True,
    cache: str = "memory",
    recursive: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Loads the images of one domain.

    Args:
        source: a folder of image files, or a list of files.
        size: side in pixels of the square that images are resized to.
        crop: side in pixels of the random crop, at most `size` and a multiple of 4 (of
            `2 ** depth` for a `UNetGenerator`).
        channels: 3 for RGB, 1 for gray.
        flip: whether to flip images left to right with probability 0.5.
        cache: where to keep resized images: "memory"; "disk", where later runs find them; or
            "none", which decodes each image whenever it is used.
        recursive: whether to search the sub-folders of `source` too.
        seed: random seed for order, crops and flips, which also depend on the name of `source`, so
            that two domains have different ones.

    Returns:
        A dataset of one epoch, with every image once: float32 `[crop, crop, channels]` in [-1, 1].

    Raises:
        DatasetError: the folder is missing or empty, or the sizes do not fit together.
        ImageError: an image cannot be read.

    Example:

    >>> photos = tf_cyclegan.data.images("photos", size=286, crop=256)
    """
    if isinstance(source, str | os.PathLike):
        found, name = folder_images(source, recursive), os.fspath(source)
    else:
        found, name = file_images(source), "\n".join(map(str, source))
    # The images of two domains must not come in the same order, with the same crops.
    own_seed = derive_seed(seed, zlib.crc32(os.fsencode(name)))
    return _epoch(_resized(found, size, crop, channels, cache), channels, flip, own_seed)


def unpaired(
    images_a: tf.data.Dataset, images_b: tf.data.Dataset, batch_size: int = 1
) -> tf.data.Dataset:
    """Combines two domains of unpaired images into batches.

    An epoch is as long as the larger domain; the smaller one repeats. Its order changes if the
    dataset is shuffled anew each time, as those of `images` are. Images that do not fill the last
    batch are dropped, since an image pool takes whole batches.

    Args:
        images_a, images_b: finite datasets of images `[h, w, c]`, such as `images` returns.
        batch_size: global batch size, the images of each domain over all replicas; 1 in the paper.

    Returns:
        A dataset of `(real_a, real_b)`, each `[batch_size, h, w, c]`.

    Raises:
        DatasetError: the number of images in a dataset is unknown, or too small for a batch.
    """
    counts = [int(part.cardinality()) for part in (images_a, images_b)]
    if min(counts) < 1:
        raise DatasetError(
            "unpaired needs two finite, non-empty datasets of known cardinality: leave out "
            "repeat(), or use tf.data.experimental.assert_cardinality."
        )
    both = tf.data.Dataset.zip((images_a.repeat(), images_b.repeat())).take(max(counts))
    return _batched(both, max(counts), batch_size)


def paired(
    source_a: Source,
    source_b: Source,
    size: int = 286,
    crop: int = 256,
    channels: tuple[int, int] = (3, 3),
    flip: bool = True,
    cache: str = "memory",
    recursive: bool = False,
    batch_size: int = 1,
    seed: int = 0,
) -> tf.data.Dataset:
    """Loads batches of true pairs for `compile(lambda_l1=...)`: pix2pix (Isola et al. 2017).

    Two images with the same name are a pair, such as `1.jpg` and `1.png`, or `1_A.jpg` and
    `1_B.jpg`. Both get the same crop and flip.

    Args:
        source_a, source_b: for each domain, a folder of image files or a list of files.
        channels: of the images in domain a and in domain b.
        batch_size: global batch size, the pairs in a batch over all replicas.
        size, crop, flip, cache, recursive, seed: as in `images`.

    Returns:
        A dataset of one epoch of `(real_a, real_b)`, each `[batch_size, crop, crop, c]`.

    Raises:
        DatasetError: as in `images`; or an image has no counterpart, or more than one.
        ImageError: an image cannot be read.
    """
    found = [
        folder_images(s, recursive) if isinstance(s, str | os.PathLike) else file_images(s)
        for s in (source_a, source_b)
    ]
    sets = pair_up(dict(zip(("trainA", "trainB"), found, strict=True)))
    both = [
        _epoch(_resized(sets[name], size, crop, c, cache), c, flip, seed)
        for name, c in zip(("trainA", "trainB"), channels, strict=True)
    ]  # with the same seed, so that order, crops and flips agree
    return _batched(tf.data.Dataset.zip(tuple(both)), len(sets["trainA"]), batch_size)


def load(
    name: str,
    size: int = 286,
    crop: int = 256,
    flip: bool = True,
    cache: str = "memory",
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Loads the two training domains of a named dataset.

    Args:
        name: `cycle_gan/<config>` from TensorFlow Datasets, downloaded on first use, such as
            "cycle_gan/horse2zebra"; or "synthetic/summer2winter", which is drawn by code.
        data_dir: where TensorFlow Datasets keeps its data; ~/tensorflow_datasets by default.
        size, crop, flip, cache, seed: as in `images`.

    Returns:
        `(images_a, images_b)`, as `images` returns them; combine them with `unpaired`.

    Raises:
        DatasetError: the name is unknown, or the download fails.
    """
    synthetic = name == "synthetic/summer2winter"
    sets = synthetic_sets(size) if synthetic else load_tfds(name, data_dir)
    a, b = (
        _epoch(_resized(sets[split], size, crop, 3, cache), 3, flip, seed + place)
        for place, split in enumerate(("trainA", "trainB"))
    )
    return a, b


def _resized(found: ImageSet, size: int, crop: int, channels: int, cache: str) -> ResizedImages:
    if channels not in (1, 3):
        raise DatasetError(f"channels is {channels}: use 1 (gray) or 3 (RGB).")
    if not 1 <= crop <= size:
        raise DatasetError(f"crop {crop} is not between 1 and size {size}: use a smaller crop.")
    if cache not in ("memory", "disk", "none"):
        raise DatasetError(f'cache is {cache!r}: use "memory", "disk" or "none".')
    settings = Preprocessing(load_size=size, crop_size=crop, cache=cache)
    return ResizedImages(in_gray(found) if channels == 1 else found, settings, channels)


def _epoch(found: ResizedImages, channels: int, flip: bool, seed: int) -> tf.data.Dataset:
    def image(index: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        pixels = tf.numpy_function(found.__getitem__, [index], tf.uint8, stateful=False)
        pixels = tf.ensure_shape(pixels, (None, None, channels))
        pixels = augment(pixels, found.crop, RandomChanges(flip), tf.stack([draw, seed]))
        return tf.ensure_shape(pixels, (found.crop, found.crop, channels))

    count = len(found)
    order = tf.data.Dataset.range(count).shuffle(count, seed, reshuffle_each_iteration=True)
    # Each epoch draws other random numbers, all from the same seed.
    draws = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    epoch = tf.data.Dataset.zip((order, draws))
    return epoch.map(image, num_parallel_calls=os.cpu_count() or 1, deterministic=True)


def _batched(both: tf.data.Dataset, count: int, batch_size: int) -> tf.data.Dataset:
    if count < batch_size:
        raise DatasetError(
            f"{count} images are too few for a batch of {batch_size}: use a smaller batch_size."
        )
    # No autotuning: its thread delays the end of a process by many seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    return both.batch(batch_size, drop_remainder=True).prefetch(4).with_options(options)
