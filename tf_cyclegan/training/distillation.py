"""Distillation: a small generator, the student, learns to return the images of a large one.

    image --teacher, frozen--> target        image --student--> fake ~ target

Hinton et al. 2015, arXiv:1503.02531; for CycleGAN, Li et al. 2020 (GAN Compression,
arXiv:2003.08936) and Ren et al. 2021 (OMGD, arXiv:2108.06908), whose students also copy features
inside the teacher's generator. Here, features come from the teacher's own discriminator, so the
student may have any architecture, and nothing is downloaded.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.cyclegan import (
    compiled_if,
    copy_network,
    first_non_finite,
    run_network,
    variables_of,
)
from tf_cyclegan.data.image_files import to_float, to_uint8
from tf_cyclegan.image_pool import ImagePool
from tf_cyclegan.input_checks import check_images
from tf_cyclegan.losses import discriminator_loss, generator_loss, per_example_mean
from tf_cyclegan.replicas import apply_gradients, global_mean, report


class Distillation(keras.Model):
    """Trains a student to return the images of a frozen teacher.

    It has what `RunFolder` and the callbacks use of a `CycleGAN`.

    Args:
        student: a built generator, `[n, h, w, c] -> [n, h, w, c']` in [-1, 1].
        teacher: a built generator of the same shapes.
        direction: "a2b" or "b2a", of both.
        discriminator: the teacher's discriminator of its target domain, a `PatchDiscriminator` or
            `PixelDiscriminator`. It may see each image together with its input, as in pix2pix: then
            there is no adversarial loss. None for no features and no adversarial loss.
        both_domains: whether to learn on images of both domains, or only on those that the teacher
            translates. Both must have the same channels.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        direction: str,
        discriminator: keras.Model | None = None,
        both_domains: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.student, self.teacher = student, teacher
        self.direction = direction
        self.both_domains = both_domains
        teacher.trainable = False
        self.discriminator = discriminator
        self.critic: Any = None  # a model, with an adversarial loss
        channels = discriminator.input_channels if discriminator else 0
        self.sees_input = channels > teacher.channels
        self.pool_a: list[ImagePool] = []
        self.pool_b: list[ImagePool] = []
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        critic_optimizer: keras.optimizers.Optimizer,
        lambda_teacher: float,
        lambda_ssim: float,
        lambda_features: float,
        lambda_adversarial: float,
        adversarial: str = "lsgan",
        jit_compile: bool = False,
    ) -> None:
        """Sets the objective and the optimizers.

        Args:
            optimizer, critic_optimizer: of the student, and of the critic, a discriminator that
                starts from the teacher's and is trained for the adversarial loss.
            lambda_teacher: weight of the L1 distance to the teacher's image.
            lambda_ssim: weight of 1 - SSIM (Wang et al. 2004) between both images.
            lambda_features: weight of the L1 distance between the features of both images after
                each activation of the discriminator (Wang et al. 2018, pix2pixHD, equation 4).
            lambda_adversarial: weight of the adversarial loss of the student's translations.
            adversarial: as in `CycleGAN.compile`.
            jit_compile: whether to compile the gradients with XLA.

        Raises:
            ValueError: all weights of the teacher's terms are 0, or a term needs a discriminator
                that the teacher does not have.
        """
        if lambda_teacher == lambda_ssim == lambda_features == 0:
            raise ValueError("All weights are 0: there is nothing to learn from the teacher.")
        if self.discriminator is None and (lambda_features or lambda_adversarial):
            raise ValueError(
                "The teacher has no discriminator: use --lambda_features=0 and "
                "--lambda_adversarial=0."
            )
        if lambda_adversarial and self.sees_input:
            raise ValueError(
                "The discriminator of a teacher of pairs needs pairs: use --lambda_adversarial=0."
            )
        super().compile(optimizer=None)
        self.student_optimizer, self.critic_optimizer = optimizer, critic_optimizer
        self.weights_of_terms = {
            "teacher": lambda_teacher,
            "ssim": lambda_ssim,
            "features": lambda_features,
            f"g_adv_{self.direction}": lambda_adversarial,
        }
        self.adversarial = adversarial
        self.compiles = jit_compile
        optimizer.build(self.student.trainable_variables)
        names = [name for name, weight in self.weights_of_terms.items() if weight]
        if lambda_adversarial:
            # A copy: the features stay those of the teacher's training run.
            self.critic = copy_network(self.discriminator)
            critic_optimizer.build(self.critic.trainable_variables)
            names.append(self.critic_name)
        names.append("learning_rate")
        self.trackers = {name: keras.metrics.Mean(name, "float32") for name in names}
        self.built = True

    @property
    def critic_name(self) -> str:
        """`d_b` for a student that translates into domain b, otherwise `d_a`."""
        return f"d_{self.direction[-1]}"

    def networks(self) -> dict[str, keras.Model]:
        """The networks that are trained, by name."""
        critic = {self.critic_name: self.critic} if self.critic else {}
        return {self.direction: self.student} | critic

    def generators(self) -> dict[str, keras.Model]:
        """The student by its direction."""
        return {self.direction: self.student}

    def named_averages(self) -> dict[str, keras.Model]:
        """Nothing: a student has no averages."""
        return {}

    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """The optimizers of `networks` by name."""
        critic = {"critic_optimizer": self.critic_optimizer} if self.critic else {}
        return {"student_optimizer": self.student_optimizer} | critic

    @property
    def steps_done(self) -> int:
        """`step` as an int. Read it between steps."""
        return int(self.step.numpy())

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The loss trackers."""
        return list(self.trackers.values())

    def first_non_finite(self) -> str | None:
        """Returns the name of the first variable with NaN or infinity, or None."""
        return first_non_finite(variables_of(self.networks() | self.optimizers()))

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """Updates the student and, with an adversarial loss, the discriminator."""
        pair = check_images(data)
        own, other = pair if self.direction == "a2b" else pair[::-1]
        with tf.control_dependencies(pair):  # as in `CycleGAN.train_step`
            rate = self.student_optimizer.learning_rate
            gradients, losses, fakes = compiled_if(self.compiles, self._gradients)(own, other)
            apply_gradients(self.student_optimizer, gradients, self.student.trainable_variables)
            if self.critic:
                part = compiled_if(self.compiles, self._critic_gradients)
                gradients, losses[self.critic_name] = part(own, other, fakes)
                apply_gradients(self.critic_optimizer, gradients, self.critic.trainable_variables)
            self.step.assign_add(1)
            return report(self.trackers, losses | {"learning_rate": tf.cast(rate, tf.float32)})

    def _gradients(
        self, own: tf.Tensor, other: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor], tf.Tensor]:
        images = tf.concat([own, other], 0) if self.both_domains else own
        targets = run_network(self.teacher, images, training=False)
        with tf.GradientTape() as tape:
            fakes = run_network(self.student, images, training=True)
            losses = self.student_losses(images, fakes, targets, own.shape[0])
            scaled = self.student_optimizer.scale_loss(sum(map(global_mean, losses.values())))
        gradients = tape.gradient(scaled, self.student.trainable_variables)
        return gradients, losses, fakes[: own.shape[0]]

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Does nothing, since everything is built: see `CycleGAN`."""

    def student_losses(
        self, images: tf.Tensor, fakes: tf.Tensor, targets: tf.Tensor, own: int
    ) -> dict[str, tf.Tensor]:
        """Computes the weighted terms by name, each `[n]`; the first `own` images are inputs."""
        adversarial = f"g_adv_{self.direction}"
        terms = {
            "teacher": lambda: per_example_mean(tf.abs(fakes - targets)),
            # SSIM is defined for values of 0 or more.
            "ssim": lambda: 1 - tf.image.ssim(fakes + 1, targets + 1, max_val=2.0),
            "features": lambda: feature_distance(
                self._seen(self.discriminator, images, fakes),
                self._seen(self.discriminator, images, targets),
            ),
            adversarial: lambda: generator_loss(
                self.adversarial, self._seen(self.critic, images[:own], fakes[:own])[-1]
            ),
        }
        return {name: w * terms[name]() for name, w in self.weights_of_terms.items() if w}

    def _critic_gradients(
        self, own: tf.Tensor, other: tf.Tensor, fakes: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            real = self._seen(self.critic, own, other, training=True)[-1]
            fake = self._seen(self.critic, own, fakes, training=True)[-1]
            loss = discriminator_loss(self.adversarial, real, fake)
            scaled = self.critic_optimizer.scale_loss(global_mean(loss))
        return tape.gradient(scaled, self.critic.trainable_variables), loss

    def _seen(
        self, discriminator: keras.Model, inputs: tf.Tensor, x: tf.Tensor, training: bool = False
    ) -> list[tf.Tensor]:
        """Returns the features of images x after each activation, and the logits, in float32."""
        features = []
        x = tf.concat([inputs, x], -1) if self.sees_input else x
        for layer in discriminator.stack.layers:
            x = layer(x, training=training)
            if isinstance(layer, keras.layers.LeakyReLU):
                features.append(tf.cast(x, tf.float32))
        return [*features, tf.cast(x, tf.float32)]

    def rows(self, real_a: np.ndarray, real_b: np.ndarray) -> dict[str, np.ndarray]:
        """Returns an image, uint8 `[h, w, c]`, and its translations, by column name."""
        real = real_a if self.direction == "a2b" else real_b
        x = to_float(real)[np.newaxis]
        made = {"teacher": self.teacher(x), "student": self.student(x)}
        return {"real": real} | {name: to_uint8(y.numpy()[0]) for name, y in made.items()}


def feature_distance(features: Sequence[tf.Tensor], others: Sequence[tf.Tensor]) -> tf.Tensor:
    """Computes the mean over layers of the L1 distance of features: `[n]`. Logits do not count."""
    pairs = list(zip(features, others, strict=True))[:-1]
    distances = [per_example_mean(tf.abs(one - other)) for one, other in pairs]
    return tf.add_n(distances) / len(distances)
