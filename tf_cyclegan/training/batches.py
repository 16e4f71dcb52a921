"""From a data set's name or folder to batches `(real_a, real_b)`: float32 NHWC in [-1, 1].

An image is chosen, cropped and flipped by a pure function of the seed and of its place in the
training, so a training that resumes at any step sees exactly what it would have seen.
"""

import os

import numpy as np
import psutil
import tensorflow as tf

from tf_cyclegan.data.folders import load_folders
from tf_cyclegan.data.image_files import DatasetError, ImageSet, in_gray
from tf_cyclegan.data.resizing import ResizedImages, augment, resize, resized_bytes
from tf_cyclegan.data.synthetic import synthetic_sets
from tf_cyclegan.data.tfds import load_tfds
from tf_cyclegan.training.config import Config


def load_dataset(config: Config) -> dict[str, ImageSet]:
    """Finds the images that the config names; they are read later, one by one.

    Returns:
        "trainA" and "trainB", in pairs where training needs them; "testA" and "testB" where the
        data has them; and "truthA" and "truthB", the true counterparts of the test images of that
        letter, where they are known (the embedded data set, and others with `config.paired` or
        `config.side_by_side`).

    Raises:
        DatasetError: the data set is unknown, missing, empty, not in the pairs that are asked for,
            or cannot be downloaded.
    """
    if config.synthetic:
        if config.side_by_side:
            raise DatasetError("side_by_side is for images of your own: name a folder by data_dir")
        sets = synthetic_sets(config.load_size, paired=config.lambda_l1 > 0)
    elif config.dataset:
        if config.data_a or config.data_b:
            raise DatasetError("dataset excludes data_a and data_b: give the one or the others")
        if config.side_by_side:
            raise DatasetError("dataset excludes side_by_side: name a folder by data_dir alone")
        sets = load_tfds(config.dataset, config.data_dir, config.paired)
    else:
        sets = load_folders(
            config.data_dir,
            config.data_a,
            config.data_b,
            config.paired,
            config.recursive,
            config.side_by_side,
        )
    gray_a, gray_b = config.channels_a == 1, config.channels_b == 1
    gray = {"trainA": gray_a, "testA": gray_a, "truthB": gray_a}
    gray |= {"trainB": gray_b, "testB": gray_b, "truthA": gray_b}
    return {name: in_gray(s) if gray[name] else s for name, s in sets.items()}


class TrainingData:
    """The two training domains, ready to be drawn from at any step.

    An epoch has as many images as the larger domain, in each domain's own random order. (The
    authors draw b with replacement; here each domain runs through all its images before any
    comes again.) The last batch of an epoch is filled up from the next round. Where training needs
    pairs, those of one name come together, cropped and flipped alike.

    Args:
        sets: from `load_dataset`.
        config: a `Config`.
        replicas: replicas in all, each with a batch of `config.batch_size`.

    Attributes:
        steps_per_epoch: steps that an epoch takes.
        shape_a, shape_b: (h, w, c) of what is trained on; h and w None where they vary.

    Raises:
        DatasetError: a domain's images cannot be cropped, vary in size where they must not, or do
            not fit where `config.cache` wants them kept.
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
        self.global_batch = config.batch_size * replicas
        self.steps_per_epoch = -(-max(len(self.a), len(self.b)) // self.global_batch)
        self.shape_a = (*(self.a.shape or (None, None)), config.channels_a)
        self.shape_b = (*(self.b.shape or (None, None)), config.channels_b)
        if (config.batch_size > 1 or config.pool_size) and None in (self.a.shape, self.b.shape):
            raise DatasetError(
                f"--preprocess={config.preprocess} leaves these images in different sizes, which "
                "cannot share a batch or a pool: use a preprocess with crop, or --batch_size=1 "
                "--pool_size=0"
            )

    @property
    def error(self) -> Exception | None:
        """Why an image could not be read, if one could not: in one line, where the
        `tf.errors.OpError` that `batches` or `distributed` end with has dozens."""
        return self.a.error or self.b.error

    def batches(self, start: int, stop: int, replica: int = 0, replicas: int = 1):
        """Batches for the steps from `start` to before `stop`.

        Args:
            start, stop: steps of the whole training, from 0.
            replica, replicas: the first replica that is fed from here, and how many are: each
                step gives one batch for each of them, in order.

        Returns:
            A `tf.data.Dataset` of `(real_a, real_b)`, float32 `[batch_size, h, w, c]` in [-1, 1].
        """
        batch = self.config.batch_size

        def places(step):  # of this step's images in the whole training
            first = step * self.global_batch + replica * batch
            return tf.data.Dataset.range(first, first + replicas * batch)

        def pair(place):
            return (
                self._image(self.a, self.shape_a, place, stream=0),
                # In one stream of draws a pair stays one, and is cropped and flipped alike.
                self._image(self.b, self.shape_b, place, stream=0 if self.pairs else 1),
            )

        dataset = tf.data.Dataset.range(start, stop).flat_map(places)
        threads = os.cpu_count() or 1
        dataset = dataset.map(pair, num_parallel_calls=threads, deterministic=True)
        dataset = dataset.batch(batch, drop_remainder=True)
        # Numbers in place of tf.data.AUTOTUNE: its tuner keeps a process that has ended its work
        # waiting for many seconds, after a long run for minutes.
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.prefetch(4).with_options(options)

    def distributed(self, strategy: tf.distribute.Strategy, start: int, stop: int):
        """`batches` for every replica of a strategy, whichever worker it is on, over and over."""

        def worker(context):
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            first = context.input_pipeline_id * replicas
            # Endless: of data that can end, TensorFlow hides the batch size from several workers,
            # in case one of them gets an empty batch, and a pool must know it.
            return self.batches(start, stop, first, replicas).repeat()

        return strategy.distribute_datasets_from_function(worker)

    def examples(self, sets, count: int = 4):
        """A few images of each domain for sample sheets, of one size, uint8 `[h, w, c]`.

        Args:
            sets: from `load_dataset`; test images are taken where there are any.
            count: at most so many.

        Returns:
            `(images_a, images_b)`, two lists of one length.
        """
        shown = [sets.get(f"test{d}", sets[f"train{d}"]) for d in "AB"]
        count = min(count, *(len(images) for images in shown))
        height, width = self.shape_a[:2] if None not in self.shape_a else (256, 256)
        return [[resize(s.read(i), (height, width)) for i in range(count)] for s in shown]

    def _image(self, images, shape, place, stream):
        """The image of one domain at a place in the training, augmented."""
        seed, count = 2 * self.config.seed + stream, len(images)
        index = tf.random.experimental.index_shuffle(
            place % count, seed=tf.stack([seed, place // count]), max_index=count - 1
        )
        image = tf.numpy_function(images.__getitem__, [index], tf.uint8, stateful=False)
        image = tf.ensure_shape(image, (None, None, shape[-1]))
        # Another key than the order's, else one image would always be cropped in one place.
        key = tf.stack([tf.constant(seed + (1 << 32), tf.int64), place])
        image = augment(image, images.crop, self.config.flip, key)
        return tf.ensure_shape(image, shape)
