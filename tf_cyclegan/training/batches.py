"""Reads a dataset by name or folder into batches `(real_a, real_b)`: float32 NHWC in [-1, 1].

Images are chosen, cropped and flipped by a pure function of the seed and of their position in the
training run, so a run that resumes at any step sees the same batches as one without a break.
"""

import os
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf

from tf_cyclegan.cyclegan import penalty_of
from tf_cyclegan.data.folders import folder_images, load_folders
from tf_cyclegan.data.image_files import DatasetError, ImageSet, in_gray
from tf_cyclegan.data.resizing import (
    RandomChanges,
    ResizedImages,
    augment,
    resize,
    resized_bytes,
)
from tf_cyclegan.data.synthetic import synthetic_sets
from tf_cyclegan.data.tfds import load_tfds
from tf_cyclegan.training.config import Config


def load_dataset(config: Config, only_test: bool = False) -> dict[str, ImageSet]:
    """Finds the images that the config names. They are read later, one by one.

    Args:
        config: a `Config`.
        only_test: whether a folder may hold test images alone.

    Returns:
        "trainA" and "trainB", in pairs if training needs them; "testA" and "testB" if the data
        set has them; "truthA" and "truthB", the ground truth of the translations of "testA"
        and "testB", if it is known (for the embedded dataset, and others with `config.paired` or
        `config.side_by_side`); and with `config.evaluate_every`, "valA" and "valB".

    Raises:
        DatasetError: the dataset is unknown, missing, empty, not in the requested pairs, or
            cannot be downloaded.
    """
    if config.synthetic:
        if config.side_by_side:
            raise DatasetError("side_by_side needs your own images: name a folder by data_dir")
        sets = synthetic_sets(config.load_size, paired=config.lambda_l1 > 0)
    elif config.dataset:
        if config.data_a or config.data_b:
            raise DatasetError("dataset excludes data_a and data_b: give only one of them")
        if config.side_by_side:
            raise DatasetError("dataset excludes side_by_side: name a folder by data_dir instead")
        sets = load_tfds(config.dataset, config.data_dir, config.paired)
    else:
        sets = load_folders(
            config.data_dir,
            config.data_a,
            config.data_b,
            config.paired,
            config.recursive,
            config.side_by_side,
            only_test,
        )
    if config.max_images:
        for name in ("trainA", "trainB"):
            sets[name] = sets[name].subset(range(min(config.max_images, len(sets[name]))))
    if config.evaluate_every:
        sets |= validation_sets(sets, config)
    gray_a, gray_b = config.channels_a == 1, config.channels_b == 1
    gray = {"trainA": gray_a, "valA": gray_a, "testA": gray_a, "truthB": gray_a}
    gray |= {"trainB": gray_b, "valB": gray_b, "testB": gray_b, "truthA": gray_b}
    return {name: in_gray(s) if gray[name] else s for name, s in sets.items()}


def validation_sets(sets: dict[str, ImageSet], config: Config) -> dict[str, ImageSet]:
    """Returns images for validation: those of `config.val_dir`, or a part of the training images.

    Args:
        sets: "trainA" and "trainB", in pairs if training needs them.
        config: a `Config`; its random seed selects the images that are held out.

    Returns:
        "valA" and "valB", and without `val_dir` also the remaining "trainA" and "trainB".

    Raises:
        DatasetError: `val_dir` has fewer than two images of a domain, or there are too few training
            images.
    """
    if config.val_dir:
        root = Path(config.val_dir)
        given = {name: folder_images(root / name, config.recursive) for name in ("valA", "valB")}
        for name, images in given.items():
            if len(images) < 2:  # KID needs two
                raise DatasetError(
                    f"{root / name} has only one image: add more, or leave out --val_dir"
                )
        return given
    split = {}
    for domain in "AB":
        images = sets[f"train{domain}"]
        held_out = max(round(config.val_share * len(images)), 2)  # KID needs two
        if held_out >= len(images):
            raise DatasetError(
                f"train{domain} has only {len(images)} images, too few to hold out {held_out} for "
                "validation: use --val_dir or --evaluate_every=0"
            )
        # The same order in both domains, so that pairs stay together.
        order = np.random.default_rng(config.seed).permutation(len(images))
        split[f"val{domain}"] = images.subset(sorted(order[:held_out]))
        split[f"train{domain}"] = images.subset(sorted(order[held_out:]))
    return split


