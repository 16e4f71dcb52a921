"""Tests the training step: cost, frozen networks, and equal results in every way to run it."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import UNTUNED
from tensorflow.python.framework import kernels

from tf_cyclegan import cpu
from tf_cyclegan.cyclegan import CycleGAN, call_jointly
from tf_cyclegan.replicas import share_overflow
from tf_cyclegan.training.batches import TrainingData, load_dataset
from tf_cyclegan.training.config import PRESETS, Config
from tf_cyclegan.training.factory import make_cyclegan, make_generator, make_strategy

TINY = Config(
    dataset="synthetic/summer2winter",
    load_size=20,
    crop_size=16,
    filters=4,
    blocks=0,
    d_filters=4,
    d_layers=1,
    pool_size=3,
    cache="none",
)
# The settings that the paper does not have, which can be combined.
EVERYTHING = {
    "ema": 0.9,
    "d_augment": "translation,color,cutout",
    "d_norm": "spectral",
    "gradient_penalty": 0.1,
    "gradient_center": 1.0,
    "adversarial": "wgan-gp",
}
SHAPE = (16, 16, 3)
LOSSES = "g_adv_a2b g_adv_b2a cycle_a cycle_b identity_a identity_b d_a d_b".split()


def tiny(strategy="one", **changes):
    strategy = make_strategy(strategy)
    config = dataclasses.replace(TINY, **changes)
    return strategy, make_cyclegan(config, strategy, SHAPE, SHAPE, steps_per_epoch=10)


@pytest.fixture
def small_networks(monkeypatch):
    """Replaces each network by one convolution, so that a step is traced in a third of the time."""

    def network(config, channels_in, channels_out, strides=1, activation=None):
        layers = [keras.Input((None, None, channels_in))]
        if config.dropout:
            layers.append(keras.layers.Dropout(config.dropout, dtype=config.precision))
        layers.append(
            keras.layers.Conv2D(
                channels_out, 3, strides, "same", activation=activation, dtype=config.precision
            )
        )
        return keras.Sequential(layers)

    factory = "tf_cyclegan.training.factory"
    monkeypatch.setattr(f"{factory}.make_generator", functools.partial(network, activation="tanh"))
    monkeypatch.setattr(
        f"{factory}.make_discriminator", lambda config, c, _: network(config, c, 1, strides=2)
    )


def batch(seed=0, size=1):
    rng = np.random.default_rng(seed)
    return tuple(
        tf.constant(rng.uniform(-1, 1, (size, *SHAPE)), keras.config.floatx()) for _ in "ab"
    )


def weights(model):
    return [
        np.concatenate([w.ravel() for w in network.get_weights()])
        for network in (model.a2b, model.b2a, model.d_a, model.d_b)
    ]


@pytest.fixture(scope="module")
def sets():
    return load_dataset(TINY)


def train(sets, strategy, steps, **changes):
    """Trains with fit, as scripts/train.py does; returns the model and the losses of each step."""
    config = dataclasses.replace(TINY, **changes)
    strategy = make_strategy(strategy)
    data = TrainingData(sets, config, strategy.num_replicas_in_sync)
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    rows = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: rows.append({k: float(v) for k, v in logs.items()})
    )
    batches = data.distributed(strategy, 0, steps)
    model.fit(batches, steps_per_epoch=steps, callbacks=[keep], verbose=0, shuffle=False)
    return model, rows


@pytest.mark.usefixtures("small_networks")
def test_the_same_seed_gives_the_same_training(sets):
    first, rows = train(sets, "one", 4)
    second, again = train(sets, "one", 4)
    assert rows == again
    for a, b in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights(tiny(seed=0)[1]), weights(tiny(seed=1)[1]), strict=True):
        assert not np.allclose(a, b)


@pytest.mark.usefixtures("small_networks")
def test_every_loss_is_reported_by_name_and_averaged_over_the_epoch(sets):
    config = dataclasses.replace(TINY, epochs=1, decay_epochs=1)
    strategy = make_strategy("one")
    data = TrainingData(sets, config)
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, 3)
    rows = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: rows.append({k: float(v) for k, v in logs.items()})
    )
    history = model.fit(
        data.distributed(strategy, 0, 6), steps_per_epoch=3, epochs=2, callbacks=[keep], verbose=0
    ).history
    assert set(rows[0]) == set(history) == {*LOSSES, "learning_rate"}
    for name in LOSSES:
        means = [np.mean([row[name] for row in part]) for part in (rows[:3], rows[3:])]
        np.testing.assert_allclose(history[name], means, rtol=1e-5)
    np.testing.assert_allclose(history["learning_rate"], [2e-4, 1e-4], rtol=1e-6)
    assert int(model.step) == 6


@pytest.mark.usefixtures("small_networks")
def test_two_replicas_equal_one_with_both_batches():
    """Uses float64, so that only a wrong scale or order causes a difference, and not rounding."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    try:
        results = []
        for name, replicas in (("one", 1), ("mirrored", 2)):
            strategy, model = tiny(name, pool_size=0, precision="float64", ema=0.9)
            assert strategy.num_replicas_in_sync == replicas
            sgd = keras.optimizers.SGD  # Adam hides a wrong scale
            with strategy.scope():
                model.compile(sgd(0.05), sgd(0.05), lambda_cycle_b=5.0, gradient_penalty=0.1)
            data = tf.data.Dataset.range(3).map(lambda i: batch_of_step(i, 4)).with_options(UNTUNED)
            rows = []

            @tf.function(autograph=False)
            def step(real, strategy=strategy, model=model):
                return strategy.run(model.train_step, args=(real,))

            for real in strategy.experimental_distribute_dataset(data):
                losses = step(real)
                mean = tf.distribute.ReduceOp.MEAN
                rows.append({k: float(strategy.reduce(mean, v, None)) for k, v in losses.items()})
            averages = [average.get_weights()[0] for average in model.averages.values()]
            results.append((rows, weights(model) + averages))
        (rows_1, weights_1), (rows_2, weights_2) = results
        for one, two in zip(rows_1, rows_2, strict=True):
            assert one == pytest.approx(two, rel=1e-5)
        for one, two in zip(weights_1, weights_2, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")


def batch_of_step(step, size):
    seed = tf.stack([step, 7])
    return tuple(
        tf.random.stateless_uniform((size, *SHAPE), seed + i, -1, 1, tf.float64) for i in range(2)
    )


@pytest.mark.usefixtures("small_networks")
def test_two_replicas_through_fit_see_what_one_sees(sets):
    _, one = train(sets, "one", 3, batch_size=2, pool_size=0)
    _, two = train(sets, "mirrored", 3, batch_size=1, pool_size=0)
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.usefixtures("small_networks")
def test_each_replica_keeps_a_pool_of_its_own(sets):
    model, _ = train(sets, "mirrored", 2, pool_size=4)
    for pools in (model.pool_a, model.pool_b):
        assert [int(pool.seen) for pool in pools] == [2, 2]
        first, second = (pool.images.numpy()[:2] for pool in pools)
        assert np.abs(first).max() > 0 and not np.array_equal(first, second)
        assert pools[0].seed != pools[1].seed


def test_graph_equals_eager():
    results = []
    for eager in (True, False):
        strategy, model = tiny(pool_size=2, **EVERYTHING)
        step = model.train_step if eager else tf.function(model.train_step, autograph=False)
        with strategy.scope():
            losses = [strategy.run(step, args=(batch(i),)) for i in range(4)]
        results.append((losses, weights(model)))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=1e-4
        )
    assert all(np.isfinite(w).all() for w in results[1][1])


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="TensorFlow is built without CUDA")
def test_every_operation_of_a_step_has_a_gpu_kernel():
    strategy, model = tiny(precision="mixed_float16", blocks=1)
    step = tf.function(lambda *real: strategy.run(model.train_step, (real,)), autograph=False)
    image = tf.TensorSpec((1, *SHAPE))
    with cpu.disabled():
        graph = step.get_concrete_function(image, image).graph
    names = {op.type for op in graph.get_operations()}
    names |= {node.op for f in graph.as_graph_def().library.function for node in f.node_def}
    assert {"Conv2D", "Conv2DBackpropFilter", "AssignAddVariableOp"} <= names
    for name in names:
        registered = kernels.get_registered_kernels_for_op(name).kernel
        assert {kernel.device_type for kernel in registered} & {"GPU", "DEFAULT"}, name


