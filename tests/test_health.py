"""Tests the warnings that are printed during a training run."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.cli.train import parse
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.training.health import CHANCE, HealthWarnings

IMAGES = [[landscape(i, season, 16, 16, 0) for i in range(8)] for season in ("summer", "winter")]


def healthy(image, training):
    return tf.constant(image)[:, ::-1]


def collapsed(image, training):
    return tf.constant(image) * 0.02 + 0.3


def model(a2b, b2a, adversarial):
    generators = {"a2b": a2b, "b2a": b2a}
    return SimpleNamespace(generators=lambda: generators, adversarial=adversarial)


def watch(a2b=healthy, b2a=healthy, adversarial="lsgan", every=1):
    callback = HealthWarnings(*IMAGES, every)
    callback.set_model(model(a2b, b2a, adversarial))
    return callback


def test_a_healthy_run_is_not_bothered(capsys):
    watch().on_epoch_end(0, {"d_a": 0.2, "d_b": 0.02})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["a2b", "b2a"])
def test_a_collapse_is_named(name, capsys):
    watch(**{name: collapsed}).on_epoch_end(4)
    printed = capsys.readouterr().out
    assert printed.startswith(f"warning, epoch 5: {name}: ") and printed.count("\n") == 1
    assert "collapse" in printed


@pytest.mark.parametrize("images", [IMAGES[0][:5], [IMAGES[0][0]] * 8])
def test_images_that_tell_nothing_end_no_training(images):
    callback = HealthWarnings(images, images)
    callback.set_model(model(collapsed, collapsed, "lsgan"))
    assert callback.warnings({}) == []


@pytest.mark.parametrize("adversarial, low", [("lsgan", 0.004), ("bce", 0.01), ("hinge", 0.03)])
def test_a_saturated_discriminator_is_named(adversarial, low):
    assert low < 0.02 * CHANCE[adversarial]
    warnings = watch(adversarial=adversarial).warnings({"d_a": low, "d_b": CHANCE[adversarial]})
    assert len(warnings) == 1
    assert warnings[0].startswith("d_a is saturated") and "b2a learns little" in warnings[0]
    flags = re.findall(r"--\w+=[\w,.]+\w", warnings[0])
    assert len(flags) == 2
    parse(flags)[1].check()


def test_losses_below_zero_are_no_saturation():
    assert watch(adversarial="wgan-gp").warnings({"d_a": -3.0, "d_b": 0.0}) == []


def test_it_looks_every_so_many_epochs(capsys):
    for every, warned in ((3, [2, 5]), (0, [])):
        callback = watch(a2b=collapsed, every=every)
        for epoch in range(6):
            callback.on_epoch_end(epoch)
            assert bool(capsys.readouterr().out) == (epoch in warned)


def test_chance_is_the_loss_of_a_guess():
    from tf_cyclegan.losses import discriminator_loss

    guess = {"lsgan": 0.5, "bce": 0.0, "hinge": 0.0}
    for adversarial, logit in guess.items():
        logits = tf.fill([1, 4, 4, 1], logit)
        loss = discriminator_loss(adversarial, logits, logits)
        np.testing.assert_allclose(loss, CHANCE[adversarial], rtol=1e-6)
