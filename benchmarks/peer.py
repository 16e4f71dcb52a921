"""Implements CycleGAN in plain PyTorch, as the peer that benchmarks compare tf_cyclegan with.

It has the same networks, losses, order of updates, image pool and Adam, in the usual PyTorch style:
float32, NCHW, eager, no compilation. `tests/test_peer.py` checks it against the same golden steps
as our code, so both do the same work. Weights have the names of the authors' files.

One name differs from the authors' code: d_b judges domain b (their D_A), and d_a domain a.
"""

import random

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Computes `x + f(x)`, with two mirror-padded 3x3 convolutions."""

    def __init__(self, channels):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x):
        """Maps `[n, channels, h, w]` to the same shape."""
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """The paper's generator: `[n, 3, h, w]` in [-1, 1], with h and w multiples of 4."""

    def __init__(self, filters=64, blocks=9):
        super().__init__()

        def norm_relu(channels):
            return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]

        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, filters, 7), *norm_relu(filters)]
        for channels in (filters, 2 * filters):  # to [n, 4 filters, h/4, w/4]
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)]
            layers += norm_relu(2 * channels)
        layers += [ResidualBlock(4 * filters) for _ in range(blocks)]
        for channels in (2 * filters, filters):  # back to [n, filters, h, w]
            up = nn.ConvTranspose2d(
                2 * channels, channels, 3, stride=2, padding=1, output_padding=1
            )
            layers += [up, *norm_relu(channels)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(filters, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, x):
        """Maps images of one domain to images of the other."""
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """The 70x70 PatchGAN: `[n, 3, h, w]` to raw logits `[n, 1, h/8 - 2, w/8 - 2]`."""

    def __init__(self, filters=64):
        super().__init__()
        layers = [nn.Conv2d(3, filters, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = filters
        for stride in (2, 2, 1):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride=stride, padding=1),
                nn.InstanceNorm2d(2 * channels),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels *= 2
        layers += [nn.Conv2d(channels, 1, 4, padding=1)]
        self.model = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, x):
        """Returns one logit for each patch."""
        return self.model(x)


def initialize(module):
    """Initializes weights from N(0, 0.02), and biases with 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias)


class ImagePool:
    """A pool of earlier fakes. A full pool swaps new fakes for stored ones with probability 0.5.

    Args:
        size: number of stored images; 0 returns every fake unchanged.
        seed: random seed of the swaps.
    """

    def __init__(self, size, seed=0):
        self.size = size
        self.images = []
        self.random = random.Random(seed)

    def draw(self):
        """Draws p in [0, 1) and the index of a stored image."""
        return self.random.random(), self.random.randrange(self.size)

    def query(self, images):
        """Maps new fakes `[n, 3, h, w]` to as many new or earlier ones."""
        if not self.size:
            return images
        returned = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image)
                returned.append(image)
                continue
            p, index = self.draw()
            if p > 0.5:
                returned.append(self.images[index].clone())
                self.images[index] = image
            else:
                returned.append(image)
        return torch.stack(returned)


class CycleGAN:
    """Both generators and discriminators, and their training step.

    Args:
        filters, blocks: of the generators.
        d_filters: of the discriminators.
        pool_size: of both pools.
        lambda_identity: relative to `lambda_cycle`; 0 skips the two identity passes.
    """

    lambda_cycle = 10.0

    def __init__(self, filters=64, blocks=9, d_filters=64, pool_size=50, lambda_identity=0.5):
        self.a2b, self.b2a = (ResNetGenerator(filters, blocks) for _ in "ab")
        self.d_a, self.d_b = (PatchDiscriminator(d_filters) for _ in "ab")
        self.pool_a, self.pool_b = ImagePool(pool_size, seed=0), ImagePool(pool_size, seed=1)
        self.lambda_identity = lambda_identity * self.lambda_cycle
        self.generator_adam = adam(self.a2b, self.b2a)
        self.discriminator_adam = adam(self.d_a, self.d_b)

    def train_step(self, real_a, real_b):
        """Updates the generators, then the discriminators on fakes from before that update.

        Args:
            real_a, real_b: `[n, 3, h, w]` in [-1, 1].

        Returns:
            A dict of the weighted losses before the updates, with the names of tf_cyclegan.
        """
        fake_b = self.a2b(real_a)
        cycle_a = self.b2a(fake_b)
        fake_a = self.b2a(real_b)
        cycle_b = self.a2b(fake_a)

        # === Generators, with the discriminators frozen ===
        self._train_discriminators(False)
        self.generator_adam.zero_grad()
        losses = {
            "g_adv_a2b": squared_distance(self.d_b(fake_b), 1.0),
            "g_adv_b2a": squared_distance(self.d_a(fake_a), 1.0),
            "cycle_a": self.lambda_cycle * functional.l1_loss(cycle_a, real_a),
            "cycle_b": self.lambda_cycle * functional.l1_loss(cycle_b, real_b),
        }
        if self.lambda_identity:
            same_b, same_a = self.a2b(real_b), self.b2a(real_a)
            losses["identity_b"] = self.lambda_identity * functional.l1_loss(same_b, real_b)
            losses["identity_a"] = self.lambda_identity * functional.l1_loss(same_a, real_a)
        sum(losses.values()).backward()
        self.generator_adam.step()

        # === Discriminators, on fakes from the pools ===
        self._train_discriminators(True)
        self.discriminator_adam.zero_grad()
        for name, judge, real, pool, fake in (
            ("d_b", self.d_b, real_b, self.pool_b, fake_b),
            ("d_a", self.d_a, real_a, self.pool_a, fake_a),
        ):
            shown = pool.query(fake.detach())
            loss = squared_distance(judge(real), 1.0) + squared_distance(judge(shown), 0.0)
            losses[name] = 0.5 * loss
            losses[name].backward()
        self.discriminator_adam.step()
        return {name: loss.item() for name, loss in losses.items()}

    def _train_discriminators(self, train):
        for network in (self.d_a, self.d_b):
            network.requires_grad_(train)


def adam(*networks):
    """Returns one Adam for two networks, with the paper's learning rate and betas."""
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), eps=1e-8)


def squared_distance(logits, target):
    """Returns the least squares loss of logits for one target."""
    return functional.mse_loss(logits, torch.full_like(logits, target))
