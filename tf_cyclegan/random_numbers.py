"""Random draws inside the training step, the same with and without XLA, without state to save.

TensorFlow's stateless draws are a pure function of a seed of two numbers. But XLA uses only 32 bits
of each number, and computes other floats (though not other integers) from the same bits.
"""

import numpy as np
import tensorflow as tf


def derive_seed(*numbers: int) -> int:
    """Derives a 32-bit seed from integers of any size; different integers give different seeds."""
    words = [number % (1 << 64) for number in numbers]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def random_integers(count: int | tf.Tensor, seed: int, place: tf.Tensor | tf.Variable) -> tf.Tensor:
    """Draws random integers.

    Args:
        count: number of draws, an integer or a scalar tensor.
        seed: from `derive_seed`.
        place: an int64 scalar tensor, such as the step; each place gives other draws.

    Returns:
        int32 `[count]` in [0, 2^24).
    """
    key = tf.stack([tf.constant(seed, tf.int64), place])
    return tf.random.stateless_uniform([count], key, maxval=1 << 24, dtype=tf.int32)


def to_unit_interval(whole: tf.Tensor) -> tf.Tensor:
    """Maps int32 in [0, 2^24) to float32 in [0, 1), without rounding."""
    return tf.cast(whole, tf.float32) / (1 << 24)