@pytest.mark.slow
def test_the_whole_step_compiles_under_xla():
    results = []
    for jit in (False, True):
        strategy, model = tiny(pool_size=2, **EVERYTHING)
        step = tf.function(model.train_step, autograph=False, jit_compile=jit)
        losses = [strategy.run(step, args=(batch(i),)) for i in range(3)]
        results.append([{k: float(v) for k, v in row.items()} for row in losses])
    for plain, compiled in zip(*results, strict=True):
        assert plain == pytest.approx(compiled, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("one", {"blocks": 1}),
        pytest.param("mirrored", {"generator": "unet", "depth": 2}, marks=pytest.mark.slow),
    ],
)
def test_recomputation_changes_memory_not_numbers(strategy, changes):
    """Uses float64, as Adam amplifies rounding errors. The graph shows that recomputation is on."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    try:
        results, convolutions = [], []
        for recompute in (False, True):
            scope, model = tiny(
                strategy, **changes, pool_size=0, precision="float64", recompute=recompute
            )

            @tf.function(autograph=False)
            def step(real, scope=scope, model=model):
                return scope.run(model.train_step, args=(real,))

            reals = list(
                scope.experimental_distribute_dataset(
                    tf.data.Dataset.range(3)
                    .map(lambda i: batch_of_step(i, 2))
                    .with_options(UNTUNED)
                )
            )
            for real in reals:
                step(real)
            graph = step.get_concrete_function(reals[0]).graph
            kinds = [op.type for op in graph.get_operations()]
            convolutions.append(kinds.count("Conv2D"))
            results.append(weights(model))
        assert convolutions[1] > 1.2 * convolutions[0]
        for plain, again in zip(*results, strict=True):
            np.testing.assert_allclose(plain, again, rtol=0, atol=1e-9)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")


class Counting(CycleGAN):
    """Counts the images that each generator and discriminator sees in one step."""

    def count(self):
        self.passes = dict.fromkeys(("a2b", "b2a", "d_a", "d_b"), 0)
        for name in self.passes:
            network = getattr(self, name)
            call = network.call

            def counted(images, name=name, call=call, **kwargs):
                self.passes[name] += len(images)
                return call(images, **kwargs)

            network.call = counted


@pytest.mark.parametrize(
    ("weights", "passes", "names"),
    [
        ({}, (3, 3, 3, 3), {*LOSSES}),
        ({"lambda_identity": 0}, (2, 2, 3, 3), {*LOSSES} - {"identity_a", "identity_b"}),
        (
            {"lambda_adversarial": 0},
            (3, 3, 0, 0),
            {"cycle_a", "cycle_b", "identity_a", "identity_b"},
        ),
        (
            {"lambda_cycle_b": 0},
            (1, 3, 3, 3),
            {*LOSSES} - {"cycle_b", "identity_b"},
        ),
        (
            {"lambda_cycle_a": 0, "lambda_identity": 0},
            (2, 1, 3, 3),
            {*LOSSES} - {"cycle_a", "identity_a", "identity_b"},
        ),
        (
            {"lambda_cycle_a": 0, "lambda_cycle_b": 0},
            (1, 1, 3, 3),
            {"g_adv_a2b", "g_adv_b2a", "d_a", "d_b"},
        ),
        (
            {"lambda_adversarial": 0, "lambda_cycle_b": 0, "lambda_identity": 0},
            (1, 1, 0, 0),
            {"cycle_a"},
        ),
    ],
)
def test_a_term_of_weight_0_costs_no_pass(weights, passes, names):
    _, model = tiny()
    counting = Counting(model.a2b, model.b2a, model.d_a, model.d_b)
    counting.compile(keras.optimizers.SGD(1e-3), keras.optimizers.SGD(1e-3), **weights)
    counting.count()
    losses = counting.train_step(batch())
    assert tuple(counting.passes.values()) == passes
    assert set(losses) == names | {"learning_rate"}


@pytest.mark.parametrize(
    ("norm", "shapes", "calls"),
    [
        ("instance", [SHAPE, SHAPE], 1),
        ("batch", [SHAPE, SHAPE], 2),
        ("instance", [SHAPE, (20, 16, 3)], 2),
        ("instance", [(88, 100, 3)] * 2, 2),  # too large for two images at once
    ],
)
def test_together_is_one_by_one(norm, shapes, calls):
    network = make_generator(dataclasses.replace(TINY, norm=norm, precision="float32"), 3, 3)
    rng = np.random.default_rng(0)
    batches = {
        name: tf.constant(rng.uniform(-1, 1, (2, *shape)), tf.float32)
        for name, shape in zip(("same_b", "fake_b"), shapes, strict=True)
    }
    one_by_one = {name: network(images, training=True) for name, images in batches.items()}
    sizes, call = [], network.call
    network.call = lambda x, **kwargs: sizes.append(len(x)) or call(x, **kwargs)
    outputs = call_jointly(network, batches, training=True)
    assert sizes == [4 // calls] * calls
    assert outputs.keys() == batches.keys()
    for name, expected in one_by_one.items():
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-6)


def test_forward_cycle_alone_is_its_own_weight():
    """Checks that lambda_cycle_a weights only the cycle a -> b -> a and not the other one."""
    _, model = tiny()
    model.compile(
        keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0), lambda_cycle_a=3.0, lambda_cycle_b=7.0
    )
    real_a, real_b = batch()
    losses = model.train_step((real_a, real_b))
    cycle_a = np.abs(model.b2a(model.a2b(real_a)) - real_a).mean()
    cycle_b = np.abs(model.a2b(model.b2a(real_b)) - real_b).mean()
    same_a = np.abs(model.b2a(real_a) - real_a).mean()
    assert float(losses["cycle_a"]) == pytest.approx(3 * cycle_a, rel=1e-5)
    assert float(losses["cycle_b"]) == pytest.approx(7 * cycle_b, rel=1e-5)
    assert float(losses["identity_a"]) == pytest.approx(0.5 * 3 * same_a, rel=1e-5)


def test_pix2pix_pays_for_the_distance_to_the_truth_and_is_judged_beside_its_input(sets):
    strategy, model = tiny(**PRESETS["pix2pix"])
    real_a, real_b = batch()
    expected = {
        name: float(100 * np.abs(made - truth).mean())
        for name, made, truth in (
            ("l1_a2b", model.a2b(real_a), real_b),
            ("l1_b2a", model.b2a(real_b), real_a),
        )
    }
    fake_logits = model.d_b(tf.concat([real_a, model.a2b(real_a)], axis=-1))
    losses = {k: float(v) for k, v in strategy.run(model.train_step, [(real_a, real_b)]).items()}
    assert set(losses) == {*expected, "g_adv_a2b", "g_adv_b2a", "d_a", "d_b", "learning_rate"}
    assert {name: losses[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert losses["g_adv_a2b"] == pytest.approx(np.mean((fake_logits - 1) ** 2), rel=1e-5)


def test_pix2pix_learns_pairs_that_it_has_seen():
    config = dataclasses.replace(TINY, **PRESETS["pix2pix"], learning_rate=5e-3)
    data = TrainingData(load_dataset(config), config)
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, data.shape_a, data.shape_b, data.steps_per_epoch)
    history = model.fit(
        data.distributed(strategy, 0, 80), steps_per_epoch=40, epochs=2, verbose=0
    ).history
    for name in ("l1_a2b", "l1_b2a"):
        assert history[name][1] < 0.9 * history[name][0]


def test_generators_move_against_frozen_discriminators_and_the_other_way_round():
    for still, moving in (
        ("generator_optimizer", "discriminator_optimizer"),
        ("discriminator_optimizer", "generator_optimizer"),
    ):
        _, model = tiny()
        model.compile(**{still: keras.optimizers.SGD(0.0), moving: keras.optimizers.SGD(0.1)})
        before = weights(model)
        model.train_step(batch())
        moved = [not np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True)]
        assert moved == ([True] * 2 + [False] * 2)[:: 1 if moving[0] == "g" else -1]


def test_averages_follow_the_generators_with_a_decay_that_warms_up():
    _, model = tiny(ema=0.15, norm="batch", blocks=1)
    names = ("a2b", "b2a")
    expected = {name: getattr(model, name).get_weights() for name in names}
    trainable = {name: [w.trainable for w in getattr(model, name).weights] for name in names}
    for step in range(4):
        model.train_step(batch(step))
        keep = min(0.15, (1 + step) / (10 + step))  # 0.1, and then 0.15
        for name in names:
            now = getattr(model, name).get_weights()
            expected[name] = [
                keep * old + (1 - keep) * new if moves else new
                for old, new, moves in zip(expected[name], now, trainable[name], strict=True)
            ]
            average = model.generators()[name]
            assert average is model.averages[name] is not getattr(model, name)
            for value, true in zip(average.get_weights(), expected[name], strict=True):
                np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-7)
    assert any(not moves for moves in trainable["a2b"])  # of batch norm


def test_what_is_not_training_uses_the_averages():
    _, model = tiny(ema=0.9)
    real_a, real_b = batch()
    for average in model.averages.values():  # other weights than the generators'
        average.set_weights([w + 0.01 for w in average.get_weights()])
    a2b, b2a = model.averages.values()
    result = model.evaluate(x=real_a, y=real_b, verbose=0, return_dict=True)
    cycle_a = float(tf.reduce_mean(tf.abs(b2a(a2b(real_a)) - real_a)))
    assert result["cycle_a"] == pytest.approx(10 * cycle_a, rel=1e-5)
    np.testing.assert_array_equal(model((real_a, real_b))["fake_b"], a2b(real_a))
    np.testing.assert_array_equal(
        model((real_a, real_b), training=True)["fake_b"], model.a2b(real_a, training=True)
    )
    assert model.first_non_finite() is None
    b2a.set_weights([w * float("nan") for w in b2a.get_weights()])
    assert model.first_non_finite().startswith("b2a_average: ")


def test_discriminators_see_real_images_and_fakes_augmented_alike_and_cycles_do_not():
    """Checks all networks' inputs in a step, with an augmentation that can be recognized."""
    _, model = tiny(d_augment="cutout", pool_size=0, lambda_identity=0.0)
    seen = {"a2b": [], "b2a": [], "d_a": [], "d_b": []}
    for name, network in model.networks().items():
        call = network.call

        def record(x, name=name, call=call, **arguments):
            seen[name].append(x.numpy())
            return call(x, **arguments)

        network.call = record
    real_a, real_b = batch()
    model.train_step((real_a, real_b))
    np.testing.assert_array_equal(seen["a2b"][0], real_a)
    np.testing.assert_array_equal(seen["b2a"][0], real_b)
    assert not any((x == 0).any() for name in ("a2b", "b2a") for x in seen[name])
    holes = {name: [x == 0 for x in np.concatenate(seen[name])] for name in ("d_a", "d_b")}
    for first, *others in holes.values():
        assert first.any() and len(others) == 2  # the fake twice, and the real image
        for other in others:
            np.testing.assert_array_equal(first, other)
    assert (holes["d_a"][0] != holes["d_b"][0]).any()


