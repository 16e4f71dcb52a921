"""Tests that the network built for LiteRT computes the same as the generator."""

import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, image, make

from tf_cyclegan.export.lite_form import lite_form
from tf_cyclegan.generators import ResNetGenerator

GENERATORS = {name: case for name, case in CASES.items() if name.startswith(("resnet", "unet"))}
every_generator = pytest.mark.parametrize("case", GENERATORS.values(), ids=GENERATORS)


@every_generator
@pytest.mark.parametrize("size", [16, (8, 24), None], ids=["square", "wide", "any"])
def test_numbers_are_the_generators(case, size):
    generator = make(case)
    form = lite_form(generator, size)
    height, width = (16, 16) if size == 16 else size or (24, 16)
    image = np.random.default_rng(0).uniform(-1, 1, (1, height, width, case.shape[-1]))
    image = tf.constant(image, tf.float32)
    np.testing.assert_allclose(form(image), generator(image), rtol=0, atol=1e-5)


def test_a_fixed_size_has_neither_mirror_padding_nor_resizing():
    generator = make(CASES["resnet_resize"])
    for size, mirrors in ((8, 0), (None, 6)):
        form = lite_form(generator, size)
        graph = tf.function(lambda x, form=form: form(x))
        operations = graph.get_concrete_function(tf.TensorSpec(form.input_shape)).graph
        kinds = [op.type for op in operations.get_operations()]
        assert kinds.count("MirrorPad") == mirrors
        assert not {"ResizeNearestNeighbor", "Tile", "Unpack"} & set(kinds)


def test_batch_is_one():
    assert lite_form(make(CASES["resnet"]), None).input_shape == (1, None, None, 3)
    batch = image(CASES["resnet"], n=2)
    with pytest.raises(ValueError):
        lite_form(make(CASES["resnet"]), 12)(batch)


@pytest.mark.parametrize(
    "size, name", [(0, "0"), (4, "4"), (30, "30"), ((8, 30), "30x8"), ((4, 8), "8x4")]
)
def test_a_size_that_cannot_work_is_named(size, name):
    with pytest.raises(ValueError, match=f"size is {name}: use a multiple of 4, 8 or more"):
        lite_form(make(CASES["resnet"]), size)


def test_no_blocks():
    generator = ResNetGenerator(filters=2, blocks=0)
    generator.build((None, None, None, 3))
    image = tf.random.stateless_uniform([1, 8, 8, 3], [1, 2], -1, 1)
    np.testing.assert_allclose(lite_form(generator, 8)(image), generator(image), atol=1e-5)
