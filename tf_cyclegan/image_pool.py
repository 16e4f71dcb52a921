"""The history of fakes for training the discriminators: section 4 of the paper."""

from collections.abc import Sequence

import tensorflow as tf

from tf_cyclegan.random_numbers import derive_seed, random_integers, to_unit_interval


class ImagePool(tf.Module):
    """A buffer of earlier fakes, in variables, so that it works in graphs and checkpoints.

    Shrivastava et al. 2017; the authors' `ImagePool`. The images of a batch are processed in order.
    While the pool is not full, each image is stored and returned. Once it is full, each image is,
    with a probability of 1/2, exchanged for a random stored image, which is returned; otherwise it
    is returned without being stored.

    Random draws are a pure function of `seed` and of the number of images seen, so there is no
    random generator to save, and XLA can compile them.

    Args:
        size: number of images kept, 1 or more; 50 in the paper.
        shape: (h, w, c) of an image, all known.
        seed: an integer. Use different seeds for different directions and replicas.
        dtype: dtype of the images.

    Attributes:
        images: the stored images, `[size, h, w, c]`.
        seen: number of images queried so far.

    Raises:
        ValueError: the size is below 1, or the shape is not fully known.
    """

    def __init__(
        self, size: int, shape: Sequence[int | None], seed: int, dtype: tf.DType = tf.float32
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"ImagePool(size={size}): use 1 or more, or no pool.")
        if None in tuple(shape):
            raise ValueError(
                f"An image pool needs images of one size, got {tuple(shape)}: crop them, or use "
                "pool_size=0."
            )
        self.size = size
        self.seed = derive_seed(seed)
        self.images = tf.Variable(tf.zeros([size, *shape], dtype), trainable=False)
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)

    def draw(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws p in [0, 1) and the index of a stored image."""
        first, second = tf.unstack(random_integers(2, self.seed, self.seen))
        return to_unit_interval(first), second % self.size

    def check(self, shape: Sequence[int | None] | tf.TensorShape) -> None:
        """Raises a ValueError if images `[h, w, c]` of a shape do not fit those in the pool."""
        stored = self.images.shape[1:]
        if len(shape) != 3 or not stored.is_compatible_with(shape):
            raise ValueError(
                f"An image pool of images of {stored} cannot take images of {tuple(shape)}: use "
                "images of one size, or make a new CycleGAN of these networks for another size."
            )

    def query(self, images: tf.Tensor) -> tf.Tensor:
        """Exchanges a batch of new fakes for a batch to train the discriminator on.

        Args:
            images: `[n, h, w, c]` of floats.

        Returns:
            `[n, h, w, c]` of the same dtype, each the new image or an older one.

        Raises:
            ValueError: the images do not have the shape of those in the pool.
        """
        self.check(images.shape[1:])
        given = images.dtype
        images = tf.cast(images, self.images.dtype)
        if images.shape[0] is None:
            # One at a time: each image depends on the pool as the one before it left it.
            chosen = tf.map_fn(self._exchange, images, parallel_iterations=1)
        else:
            chosen = tf.stack([self._exchange(image) for image in tf.unstack(images)])
        return tf.cast(chosen, given)

    def _exchange(self, image: tf.Tensor) -> tf.Tensor:
        full = self.seen >= self.size
        p, index = self.draw()
        swap = tf.logical_and(full, p > 0.5)
        slot = tf.where(full, index, tf.cast(self.seen, tf.int32))
        # Not self.images[slot]: XLA would compile the slot as a constant.
        stored = tf.gather(self.images, slot)
        kept = tf.where(tf.logical_and(full, tf.logical_not(swap)), stored, image)
        self.images.scatter_update(tf.IndexedSlices(kept[tf.newaxis], slot[tf.newaxis]))
        self.seen.assign_add(1)
        return tf.where(swap, stored, image)