@pytest.mark.usefixtures("small_networks")
def test_each_update_of_the_discriminators_takes_its_own_part_of_the_batch():
    real = batch(size=6)
    _, model = tiny(d_steps=3, pool_size=6, batch_size=2)
    _, plain = tiny(pool_size=6, batch_size=2)
    model.train_on_batch(*real)
    plain.train_on_batch(*(x[:2] for x in real))
    for one, three in zip(weights(plain)[:2], weights(model)[:2], strict=True):
        np.testing.assert_allclose(one, three, rtol=1e-6)  # of the generators
    assert int(model.generator_optimizer.iterations) == model.steps_done == 1
    assert int(model.discriminator_optimizer.iterations) == 3
    assert int(model.pool_a[0].seen) == 6
    # The pool has room for all: the first two are the fakes of the generators' update.
    np.testing.assert_allclose(
        model.pool_a[0].images[:2], plain.pool_a[0].images[:2], rtol=1e-5, atol=1e-6
    )
    # The rates of both optimizers fall by the same schedule.
    rates = [float(o.learning_rate) for o in model.optimizers().values()]
    assert rates[0] == rates[1] > 0
    model.generator_optimizer.iterations.assign(9)
    model.discriminator_optimizer.iterations.assign(27)
    assert len({float(o.learning_rate) for o in model.optimizers().values()}) == 1
    _, fresh = tiny(d_steps=3, pool_size=0)
    with pytest.raises(ValueError, match="cannot be divided into d_steps equal parts: pass"):
        fresh.train_step(batch(size=4))  # of a static size
    with pytest.raises(ValueError, match="cannot be divided into d_steps equal parts: pass"):
        model.train_on_batch(*(x[:2] for x in real))