class TrainingData:
    """The images of both training domains, as batches from any step on.

    An epoch has as many images as the larger domain, in a random order for each domain. (The
    authors draw b with replacement; here each domain uses all its images before it repeats any.)
    The last batch of an epoch is filled up from the next one. If training needs pairs, images of
    one name are in the same place of a batch, cropped and flipped alike.

    Args:
        sets: from `load_dataset`.
        config: a `Config`.
        replicas: total number of replicas, each with a batch of `batch` images.

    Attributes:
        batch: images of each domain in the batch of a replica: `config.batch_size` for each update
            of the discriminators.
        steps_per_epoch: number of steps in an epoch.
        shape_a, shape_b: (h, w, c) of the training images, with h and w None if they vary.

    Raises:
        DatasetError: the images of a domain cannot be cropped, vary in size where they must not,
            or do not fit into the cache of `config.cache`.
    """

    def __init__(self, sets: dict[str, ImageSet], config: Config, replicas: int = 1):
        a, b = (
            (sets["trainA"], config.preprocessing, config.channels_a),
            (sets["trainB"], config.preprocessing, config.channels_b),
        )
        if config.cache == "memory":
            needed, free = resized_bytes(*a) + resized_bytes(*b), psutil.virtual_memory().available
            if needed > free:
                raise DatasetError(
                    f"the resized images take {needed / 1e9:.1f} GB of memory, and "
                    f"{free / 1e9:.1f} GB are free: use --cache=disk or --cache=none"
                )
        self.a, self.b = ResizedImages(*a), ResizedImages(*b)
        self.config = config
        self.pairs = config.lambda_l1 > 0
        if self.pairs and not np.array_equal(self.a.sizes, self.b.sizes):
            raise DatasetError("pairs differ in size: use --preprocess=resize_and_crop")
        self.batch = config.batch_size * config.d_steps
        self.global_batch = self.batch * replicas
        self.changes = RandomChanges(
            config.flip, config.flip_vertical, config.rotate, config.color_jitter
        )
        self.steps_per_epoch = -(-max(len(self.a), len(self.b)) // self.global_batch)
        self.shape_a = (*(self.a.shape or (None, None)), config.channels_a)
        self.shape_b = (*(self.b.shape or (None, None)), config.channels_b)
        # Between real images and fakes, a gradient penalty mixes images of both domains.
        penalty, center = penalty_of(
            config.adversarial, config.gradient_penalty, config.gradient_center
        )
        mixes = penalty and center
        if self.batch > 1 or config.pool_size or mixes:
            if None in (self.a.shape, self.b.shape):
                raise DatasetError(
                    f"--preprocess={config.preprocess} leaves these images in different sizes, "
                    "which cannot share a batch, a pool or a gradient penalty: use a preprocess "
                    "with crop, or --batch_size=1 --d_steps=1 --pool_size=0 and no penalty"
                )
        if mixes and self.a.shape != self.b.shape:
            raise DatasetError(
                "a gradient penalty between real images and fakes needs both domains in one size: "
                "use a --preprocess with crop, or no penalty"
            )

    @property
    def error(self) -> Exception | None:
        """The one-line error of an image that could not be read, or None.

        The `tf.errors.OpError` that `batches` or `distributed` then raise has dozens of lines.
        """
        return self.a.error or self.b.error

    def batches(self, start: int, stop: int, replica: int = 0, replicas: int = 1):
        """Returns the batches for the steps from `start` to before `stop`.

        Args:
            start, stop: steps of the whole training run, from 0.
            replica, replicas: the first replica that gets these batches, and the number of
                replicas: each step gives one batch for each of them, in order.

        Returns:
            A `tf.data.Dataset` of `(real_a, real_b)`, float32 `[batch, h, w, c]` in [-1, 1].
        """
        batch = self.batch

        def places(step):  # positions of the images of this step in the training run
            first = step * self.global_batch + replica * batch
            return tf.data.Dataset.range(first, first + replicas * batch)

        def pair(place):
            return (
                self._image(self.a, self.shape_a, place, stream=0),
                # With the same stream of draws, pairs stay together, cropped and flipped alike.
                self._image(self.b, self.shape_b, place, stream=0 if self.pairs else 1),
            )

        dataset = tf.data.Dataset.range(start, stop).flat_map(places)
        threads = os.cpu_count() or 1
        dataset = dataset.map(pair, num_parallel_calls=threads, deterministic=True)
        dataset = dataset.batch(batch, drop_remainder=True)
        # Not tf.data.AUTOTUNE: its tuner delays the end of the process by many seconds, after a
        # long training run by minutes.
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.prefetch(4).with_options(options)

    def distributed(self, strategy: tf.distribute.Strategy, start: int, stop: int):
        """Returns `batches` for all replicas of a strategy, on any worker, repeated endlessly."""

        def worker(context):
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            first = context.input_pipeline_id * replicas
            # Endless: for finite data, several workers get batches of unknown size, in case one of
            # them gets an empty batch, but image pools need a known size.
            return self.batches(start, stop, first, replicas).repeat()

        return strategy.distribute_datasets_from_function(worker)

    def examples(self, sets, count: int = 4):
        """Returns a few images of each domain for contact sheets, of one size, uint8 `[h, w, c]`.

        Args:
            sets: from `load_dataset`. Test images are used if there are any.
            count: maximum number of images of each domain.

        Returns:
            `(images_a, images_b)`, two lists of the same length.
        """
        shown = [sets.get(f"test{d}", sets[f"train{d}"]) for d in "AB"]
        count = min(count, *(len(images) for images in shown))
        return [[resize(s.read(i), self.shown_size) for i in range(count)] for s in shown]

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of images for contact sheets and validation."""
        return self.shape_a[:2] if None not in self.shape_a else (256, 256)

    def draw(self, images: ResizedImages, place: tf.Tensor, stream: int):
        """Chooses the image of a domain at a position in the training run.

        Args:
            images: `a` or `b`.
            place: an int64 scalar tensor, the position.
            stream: 0 for a, and 1 for b unless training needs pairs.

        Returns:
            The index of the image, and the random seed of its crop and flip.
        """
        seed, count = 2 * self.config.seed + stream, len(images)
        index = tf.random.experimental.index_shuffle(
            place % count, seed=tf.stack([seed, place // count]), max_index=count - 1
        )
        # A different key from the order's, or an image would get the same crop each time.
        return index, tf.stack([tf.constant(seed + (1 << 32), tf.int64), place])

    def _image(self, images, shape, place, stream):
        """Returns the augmented image of a domain at a position in the training run."""
        index, key = self.draw(images, place, stream)
        image = tf.numpy_function(images.__getitem__, [index], tf.uint8, stateful=False)
        image = tf.ensure_shape(image, (None, None, shape[-1]))
        image = augment(image, images.crop, self.changes, key)
        return tf.ensure_shape(image, shape)
