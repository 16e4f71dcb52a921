import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, make

from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator


def built(discriminator):
    discriminator.build((None, None, None, 3))
    return discriminator


def images(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_parameter_count_is_that_of_the_authors():
    assert built(PatchDiscriminator()).count_params() == 2_764_737


def test_256_pixels_give_30_by_30_logits():
    assert built(PatchDiscriminator(1))(images(1, 256, 256, 3)).shape == (1, 30, 30, 1)


@pytest.mark.parametrize("layers, patch", [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_a_logit_sees_a_patch_of_the_stated_size(layers, patch):
    discriminator = PatchDiscriminator(1, layers, norm="none")
    x = tf.constant(images(1, 416, 416, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = discriminator(x)
        middle = logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]
    seen = np.abs(tape.gradient(middle, x)[0]).max(-1) > 0
    for axis in (0, 1):
        (places,) = seen.any(axis).nonzero()
        assert 0 < places[0] and places[-1] < 415
        assert places[-1] - places[0] + 1 == patch


def test_the_pixel_discriminator_sees_one_pixel():
    discriminator = PixelDiscriminator(2, norm="none")
    x = images(1, 5, 4, 3)
    changed = x.copy()
    changed[0, 2, 1] += 1
    difference = np.abs(discriminator(changed) - discriminator(x))[0, :, :, 0]
    np.testing.assert_array_equal(np.argwhere(difference > 0), [[2, 1]])


def test_logits_are_not_squashed():
    discriminator = built(PatchDiscriminator(2, layers=1))
    discriminator.weights[-1].assign([7.0])
    assert tf.reduce_min(discriminator(images(1, 16, 16, 3))) > 5
    discriminator.weights[-1].assign([-7.0])
    assert tf.reduce_max(discriminator(images(1, 16, 16, 3))) < -5


def test_spectral_norm_keeps_the_weights_in_float32_under_mixed_precision():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    weights = []
    for dtype in ("float32", "mixed_bfloat16"):
        network = make(CASES["patch_spectral"], dtype)
        for _ in range(30):  # power iterations
            network(x, training=True)
        weights.append([w.numpy() for w in network.trainable_weights])
        for kernel in weights[-1][::2]:
            norm = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
            assert norm == pytest.approx(1, abs=1e-3)
    for exact, mixed in zip(*weights, strict=True):
        np.testing.assert_allclose(mixed, exact, atol=1e-6)


@pytest.mark.parametrize("kind", [PatchDiscriminator, PixelDiscriminator])
def test_weights_start_as_a_normal_and_biases_as_0(kind):
    keras.utils.set_random_seed(0)
    weights = built(kind(64)).weights
    kernels = np.concatenate([np.ravel(w) for w in weights if w.name == "kernel"])
    assert kernels.std() == pytest.approx(0.02, rel=4 / np.sqrt(kernels.size))
    assert np.abs(kernels).max() > 3 * 0.02
    assert not any(np.any(w) for w in weights if w.name == "bias")


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        (PatchDiscriminator, {"filters": 0}, "filters=0: use 1 or more"),
        (PatchDiscriminator, {"layers": 0}, "layers=0: use 1 to 5 in a PatchDiscriminator"),
        (PatchDiscriminator, {"layers": 6}, "layers=6: use 1 to 5 in a PatchDiscriminator"),
        (PatchDiscriminator, {"norm": "layer"}, "norm='layer' is not known"),
        (PixelDiscriminator, {"filters": -2}, "filters=-2: use 1 or more"),
        (PixelDiscriminator, {"norm": "layer"}, "norm='layer' is not known"),
    ],
)
def test_arguments_that_cannot_work(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("layers, smallest", [(1, 6), (3, 24)])
def test_the_smallest_image_leaves_one_logit_and_a_smaller_one_is_an_error(layers, smallest):
    discriminator = built(PatchDiscriminator(1, layers))
    assert discriminator(images(1, smallest, smallest, 3)).shape == (1, 1, 1, 1)
    with pytest.raises(
        ValueError, match=f"too small for one logit.*use {smallest}x{smallest} or more"
    ):
        discriminator(images(1, smallest, smallest - 1, 3))


@pytest.mark.parametrize("kind", [PatchDiscriminator, PixelDiscriminator])
def test_images_must_be_a_batch_with_the_channels_last(kind):
    with pytest.raises(ValueError, match=r"takes \(n, height, width, 3\).*channels last"):
        built(kind(1))(images(1, 3, 64, 64))