@pytest.mark.usefixtures("small_networks")
def test_the_penalty_is_added_to_any_adversarial_loss():
    rows = []
    for weight in (0.0, 0.1):
        _, model = tiny(gradient_penalty=weight, pool_size=0)
        rows.append({k: float(v) for k, v in model.train_step(batch()).items()})
    differing = {name for name in rows[0] if rows[0][name] != rows[1][name]}
    assert differing == {"d_a", "d_b"}
    _, model = tiny(gradient_penalty=0.1, pool_size=0)
    real_a, real_b = batch()
    with tf.GradientTape() as tape:
        tape.watch(real_a)
        logits = tf.reduce_sum(model.d_a(real_a))
    penalty = tf.reduce_sum(tf.square(tape.gradient(logits, real_a))) / 2
    assert rows[1]["d_a"] - rows[0]["d_a"] == pytest.approx(0.1 * float(penalty), rel=1e-3)


def test_evaluate_gives_means_over_the_set_and_changes_nothing():
    _, model = tiny()
    data = [batch(i) for i in range(3)]
    before = weights(model)
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(data), output_signature=(tf.TensorSpec((1, *SHAPE)),) * 2
    ).with_options(UNTUNED)
    result = model.evaluate(dataset, verbose=0, return_dict=True)
    cycle_a = np.mean([np.abs(model.b2a(model.a2b(a)) - a).mean() for a, _ in data])
    assert result["cycle_a"] == pytest.approx(10 * cycle_a, rel=1e-5)
    assert int(model.pool_a[0].seen) == int(model.step) == 0
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("adversarial", ["bce", "hinge", "wgan-gp"])
def test_every_adversarial_loss_trains(sets, adversarial):
    model, rows = train(sets, "one", 3, adversarial=adversarial, learning_rate=1e-3)
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[0]["cycle_a"] > rows[-1]["cycle_a"] or rows[0]["cycle_b"] > rows[-1]["cycle_b"]


