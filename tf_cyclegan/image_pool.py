"""The history of fakes that the discriminators are shown: section 4 of the paper."""

import tensorflow as tf

from tf_cyclegan.random_numbers import stream, to_unit, whole_numbers


class ImagePool(tf.Module):
    """A buffer of earlier fakes, as variables, so that it runs in a graph and is checkpointed.

    Shrivastava et al. 2017; the authors' `ImagePool`. The images of a batch are taken in order.
    While the pool is not full, each is stored and returned. Once it is full, half of them (by
    chance) are swapped for a random stored image, which is returned and replaced; the other half
    are returned without being stored.

    Draws are a pure function of `seed` and of the images seen so far: no random generator has to
    be saved, and XLA can compile them.

    Args:
        size: images kept; 50 in the paper. Use no pool at all rather than 0.
        shape: (h, w, c) of an image, all known.
        seed: an integer; pools of different directions and replicas take different ones.
        dtype: of the images.

    Attributes:
        images: `[size, h, w, c]`.
        seen: images queried so far.

    Raises:
        ValueError: a size under 1, or a shape that is not known.
    """

    def __init__(self, size, shape, seed, dtype=tf.float32):
        super().__init__()
        if size < 1:
            raise ValueError(f"ImagePool(size={size}): use 1 or more, or no pool.")
        if None in tuple(shape):
            raise ValueError(
                f"An image pool needs images of one size, got {tuple(shape)}: crop them, or use "
                "pool_size 0."
            )
        self.size = size
        self.seed = stream(seed)
        self.images = tf.Variable(tf.zeros([size, *shape], dtype), trainable=False)
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)

    def draw(self):
        """One draw: p in [0, 1) and the index of a stored image."""
        first, second = tf.unstack(whole_numbers(2, self.seed, self.seen))
        return to_unit(first), second % self.size

    def query(self, images):
        """Exchanges a batch of fresh fakes for what the discriminator is to see.

        Args:
            images: `[n, h, w, c]`.

        Returns:
            `[n, h, w, c]`, each the fresh image or an older one.
        """
        if images.shape[0] is None:
            # One at a time: each looks at what the one before it left.
            return tf.map_fn(self._exchange, images, parallel_iterations=1)
        return tf.stack([self._exchange(image) for image in tf.unstack(images)])

    def _exchange(self, image):
        full = self.seen >= self.size
        p, index = self.draw()
        swap = tf.logical_and(full, p > 0.5)
        slot = tf.where(full, index, tf.cast(self.seen, tf.int32))
        # Indexing would make the slot a constant of the program that XLA compiles.
        stored = tf.gather(self.images, slot)
        kept = tf.where(tf.logical_and(full, tf.logical_not(swap)), stored, image)
        self.images.scatter_update(tf.IndexedSlices(kept[tf.newaxis], slot[tf.newaxis]))
        self.seen.assign_add(1)
        return tf.where(swap, stored, image)
