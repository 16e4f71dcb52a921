"""Lists the public layers and models; test_properties.py checks every property of each case."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.layers import (
    Conv2D,
    CropTopLeft,
    InstanceNormalization,
    ReflectionPadding2D,
    ReLU,
    ResidualBlock,
)

# For datasets in tests: tf.data's autotuning can delay the end of an iterator by minutes.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False


# What a training step reports by default.
LOSSES = {
    *("g_adv_a2b", "g_adv_b2a", "cycle_a", "cycle_b", "identity_a", "identity_b", "d_a", "d_b"),
    "learning_rate",
}


class Case(NamedTuple):
    kind: type  # of layer or model
    arguments: dict
    shape: tuple  # of one example


CASES = {
    "instance_norm": Case(InstanceNormalization, {}, (6, 5, 3)),
    "instance_norm_plain": Case(
        InstanceNormalization, {"center": False, "scale": False}, (6, 5, 3)
    ),
    "reflection_padding": Case(ReflectionPadding2D, {"padding": 3}, (5, 4, 3)),
    "crop_top_left": Case(CropTopLeft, {}, (5, 4, 3)),
    "relu": Case(ReLU, {}, (6, 5, 3)),
    "convolution": Case(
        Conv2D, {"filters": 4, "kernel_size": (3, 3), "data_format": "channels_last"}, (6, 5, 3)
    ),
    "convolution_winograd": Case(
        Conv2D,
        {"filters": 128, "kernel_size": (3, 3), "data_format": "channels_last"},
        (10, 6, 128),
    ),
    "residual_block": Case(ResidualBlock, {"filters": 3}, (6, 5, 3)),
    "residual_block_batch": Case(
        ResidualBlock, {"filters": 3, "norm": "batch", "dropout": 0.5}, (6, 5, 3)
    ),
    "resnet": Case(ResNetGenerator, {"filters": 2, "blocks": 2}, (12, 16, 3)),
    "resnet_resize": Case(
        ResNetGenerator, {"filters": 2, "blocks": 1, "upsampling": "resize"}, (8, 12, 3)
    ),
    "residual_block_separable": Case(ResidualBlock, {"filters": 3, "separable": True}, (6, 5, 3)),
    "resnet_separable": Case(
        ResNetGenerator,
        {"filters": 2, "blocks": 1, "upsampling": "resize", "separable": True, "kernel": 5},
        (8, 12, 3),
    ),
    "resnet_gray": Case(ResNetGenerator, {"filters": 2, "blocks": 0, "channels": 1}, (8, 12, 3)),
    "resnet_batch": Case(ResNetGenerator, {"filters": 2, "blocks": 1, "norm": "batch"}, (8, 8, 3)),
    "resnet_dropout": Case(
        ResNetGenerator, {"filters": 2, "blocks": 1, "norm": "none", "dropout": 0.5}, (8, 8, 1)
    ),
    "unet": Case(UNetGenerator, {"filters": 2, "depth": 3}, (8, 16, 3)),
    "unet_batch": Case(
        UNetGenerator, {"filters": 2, "depth": 2, "channels": 1, "norm": "batch"}, (8, 12, 3)
    ),
    "patch_1": Case(PatchDiscriminator, {"filters": 2, "layers": 1}, (12, 16, 3)),
    "patch_3": Case(PatchDiscriminator, {"filters": 2, "layers": 3, "norm": "batch"}, (32, 40, 3)),
    "patch_5": Case(PatchDiscriminator, {"filters": 1, "layers": 5, "norm": "none"}, (96, 128, 1)),
    "patch_spectral": Case(
        PatchDiscriminator, {"filters": 2, "layers": 2, "norm": "spectral"}, (16, 20, 3)
    ),
    "pixel": Case(PixelDiscriminator, {"filters": 2}, (6, 5, 3)),
    "pixel_spectral": Case(PixelDiscriminator, {"filters": 2, "norm": "spectral"}, (6, 5, 3)),
}


def make(case, dtype="float32"):
    """Builds the model of a case, always with the same weights, none of which is 0 or 1."""
    network = case.kind(**case.arguments, dtype=dtype)
    if isinstance(network, keras.Model):
        network.build((None, None, None, case.shape[-1]))
    else:
        image = keras.Input((None, None, case.shape[-1]), dtype="float32")
        network = keras.Sequential([image, network])
    rng = np.random.default_rng(0)
    for variable in network.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name != "seed_generator_state":
            by_channel = "depthwise" in variable.path
            fan_in = max(np.prod(variable.shape[: 2 if by_channel else -1]), 24)
            variable.assign(rng.uniform(-1, 1, variable.shape) * np.sqrt(6 / fan_in))
    return network


def write_landscapes(root, counts=(6, 6), size=(24, 30), folders=("trainA", "trainB")):
    """Writes a small dataset: summers into the first folder, winters into the second."""
    for folder, season, count in zip(folders, ("summer", "winter"), counts, strict=True):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            write_image(root / folder / f"{i}.png", landscape(i, season, *size))
    return root


def image(case, n=2):
    """Returns float32 images `[n, h, w, c]` in [-1, 1], always the same ones."""
    return np.random.default_rng(1).uniform(-1, 1, (n, *case.shape)).astype(np.float32)
