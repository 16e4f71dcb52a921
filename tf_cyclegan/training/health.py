"""What a user wants told while a training runs: a generator collapses, a discriminator has won."""

import math

import keras

from tf_cyclegan.data.image_files import to_float, to_uint8
from tf_cyclegan.evaluation.distances import collapse
from tf_cyclegan.evaluation.scores import pixel_features

# A discriminator's loss where it cannot tell real from fake; wgan-gp has none.
CHANCE = {"lsgan": 0.25, "bce": math.log(2), "hinge": 2.0}
SATURATED = 0.02  # of that: what is left then hardly moves the generator


class Watch(keras.callbacks.Callback):
    """Warns by name, at the ends of epochs, of mode collapse and of saturated discriminators.

    Collapse is looked for in a few translations scaled to 8x8 pixels, which costs about a second.
    It finds a generator that gives nearly one image for all; a finer loss of variety needs
    scripts/evaluate.py.

    Args:
        images_a, images_b: uint8 `[h, w, c]`, all of one domain of one size, 8 or more.
        every: epochs between two looks; 0 for none.
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
        """One sentence for each thing that is wrong.

        Args:
            logs: the epoch's mean losses, by name.
        """
        found = []
        for direction, source, target in (("a2b", "a", "b"), ("b2a", "b", "a")):
            generator = getattr(self.model, direction)
            real = self.images[source]
            fakes = [
                to_uint8(generator(to_float(p)[None], training=False).numpy()[0]) for p in real
            ]
            sets = map(pixel_features, (real, fakes, self.images[target]))
            try:
                state = collapse(*sets)
            except ValueError:  # too few images, or all alike: nothing can be said
                continue
            if state.collapsed:
                found.append(f"{direction}: {state.verdict}")
        chance = CHANCE.get(self.model.adversarial)
        for name, generator in (("d_a", "b2a"), ("d_b", "a2b")):
            if chance and name in logs and logs[name] < SATURATED * chance:
                found.append(
                    f"{name} is saturated: a loss of {logs[name]:.2g}, where guessing has "
                    f"{chance:.2g}. {generator} learns little from it: see whether the two sets "
                    "differ in something trivial, such as borders or size."
                )
        return found
