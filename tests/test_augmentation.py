"""Tests the augmentation of what the discriminators see, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.augmentation import KINDS, augment, check_kinds
from tf_cyclegan.random_numbers import derive_seed, random_integers

SEED = derive_seed(3)


def images(n=5, height=16, width=24, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (n, height, width, 3))
    return tf.constant(values, tf.float32)


def augmented(x, names, place=7):
    return augment(x, names, SEED, tf.constant(place, tf.int64)).numpy()


def draws(n, place=7):
    """Returns the seven draws of each image, in [0, 1): `[7, n]`."""
    whole = random_integers(7 * n, SEED, tf.constant(place, tf.int64))
    return whole.numpy().reshape(7, n) / 2**24


def test_color_changes_brightness_saturation_and_contrast():
    x = images()
    expected = []
    for image, brightness, saturation, contrast in zip(x.numpy(), *draws(5)[:3], strict=True):
        image = image + (brightness - 0.5)
        gray = image.mean(axis=-1, keepdims=True)
        image = gray + (image - gray) * 2 * saturation
        expected.append(image.mean() + (image - image.mean()) * (contrast + 0.5))
    np.testing.assert_allclose(augmented(x, "color"), expected, atol=1e-5)


def test_translation_shifts_by_up_to_an_eighth_and_fills_with_zeros():
    seen = set()
    for place in range(20):
        x = images(seed=place)
        for image, moved, down, right in zip(
            x.numpy(), augmented(x, "translation", place), *draws(5, place)[3:5], strict=True
        ):
            dy, dx = int(down * 5) - 2, int(right * 7) - 3  # sides of 16 and 24
            expected = np.zeros_like(image)
            for row in range(max(dy, 0), 16 + min(dy, 0)):
                for column in range(max(dx, 0), 24 + min(dx, 0)):
                    expected[row, column] = image[row - dy, column - dx]
            np.testing.assert_array_equal(moved, expected)
            seen.add((dy, dx))
    assert {dy for dy, _ in seen} == set(range(-2, 3))
    assert {dx for _, dx in seen} == set(range(-3, 4))


def test_cutout_erases_a_square_of_half_the_side():
    sizes = set()
    for place in range(20):
        x = tf.ones([5, 16, 24, 3])
        for image, top, left in zip(
            augmented(x, "cutout", place), *draws(5, place)[5:], strict=True
        ):
            y, x0 = int(top * 17) - 4, int(left * 25) - 6
            expected = np.ones((16, 24, 3))
            expected[max(y, 0) : y + 8, max(x0, 0) : x0 + 12] = 0
            np.testing.assert_array_equal(image, expected)
            sizes.add(int((image == 0).sum()))
    assert max(sizes) == 8 * 12 * 3  # whole ones, and some that are partly outside
    assert min(sizes) < 8 * 12 * 3


def test_real_images_and_fakes_get_the_same_draw_whatever_else_is_asked_for():
    names = ",".join(KINDS)
    np.testing.assert_array_equal(augmented(images(), names), augmented(images(), names))
    assert (augmented(images(), names, 7) != augmented(images(), names, 8)).any()
    # The holes of two sets of images, with and without the other changes, are in the same place.
    holes = [
        augmented(images(seed=seed), names) == 0
        for seed, names in ((1, "cutout"), (2, "cutout"), (3, "color,cutout"))
    ]
    np.testing.assert_array_equal(holes[0], holes[1])
    np.testing.assert_array_equal(holes[0], holes[2])


def test_gradients_flow_back_to_the_pixels_that_are_seen():
    x = images(1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = augment(x, "translation,cutout", SEED, tf.constant(7, tf.int64))
        total = tf.reduce_sum(y)
    gradient = tape.gradient(total, x).numpy()
    assert set(np.unique(gradient)) == {0.0, 1.0}
    np.testing.assert_allclose((gradient * x.numpy()).sum(), total, rtol=1e-4)


def test_a_graph_of_any_size_and_xla_equal_eager():
    names = ",".join(KINDS)
    expected = augmented(images(), names)
    for compiled, shape in ((False, [None, None, None, 3]), (True, [5, 16, 24, 3])):
        run = tf.function(
            lambda x, place: augment(x, names, SEED, place),
            input_signature=[tf.TensorSpec(shape), tf.TensorSpec([], tf.int64)],
            jit_compile=compiled,
        )
        found = run(images(), tf.constant(7, tf.int64))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_unknown_kind_is_named():
    for names in ("", *KINDS, "color,cutout"):
        check_kinds(names)
    for names in ("colour", "color, cutout", "color;cutout", "color,"):
        with pytest.raises(ValueError, match="use one or more of translation, color, cutout"):
            check_kinds(names)
