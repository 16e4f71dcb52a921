"""Warnings during training: mode collapse of a generator, a saturated discriminator."""

import math

import keras

from tf_cyclegan.data.image_files import to_float, to_uint8
from tf_cyclegan.evaluation.distances import collapse
from tf_cyclegan.evaluation.scores import pixel_features

# Loss of a discriminator that cannot tell real from fake; wgan-gp has no such value.
CHANCE = {"lsgan": 0.25, "bce": math.log(2), "hinge": 2.0}
SATURATED = 0.02  # share of that loss below which the generator hardly learns


class HealthWarnings(keras.callbacks.Callback):
    """Warns of mode collapse and of saturated discriminators at the end of epochs.

    The check for collapse compares a few translations, scaled to 8x8 pixels, and takes about a
    second. It finds a generator that gives nearly the same image for every input. For smaller
    losses of variety, use `tf-cyclegan evaluate`.

    Args:
        images_a, images_b: uint8 `[h, w, c]` with sides of 8 or more, all of a domain of one size.
        every: number of epochs between checks; 0 for none.
    """

    def __init__(self, images_a, images_b, every: int = 1):
        super().__init__()
        self.images = {"a": images_a, "b": images_b}
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if not self.every or (epoch + 1) % self.every:
            return
        for warning in self.warnings(logs or {}):
            print(f"warning, epoch {epoch + 1}: {warning}", flush=True)

    def warnings(self, logs: dict[str, float]) -> list[str]:
        """Returns one sentence for each problem found.

        Args:
            logs: mean losses of the epoch, by name.
        """
        found = []
        for direction, generator in self.model.generators().items():
            source, target = direction.split("2")
            real = self.images[source]
            fakes = [
                to_uint8(generator(to_float(p)[None], training=False).numpy()[0]) for p in real
            ]
            sets = map(pixel_features, (real, fakes, self.images[target]))
            try:
                state = collapse(*sets)
            except ValueError:  # too few images, or all of them the same
                continue
            if state.collapsed:
                found.append(f"{direction}: {state.verdict}")
        chance = CHANCE.get(self.model.adversarial)
        for name, generator in (("d_a", "b2a"), ("d_b", "a2b")):
            if chance and name in logs and logs[name] < SATURATED * chance:
                found.append(
                    f"{name} is saturated: its loss is {logs[name]:.2g}, and guessing would give "
                    f"{chance:.2g}. {generator} learns little from it: check whether the two "
                    "datasets differ in something trivial, such as borders or size; if not, try "
                    "--d_augment=translation,color,cutout, --gradient_penalty=0.01 or a lower "
                    "--d_learning_rate in another run."
                )
        return found