@pytest.fixture(scope="module")
def exact(sets):
    return train(sets, "one", 3)[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_takes_the_steps_of_float32(sets, exact, precision):
    model, rows = train(sets, "one", 3, precision=precision)
    assert model.a2b.trainable_variables[0].dtype == "float32"
    for row, expected in zip(rows, exact, strict=True):
        assert row == pytest.approx(expected, rel=0.1, abs=0.02)


def test_loss_scaling_does_not_change_the_gradients():
    """Uses SGD, because there a wrong scale makes the update 32768 times too large."""
    results = []
    for wrap in (lambda o: o, keras.optimizers.LossScaleOptimizer):
        _, model = tiny()
        model.compile(wrap(keras.optimizers.SGD(0.01)), wrap(keras.optimizers.SGD(0.01)))
        before = weights(model)
        model.train_step(batch())
        results.append([a - b for a, b in zip(weights(model), before, strict=True)])
    for plain, scaled in zip(*results, strict=True):
        assert np.abs(plain).max() > 1e-6
        np.testing.assert_allclose(plain, scaled, rtol=1e-3, atol=1e-7)


def test_an_overflow_on_the_second_replica_stops_the_update_on_both():
    strategy = make_strategy("mirrored")
    with strategy.scope():
        variable = tf.Variable(1.0)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
        optimizer.build([variable])

    @tf.function
    def step(gradient):
        optimizer.apply(share_overflow([gradient]), [variable])

    def run(values):
        strategy.run(
            step,
            args=(
                strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(values[context.replica_id_in_sync_group])
                ),
            ),
        )

    run([32768.0, np.inf])
    assert variable.numpy() == 1.0
    assert optimizer.dynamic_scale.numpy() == 32768.0 / 2
    run([16384.0, 16384.0])
    assert variable.numpy() == 1.0 - 2.0


@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_the_first_value_that_is_not_finite_is_named(strategy):
    _, model = tiny(strategy, precision="mixed_float16")
    assert model.first_non_finite() is None
    slot = model.discriminator_optimizer.inner_optimizer.variables[-1]
    for variable, named in (
        (model.pool_b[-1].images, f"pool_b: images of replica {len(model.pool_b) - 1}"),
        (slot, f"discriminator_optimizer: {slot.path}"),
        (model.d_a.trainable_variables[-1], f"d_a: {model.d_a.trainable_variables[-1].path}"),
        (model.a2b.trainable_variables[0], f"a2b: {model.a2b.trainable_variables[0].path}"),
    ):
        value = variable.numpy()
        value.flat[-1] = -np.inf
        variable.assign(value)
        assert model.first_non_finite() == named


def test_a_step_whose_update_spoils_the_weights_reports_finite_losses():
    """Shows why the weights must be checked too before they are saved, and not only the losses."""
    _, model = tiny()
    model.compile(keras.optimizers.SGD(1e38), keras.optimizers.SGD(1e38))
    model.d_b.trainable_variables[-1].assign([1e15])
    losses = model.train_step(batch())
    assert np.isfinite([float(loss) for loss in losses.values()]).all()
    assert model.first_non_finite().startswith("a2b: ")


def own_data(size=2, count=3, known=None, change=lambda images: images):
    """Returns a custom dataset; `known` is its static batch size, or None."""
    pairs = [tuple(change(images) for images in batch(i, size)) for i in range(count)]
    images = tuple(tf.concat(domain, axis=0) for domain in zip(*pairs, strict=True))
    data = tf.data.Dataset.from_tensor_slices(images)
    return data.batch(size, drop_remainder=known is not None).with_options(UNTUNED)


def fitted(model, data, **arguments):
    return model.fit(data, verbose=0, **arguments).history


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("one", {"dropout": 0.5, "blocks": 1, "precision": "mixed_float16"}),
        pytest.param("mirrored", {"pool_size": 2}, marks=pytest.mark.slow),
        ("mirrored", {"ema": 0.9, "d_augment": "translation,color", "d_steps": 2, "batch_size": 2}),
    ],
)
def test_training_goes_on_bit_for_bit_after_load_weights(strategy, changes, tmp_path):
    scope, model = tiny(strategy, **changes)
    fitted(model, own_data(4))
    model.save_weights(tmp_path / "x.weights.h5")
    expected = fitted(model, own_data(4))
    _, again = tiny(strategy, **changes, seed=3)
    again.seed = model.seed
    for pool, other in zip(again.pool_a + again.pool_b, model.pool_a + model.pool_b, strict=True):
        pool.seed = other.seed  # an argument, which is not saved
    again.load_weights(tmp_path / "x.weights.h5")
    assert again.steps_done == 3
    assert fitted(again, own_data(4)) == expected
    for a, b in zip(weights(model), weights(again), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, average in model.averages.items():
        for a, b in zip(average.get_weights(), again.averages[name].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", ["one", pytest.param("mirrored", marks=pytest.mark.slow)])
def test_a_step_that_finds_the_data_at_its_end_counts_nothing(strategy):
    _, model = tiny(strategy, dropout=0.5, blocks=1)
    calls = 3 * 2  # of each generator per replica: one call for translation and identity
    for epochs in (1, 2):
        fitted(model, own_data(known=2))
        assert model.steps_done == 3 * epochs
        assert model.generator_optimizer.iterations.numpy() == 3 * epochs
        assert model.discriminator_optimizer.iterations.numpy() == 3 * epochs
        assert sum(int(pool.seen) for pool in model.pool_a) == 3 * 2 * epochs
        seeds = {k: v.numpy()[1] for k, v in model._own_state().items() if "seed" in k}
        assert seeds == {"a2b_seed_0": calls * epochs, "b2a_seed_0": calls * epochs}


@pytest.mark.usefixtures("small_networks")
def test_backup_and_restore_restores_the_whole_training_state(tmp_path):
    """Checks that an interrupted and resumed fit gives the same result as an uninterrupted one."""
    results = []
    for interrupted in (False, True):
        backup = keras.callbacks.BackupAndRestore(tmp_path / str(interrupted))
        _, model = tiny()
        if interrupted:

            def stop(epoch):
                if epoch == 1:
                    raise KeyboardInterrupt

            cut = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: stop(epoch))
            with pytest.raises(KeyboardInterrupt):
                model.fit(own_data(), epochs=2, verbose=0, callbacks=[backup, cut])
            _, model = tiny()
        fitted(model, own_data(), epochs=2, callbacks=[backup])
        results.append([*weights(model), model.pool_a[0].images.numpy(), model.steps_done])
    for plain, resumed in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, resumed)


@pytest.mark.usefixtures("small_networks")
def test_weights_of_a_model_with_other_pools_are_refused(tmp_path):
    _, model = tiny(pool_size=0)
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(ValueError, match="the same pool_size, replicas, image size"):
        tiny()[1].load_weights(tmp_path / "x.weights.h5")
    _, model = tiny()
    model.save_weights(tmp_path / "y.weights.h5")
    with pytest.raises(ValueError, match="with the same pool_size"):
        tiny(pool_size=0)[1].load_weights(tmp_path / "y.weights.h5")


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_fit_compiles_with_xla_on_one_device_and_on_two(strategy):
    results = []
    for jit_compile in (False, True):
        _, model = tiny(strategy, jit_compile=jit_compile)
        results.append({k: v[0] for k, v in fitted(model, own_data(2, 4)).items()})
        assert model.compiles_step == (jit_compile and strategy == "one")
        assert model.compiles_gradients == (jit_compile and strategy == "mirrored")
    assert results[0] == pytest.approx(results[1], rel=2e-3, abs=1e-4)


def test_xla_does_not_compile_batch_norm_over_replicas():
    with pytest.raises(ValueError, match='batch norm .* over 2 replicas.*use norm="instance"'):
        tiny("mirrored", norm="batch", jit_compile=True)
    tiny("one", norm="batch", jit_compile=True)


@pytest.mark.usefixtures("small_networks")
def test_pools_without_a_strategy_and_for_batches_of_unknown_size():
    """Checks that the losses are the same as with a strategy and with a static batch size."""
    results = []
    for own, known in ((False, 2), (True, 2), (True, None)):
        _, model = tiny()
        if own:
            model = CycleGAN(model.a2b, model.b2a, model.d_a, model.d_b, pool_size=3)
        model.compile(keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01))
        results.append(fitted(model, own_data(known=known)))
        assert int(model.pool_a[0].seen) == 6
    for history in results[1:]:
        assert {k: v[0] for k, v in history.items()} == pytest.approx(
            {k: v[0] for k, v in results[0].items()}, rel=1e-5
        )


