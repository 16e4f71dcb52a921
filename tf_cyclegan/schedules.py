"""The learning rate schedule of a training run."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tf_cyclegan")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Keeps the rate constant for `epochs`, then decays it linearly over `decay_epochs`.

    The rate changes once per epoch. In epoch e, counted from 1, it is
    `rate * (1 - max(0, e - epochs) / (decay_epochs + 1))`, the authors' `linear` policy (section
    7.1 of the paper: 100 + 100 epochs). It is 0 only after `epochs + decay_epochs`.

    Args:
        rate: the initial learning rate.
        epochs: number of epochs at that rate.
        decay_epochs: number of epochs of decay.
        steps_per_epoch: number of optimizer steps in one epoch.

    Call arguments:
        step: number of optimizer steps done.

    Returns:
        The learning rate, a float32 scalar.

    Raises:
        ValueError: an argument is negative, `steps_per_epoch` is 0, or a number of epochs or steps
            is not an integer.
    """

    def __init__(self, rate: float, epochs: int, decay_epochs: int, steps_per_epoch: int) -> None:
        whole = all(n == int(n) for n in (epochs, decay_epochs, steps_per_epoch))
        if min(rate, epochs, decay_epochs) < 0 or steps_per_epoch < 1 or not whole:
            raise ValueError(
                f"LinearDecay({rate}, {epochs}, {decay_epochs}, {steps_per_epoch}): use a rate and "
                "epochs of 0 or more, and 1 or more steps per epoch, all but the rate integers."
            )
        self.rate = rate
        self.epochs = int(epochs)
        self.decay_epochs = int(decay_epochs)
        self.steps_per_epoch = int(steps_per_epoch)  # 1000 / 4 is a float

    def __call__(self, step: int | tf.Tensor | tf.Variable) -> tf.Tensor:
        # Integers, since float32 cannot count the steps of a long training run.
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch + 1
        late = tf.cast(tf.maximum(epoch - self.epochs, 0), tf.float32)
        return tf.maximum(self.rate * (1.0 - late / (self.decay_epochs + 1)), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "epochs": self.epochs,
            "decay_epochs": self.decay_epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }
