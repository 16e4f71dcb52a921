import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.losses import (
    ADVERSARIAL,
    cycle_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    identity_loss,
    paired_loss,
)

# Two examples with two patches each.
REAL = np.array([[[[0.5], [2.0]]], [[[-1.0], [1.0]]]], np.float32)
FAKE = np.array([[[[-0.5], [1.5]]], [[[0.0], [-2.0]]]], np.float32)


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize(
    "adversarial, expected",
    [
        ("lsgan", [(1.5**2 + 0.5**2) / 2, (1.0 + 3.0**2) / 2]),
        ("bce", [(softplus(0.5) + softplus(-1.5)) / 2, (softplus(0.0) + softplus(2.0)) / 2]),
        ("hinge", [-0.5, 1.0]),
        ("wgan-gp", [-0.5, 1.0]),
    ],
)
def test_generator_loss(adversarial, expected):
    np.testing.assert_allclose(generator_loss(adversarial, FAKE), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "adversarial, real, fake",
    [
        ("lsgan", [(0.25 + 1) / 4, (4 + 0) / 4], [(0.25 + 2.25) / 4, (0 + 4) / 4]),
        (
            "bce",
            [(softplus(-0.5) + softplus(-2.0)) / 4, (softplus(1.0) + softplus(-1.0)) / 4],
            [(softplus(-0.5) + softplus(1.5)) / 4, (softplus(0.0) + softplus(-2.0)) / 4],
        ),
        ("hinge", [(0.5 + 0) / 2, (2 + 0) / 2], [(0.5 + 2.5) / 2, (1 + 0) / 2]),
        ("wgan-gp", [-1.25, 0.0], [0.5, -1.0]),
    ],
)
def test_discriminator_loss(adversarial, real, fake):
    expected = np.add(real, fake)
    np.testing.assert_allclose(discriminator_loss(adversarial, REAL, FAKE), expected, rtol=1e-6)


@pytest.mark.parametrize("adversarial", ADVERSARIAL)
def test_losses_are_finite_for_extreme_logits_and_reward_the_right_side(adversarial):
    low, high = (np.full((1, 2, 2, 1), value, np.float32) for value in (-1000, 1000))
    if adversarial != "lsgan":
        assert np.isfinite(generator_loss(adversarial, low))
        assert generator_loss(adversarial, high) < generator_loss(adversarial, low)
    good = discriminator_loss(adversarial, REAL * 0 + 1, FAKE * 0 - (adversarial != "lsgan"))
    bad = discriminator_loss(adversarial, REAL * 0 - 1, FAKE * 0 + 1)
    assert tf.reduce_all(good < bad)
    assert np.all(np.isfinite(discriminator_loss(adversarial, low, high)))


@pytest.mark.parametrize("loss", [cycle_loss, identity_loss, paired_loss])
def test_image_losses_are_mean_absolute_differences_by_example(loss):
    real = np.zeros((2, 2, 1, 3), np.float32)
    other = real.copy()
    other[0, 0, 0] = [0.5, -1.0, 0.0]
    np.testing.assert_allclose(loss(real, other), [1.5 / 6, 0.0])


def test_gradient_penalty_of_a_linear_critic_is_known():
    w = tf.Variable([[[3.0], [0.0]], [[0.0], [4.0]]])  # a 2x2 image with one channel, of norm 5

    def critic(x, training):
        return tf.reduce_sum(w * x, axis=[1, 2, 3], keepdims=True)

    real, fake = tf.ones([2, 2, 2, 1]), tf.zeros([2, 2, 2, 1])
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(critic, real, fake, tf.constant([0.2, 0.9]))
    np.testing.assert_allclose(penalty, [16.0, 16.0], rtol=1e-6)
    # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|, for each of the two examples.
    np.testing.assert_allclose(tape.gradient(penalty, w), 2 * 2 * 4 * w / 5, rtol=1e-6)


def test_gradient_penalty_is_taken_at_the_mix_of_real_and_fake():
    def critic(x, training):
        return tf.square(x) / 2  # one logit per pixel; the gradient of their mean is x / pixels

    real, fake = tf.fill([2, 1, 4, 1], 8.0), tf.fill([2, 1, 4, 1], -4.0)
    x = np.array([0.75 * 8 - 0.25 * 4, -4.0])  # the value of all four pixels of each example
    expected = (np.sqrt(4 * (x / 4) ** 2) - 1) ** 2
    penalty = gradient_penalty(critic, real, fake, tf.constant([0.75, 0.0]))
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)


@pytest.mark.parametrize("center", [0.0, 1.0, 100.0])
def test_gradient_penalty_of_the_sum_at_every_center(center):
    def critic(x, training):
        return tf.square(x) / 2  # one logit per pixel; the gradient of their sum is x

    real, fake = tf.fill([2, 1, 4, 1], 8.0), tf.fill([2, 1, 4, 1], -4.0)
    mix = tf.constant([0.75, 0.0])
    norm = np.sqrt(4 * np.array([0.75 * 8 - 0.25 * 4, -4.0]) ** 2)
    # R1 is taken at the real images, and is half of the squared norm.
    expected = (norm / center - 1) ** 2 if center else [4 * 8.0**2 / 2] * 2
    penalty = gradient_penalty(critic, real, fake, mix, 2.0, center, of_mean=False)
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)


@pytest.mark.parametrize("of_mean", [True, False])
def test_gradient_penalty_in_float16_neither_vanishes_nor_overflows_with_the_loss_scale(of_mean):
    """With 1024 logits, gradients are so small that float16 rounds them to 0 without a scale."""
    rng = np.random.default_rng(0)
    real, fake = (tf.constant(rng.uniform(-1, 1, (2, 32, 32, 3)), tf.float32) for _ in range(2))
    results = []
    for dtype, scale in (("float32", 1.0), ("mixed_float16", 2.0**15), ("mixed_float16", 1.0)):
        discriminator = PixelDiscriminator(8, norm="none", dtype=dtype)
        discriminator.build((None, None, None, 3))
        for variable, seed in zip(discriminator.trainable_variables, range(9), strict=False):
            values = np.random.default_rng(seed).normal(0, 0.02, variable.shape)
            variable.assign(values)
        with tf.GradientTape() as tape:
            penalty = gradient_penalty(
                discriminator, real, fake, tf.constant([0.3, 0.6]), scale, of_mean=of_mean
            )
            scaled = penalty * 2.0**15  # like a LossScaleOptimizer
        kernels = [v for v in discriminator.trainable_variables if v.name == "kernel"]
        gradients = [g / 2.0**15 for g in tape.gradient(scaled, kernels)]
        results.append(np.concatenate([np.ravel(g) for g in gradients]))
    exact, right, unscaled = results
    size = np.abs(exact).max()
    assert size > 0
    np.testing.assert_allclose(right, exact, rtol=0, atol=0.05 * size)
    assert not np.allclose(unscaled, exact, rtol=0, atol=0.1 * size)


def test_gradient_penalty_trains_a_discriminator():
    discriminator = PatchDiscriminator(2, layers=1)
    rng = np.random.default_rng(0)
    real, fake = (tf.constant(rng.normal(size=(2, 16, 16, 3)), tf.float32) for _ in range(2))
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(discriminator, real, fake, tf.constant([0.3, 0.6]))
    kernels = [weight for weight in discriminator.trainable_weights if weight.name == "kernel"]
    gradients = tape.gradient(penalty, kernels)
    assert penalty.shape == (2,)
    assert len(gradients) == 3
    for gradient in gradients:
        assert tf.reduce_all(tf.math.is_finite(gradient))
        assert tf.reduce_max(tf.abs(gradient)) > 0


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    w = tf.Variable(0.0)
    zeros = tf.zeros([1, 2, 2, 1])
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(lambda x, training: w * x, zeros, zeros, tf.constant([0.5]))
    np.testing.assert_allclose(penalty, [1.0], atol=1e-5)
    assert np.isfinite(tape.gradient(penalty, w))


def test_unknown_names_are_errors_that_list_the_known():
    message = "adversarial='gan' is not known: use one of .*lsgan.*bce.*hinge.*wgan-gp"
    with pytest.raises(ValueError, match=message):
        generator_loss("gan", FAKE)
    with pytest.raises(ValueError, match=message):
        discriminator_loss("gan", REAL, FAKE)
