import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan.image_pool import ImagePool


def numbered(start, count):
    """Returns images of 2x1 pixels, each filled with its own number."""
    return tf.reshape(tf.repeat(tf.range(start, start + count, dtype=tf.float32), 2), [-1, 2, 1, 1])


def pool(size=5, seed=1):
    return ImagePool(size, (2, 1, 1), seed)


def query(pool, start, count, batch=1, through=None):
    """Queries with `count` new images in batches, and returns the numbers of the results."""
    returned = [
        (through or pool.query)(numbered(number, batch))
        for number in range(start, start + count, batch)
    ]
    returned = np.concatenate(returned)
    assert returned.shape == (count, 2, 1, 1)
    np.testing.assert_array_equal(returned[:, 0], returned[:, 1])  # never parts of two images
    return returned[:, 0, 0, 0].astype(int).tolist()


def stored(pool):
    return pool.images.numpy()[:, 0, 0, 0].astype(int).tolist()


def test_it_fills_first():
    p = pool(size=5)
    assert query(p, 0, 5) == [0, 1, 2, 3, 4]
    assert stored(p) == [0, 1, 2, 3, 4]
    assert p.seen.numpy() == 5


def test_about_half_are_swapped_and_none_is_lost_or_shown_twice_by_the_pool():
    p = pool(size=5)
    query(p, 0, 5)
    compiled = tf.function(p.query)
    swaps = 0
    for number in range(5, 205):
        before = stored(p)
        (returned,) = query(p, number, 1, through=compiled)
        if returned == number:
            assert stored(p) == before
        else:
            swaps += 1
            # The new image replaced the returned one.
            assert stored(p) == [number if old == returned else old for old in before]
            assert returned in before
    assert 70 < swaps < 130  # 100 are expected, with a standard deviation of 7


def test_every_place_is_drawn_alike():
    p = pool(size=4)
    query(p, 0, 4)
    compiled = tf.function(p.query)
    counts = np.zeros(4, int)
    for number in range(4, 404):
        before = stored(p)
        (returned,) = query(p, number, 1, through=compiled)
        if returned != number:
            counts[before.index(returned)] += 1
    # 200 swaps are expected, 50 for each place, with a standard deviation of 6.
    assert np.all(np.abs(counts - 50) < 25), counts


def test_draws_are_a_function_of_the_seed():
    assert query(pool(seed=1), 0, 60) == query(pool(seed=1), 0, 60)


def test_every_bit_of_the_seed_counts():
    seeds = (1, 2, 1 + (1 << 32), 1 + (1 << 33), -1)
    assert len({tuple(query(pool(seed=seed), 0, 30, batch=30)) for seed in seeds}) == len(seeds)


def test_the_global_generator_does_not_matter():
    tf.random.set_seed(1)
    first = query(pool(), 0, 40)
    tf.random.set_seed(2)
    assert query(pool(), 0, 40) == first


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_equals_eager(jit_compile):
    p, eager = pool(seed=3 << 33), pool(seed=3 << 33)  # XLA reads only a seed's low 32 bits
    compiled = tf.function(p.query, jit_compile=jit_compile)
    assert query(p, 0, 60, batch=2, through=compiled) == query(eager, 0, 60)
    assert stored(p) == stored(eager)


def test_a_batch_equals_its_images_one_by_one():
    """Includes a pool that fills up within a batch, and a batch that is larger than the pool."""
    one, by_four, by_twelve = pool(), pool(), pool()
    expected = query(one, 0, 48)
    assert query(by_four, 0, 48, batch=4) == expected
    assert query(by_twelve, 0, 48, batch=12) == expected
    assert stored(by_four) == stored(by_twelve) == stored(one)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_batch_of_unknown_size_is_taken_in_order_too(jit_compile):
    p, expected = pool(), pool()
    any_size = [tf.TensorSpec([None, 2, 1, 1])]
    compiled = tf.function(p.query, input_signature=any_size, jit_compile=jit_compile)
    assert query(p, 0, 48, batch=12, through=compiled) == query(expected, 0, 48)
    assert query(p, 48, 20, batch=2, through=compiled) == query(expected, 48, 20)
    assert stored(p) == stored(expected)


def test_a_restored_pool_continues_the_same_draws(tmp_path):
    p = pool()
    query(p, 0, 23)
    path = tf.train.Checkpoint(pool=p).write(str(tmp_path / "pool"))
    expected = query(p, 23, 40)
    again = pool()
    tf.train.Checkpoint(pool=again).read(path).assert_consumed()
    assert query(again, 23, 40) == expected


@pytest.mark.parametrize(
    "size, shape, message",
    [
        (0, (2, 1, 1), r"ImagePool\(size=0\): use 1 or more, or no pool"),
        (5, (None, 1, 1), "images of one size.*crop them, or use pool_size=0"),
    ],
)
def test_arguments_that_cannot_work(size, shape, message):
    with pytest.raises(ValueError, match=message):
        ImagePool(size, shape, seed=0)


def test_images_of_another_shape_are_refused():
    p = pool()
    for shape in ((2, 1, 1), (1, 2, 2, 1), (1, 2, 1, 3)):
        with pytest.raises(ValueError, match=r"images of \(2, 1, 1\) cannot take"):
            p.query(tf.zeros(shape))
    assert int(p.seen) == 0
    assert p.query(tf.zeros((1, 2, 1, 1), tf.float64)).dtype == tf.float64
