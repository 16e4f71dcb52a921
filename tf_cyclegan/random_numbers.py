"""Random draws inside the training step, the same with and without XLA, with no state to save.

TensorFlow's stateless draws are a pure function of a seed, but XLA reads only 32 bits of each of
its two numbers, and makes other floats (not other whole numbers) of the same bits.
"""

import numpy as np
import tensorflow as tf


def stream(*numbers: int) -> int:
    """One 32-bit seed for whole numbers of any size; other numbers give, in effect, another."""
    words = [number % (1 << 64) for number in numbers]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def whole_numbers(count, seed, place):
    """Draws whole numbers.

    Args:
        count: how many, an integer or a scalar tensor.
        seed: from `stream`.
        place: an int64 scalar tensor, such as the step; another place gives other draws.

    Returns:
        int32 `[count]` in [0, 2^24).
    """
    key = tf.stack([tf.constant(seed, tf.int64), place])
    return tf.random.stateless_uniform([count], key, maxval=1 << 24, dtype=tf.int32)


def to_unit(whole):
    """int32 in [0, 2^24) -> float32 in [0, 1), exactly."""
    return tf.cast(whole, tf.float32) / (1 << 24)