def test_pools_are_made_outside_of_a_scope_one_for_each_replica():
    strategy, model = tiny("mirrored")
    assert len(model.pool_a) == len(model.pool_b) == 2
    with strategy.scope(), pytest.raises(ValueError, match=r"inside strategy.scope\(\), .*outside"):
        model.make_pools(SHAPE, SHAPE)


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize(
    ("strategy", "jit_compile", "act"),
    [("one", True, "fit"), ("mirrored", False, "fit"), ("one", False, "evaluate")],
)
def test_images_out_of_range_are_refused_before_they_train(strategy, jit_compile, act):
    _, model = tiny(strategy, jit_compile=jit_compile)
    before = weights(model)
    data = own_data(change=lambda images: (images + 1) * 127.5)
    message = r"^The images of a are not all in \[-1, 1\]: .*x / 127.5 - 1"
    with pytest.raises(ValueError, match=message):
        getattr(model, act)(data, verbose=0)
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: tf.where(x > 0.99, np.nan, x), "are not all in"),
        (lambda x: tf.cast(x, tf.uint8), "The images of a are uint8: make them float32"),
        (lambda x: tf.transpose(x, [0, 3, 1, 2]), r"takes \(n, height, width, 3\).*channels last"),
    ],
)
def test_other_images_that_cannot_be_trained_on(change, message):
    with pytest.raises(ValueError, match=message):
        tiny()[1].fit(own_data(change=change), verbose=0)


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.SwapEMAWeights(),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau("cycle_a", mode="min"),
    ],
)
def test_callbacks_that_need_one_optimizer_are_refused(callback):
    _, model = tiny()
    for act in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=f"^{type(callback).__name__} needs .* one optimizer"):
            act(own_data(), callbacks=[callback], verbose=0)


def test_optimizers_that_cannot_work_are_refused():
    _, model = tiny()
    adam, scaled = keras.optimizers.Adam(), keras.optimizers.LossScaleOptimizer
    for pair in ((adam, adam), (scaled(adam), scaled(adam))):
        with pytest.raises(ValueError, match="are the same object.*create two"):
            model.compile(*pair)
    with pytest.raises(ValueError, match="use_ema=True, but nothing would use"):
        model.compile(keras.optimizers.Adam(use_ema=True), adam)


def test_a_network_of_the_users_own_gets_batches_one_by_one():
    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
    images = tf.zeros((1, *SHAPE))
    sizes, call = [], network.call
    network.call = lambda x, **kwargs: sizes.append(len(x)) or call(x, **kwargs)
    outputs = call_jointly(network, {"same_b": images, "fake_b": images}, True)
    assert set(outputs) == {"same_b", "fake_b"} and sizes == [1, 1]


def test_epoch_means_are_float32_whatever_keras_json_says(other_keras_json):
    _, model = tiny()
    rows = [model.train_step(tuple(tf.cast(x, tf.float32) for x in batch(i))) for i in range(3)]
    mean = np.mean([float(row["cycle_a"]) for row in rows])
    assert float(model.trackers["cycle_a"].result()) == pytest.approx(mean, rel=1e-5)


def test_errors_name_the_remedy():
    _, model = tiny()
    sgd = keras.optimizers.SGD
    with pytest.raises(ValueError, match="above 0 for one of the first four"):
        model.compile(sgd(), sgd(), lambda_adversarial=0, lambda_cycle_a=0, lambda_cycle_b=0)
    with pytest.raises(ValueError, match="needs the input of each fake.*pool_size=0"):
        model.compile(sgd(), sgd(), lambda_l1=1.0)
    with pytest.raises(ValueError, match="use 0 or more"):
        model.compile(sgd(), sgd(), lambda_cycle_a=-1)
    for arguments, message in (
        ({"d_augment": "blur"}, "'blur': use one or more of translation"),
        ({"gradient_penalty": -1.0}, "gradient_penalty is -1.0, .*use 0 or more"),
        ({"gradient_center": 1.0}, "gradient_center is 1.0, but there is no penalty"),
        ({"d_steps": 0}, "d_steps is 0: use 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            model.compile(sgd(), sgd(), **arguments)
    for arguments, expected in (
        ({}, (0, 0)),
        ({"adversarial": "wgan-gp"}, (10, 1)),
        ({"adversarial": "wgan-gp", "gradient_penalty": 5.0}, (5, 1)),
        ({"gradient_penalty": 5.0}, (5, 0)),
        ({"adversarial": "wgan-gp", "gradient_penalty": 0.0}, (0, 1)),
    ):
        model.compile(sgd(), sgd(), **arguments)
        assert (model.gradient_penalty, model.gradient_center) == expected
    _, mixing = tiny(norm="batch")
    with pytest.raises(ValueError, match="discriminators without batch norm"):
        mixing.compile(gradient_penalty=1.0)
    with pytest.raises(ValueError, match="ema is 1.0: use 0 or more and less than 1"):
        CycleGAN(model.a2b, model.b2a, model.d_a, model.d_b, ema=1.0)
    with pytest.raises(ValueError, match="pool_size=0"):
        make_cyclegan(TINY, make_strategy("one"), (None, None, 3), SHAPE, 10)
