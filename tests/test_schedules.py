import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.schedules import LinearDecay


def test_values_by_hand():
    schedule = LinearDecay(0.4, epochs=2, decay_epochs=3, steps_per_epoch=1)
    rates = [float(schedule(step)) for step in range(7)]
    np.testing.assert_allclose(rates, [0.4, 0.4, 0.3, 0.2, 0.1, 0, 0], atol=1e-7)


def test_the_rate_is_constant_within_an_epoch():
    schedule = LinearDecay(0.4, epochs=1, decay_epochs=3, steps_per_epoch=5)
    rates = [float(schedule(step)) for step in range(15)]
    np.testing.assert_allclose(rates, [0.4] * 5 + [0.3] * 5 + [0.2] * 5, rtol=1e-6)


def test_no_decay_ends_at_0():
    schedule = LinearDecay(0.4, epochs=2, decay_epochs=0, steps_per_epoch=1)
    np.testing.assert_allclose([schedule(s) for s in range(4)], [0.4, 0.4, 0, 0], rtol=1e-6)


def test_steps_beyond_what_float32_can_count():
    schedule = LinearDecay(1.0, epochs=1, decay_epochs=1, steps_per_epoch=2**25 + 1)
    assert float(schedule(tf.constant(2**25, tf.int64))) == 1.0
    assert float(schedule(tf.constant(2**25 + 1, tf.int64))) == 0.5


def test_serialization_round_trip():
    schedule = LinearDecay(0.4, 2, 3, 14 / 2)  # a float, if it is a whole number
    optimizer = keras.optimizers.Adam(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    restored = again._learning_rate
    assert type(restored) is LinearDecay
    assert restored.get_config() == schedule.get_config()
    assert [float(restored(s)) for s in range(40)] == [float(schedule(s)) for s in range(40)]


@pytest.mark.parametrize(
    "arguments",
    [(-1e-4, 1, 1, 1), (1e-4, -1, 1, 1), (1e-4, 1, -1, 1), (1e-4, 1, 1, 0), (1e-4, 1, 1, 2.5)],
)
def test_arguments_that_cannot_work(arguments):
    with pytest.raises(ValueError, match="use a rate and epochs of 0 or more, and 1 or more steps"):
        LinearDecay(*arguments)
