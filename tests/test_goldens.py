"""Compares with results of the authors' PyTorch code in float64 (see tests/goldens/README.md)."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_cyclegan import cpu
from tf_cyclegan.cpu import fused_norm, winograd
from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.image_pool import ImagePool
from tf_cyclegan.interop import from_state_dict, to_state_dict
from tf_cyclegan.schedules import LinearDecay

GOLDENS = Path(__file__).parent / "goldens"
# The authors call a2b G_A and b2a G_B, and name a discriminator after its generator.
NETWORKS = {"G_A": "a2b", "G_B": "b2a", "D_A": "d_b", "D_B": "d_a"}
LOSSES = {
    "G_A": "g_adv_a2b",
    "G_B": "g_adv_b2a",
    "cycle_A": "cycle_a",
    "cycle_B": "cycle_b",
    "idt_A": "identity_b",
    "idt_B": "identity_a",
    "D_A": "d_b",
    "D_B": "d_a",
}
IMAGES = {
    "fake_B": "fake_b",
    "rec_A": "cycle_a",
    "idt_B": "same_a",
    "fake_A": "fake_a",
    "rec_B": "cycle_b",
    "idt_A": "same_b",
}


def load(name):
    with np.load(GOLDENS / f"{name}.npz") as data:
        arrays = dict(data)
    return arrays, json.loads(str(arrays.pop("meta")))


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.mark.parametrize(
    ("case", "network"),
    [
        ("forward_G_resnet_6blocks", lambda: ResNetGenerator(6, blocks=6)),
        ("forward_G_resnet_9blocks", lambda: ResNetGenerator(6, blocks=9)),
        ("forward_G_unet_128", lambda: UNetGenerator(4, depth=7)),
        ("forward_D_n1", lambda: PatchDiscriminator(4, layers=1)),
        ("forward_D_n3", lambda: PatchDiscriminator(4, layers=3)),
        ("forward_D_n5", lambda: PatchDiscriminator(4, layers=5)),
        ("forward_D_pixel", lambda: PixelDiscriminator(4)),
    ],
)
def test_forward_pass_in_float32(case, network):
    arrays, _ = load(case)
    network = network()
    network.build((None, None, None, 3))
    from_state_dict(network, under(arrays, "weight/"))
    np.testing.assert_allclose(network(arrays["x"]), arrays["y"], rtol=0, atol=1e-5)


class ScriptedPool(ImagePool):
    """An image pool that repeats the random draws of the authors' pool. It only works eagerly."""

    def __init__(self, size, shape, script):
        super().__init__(size, shape, seed=0, dtype=tf.float64)
        self.script = script

    def draw(self):
        if self.seen < self.size:  # the authors draw no numbers until the pool is full
            return tf.constant(0.0), tf.constant(0)
        p, index = self.script.pop(0)
        return tf.constant(p), tf.constant(int(index))


class ReferenceAdam(keras.optimizers.Adam):
    """Adam as in PyTorch: `lr * m / (sqrt(v) + eps)` with bias-corrected m and v."""

    def update_step(self, gradient, variable, learning_rate):
        t = tf.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        m.assign(self.beta_1 * m + (1 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1 - self.beta_2) * gradient**2)
        m_hat = m / (1 - self.beta_1**t)
        v_hat = v / (1 - self.beta_2**t)
        variable.assign_sub(tf.cast(learning_rate, v_hat.dtype) * m_hat / (tf.sqrt(v_hat) + 1e-8))


class Recorder(CycleGAN):
    """A CycleGAN that records the images and gradients of a step."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.recorded = {}

    def translate_both(self, real_a, real_b, training=False):
        images = super().translate_both(real_a, real_b, training=training)
        self.recorded["images"] = images
        return images

    def _generator_gradients(self, *images):
        gradients, *others = super()._generator_gradients(*images)
        self._record(self._generator_variables(), gradients)
        return gradients, *others

    def _discriminator_gradients(self, *images):
        gradients, losses = super()._discriminator_gradients(*images)
        self._record(self._discriminator_variables(), gradients)
        return gradients, losses

    def _record(self, variables, gradients):
        for variable, gradient in zip(variables, gradients, strict=True):
            self.recorded[id(variable)] = gradient


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def build(arrays, options, optimizer, script):
    size = options.get("pool_size", 50)
    networks = {}
    for name, ours in NETWORKS.items():
        network = ResNetGenerator(4, blocks=6) if name[0] == "G" else PatchDiscriminator(4)
        network.build((None, None, None, 3))
        from_state_dict(network, under(arrays, f"before/{name}/"))
        networks[ours] = network
    model = Recorder(**networks, pool_size=0)
    if size:
        model.pool_a = [ScriptedPool(size, (64, 64, 3), script)]
        model.pool_b = [ScriptedPool(size, (64, 64, 3), script)]
    model.compile(
        optimizer(2e-4, beta_1=0.5, epsilon=1e-8),
        optimizer(2e-4, beta_1=0.5, epsilon=1e-8),
        adversarial={"lsgan": "lsgan", "vanilla": "bce"}[options.get("gan_mode", "lsgan")],
        lambda_cycle_a=options.get("lambda_A", 10.0),
        lambda_cycle_b=options.get("lambda_B", 10.0),
        lambda_identity=options.get("lambda_identity", 0.5),
        run_eagerly=True,
    )
    return model


STEPS = ["step_lsgan", "step_vanilla", "step_no_identity", "step_batch2", "step_pool2"]


@pytest.mark.parametrize("case", STEPS)
def test_training_steps_in_float64(case, float64):
    arrays, meta = load(case)
    script = [tuple(draw) for draw in meta["pool_script"] or []]
    model = build(arrays, meta["options"], ReferenceAdam, script)
    networks = {name: getattr(model, ours) for name, ours in NETWORKS.items()}
    for step in range(meta["steps"]):
        before = {name: to_state_dict(network) for name, network in networks.items()}
        batch = [tf.constant(arrays[f"step{step}/in/{d}"], tf.float64) for d in "AB"]
        losses = model.train_step(batch)
        losses["G_total"] = sum(v for k, v in losses.items() if k[:2] not in ("d_", "le"))
        expected = under(arrays, f"step{step}/loss/")
        assert len(expected) == 9
        for name, value in expected.items():
            # A term with weight 0 is not reported.
            ours = float(losses.get(LOSSES.get(name, name), 0.0))
            # TensorFlow stores LeakyReLU's slope in float32, which is visible after two updates.
            tolerance = 1e-8 if step < 2 else 1e-7
            assert ours == pytest.approx(float(value), rel=tolerance), (step, name)
        if step > 0:
            continue
        for name, value in under(arrays, "step0/image/").items():
            image = model.recorded["images"][IMAGES[name]]
            np.testing.assert_allclose(image, value, rtol=0, atol=1e-6, err_msg=name)
        check_gradients_and_updates(arrays, meta, model, networks, before)
    assert not script


def check_gradients_and_updates(arrays, meta, model, networks, before):
    for name, network in networks.items():
        gradients = gradients_by_torch_name(model, network)
        after = to_state_dict(network)
        expected = under(arrays, f"step0/grad/{name}/")
        assert set(expected) == set(gradients)
        for key, value in expected.items():
            if key in meta["dead_biases"][name]:
                continue
            np.testing.assert_allclose(
                gradients[key], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=key
            )
            delta = arrays[f"step0/delta/{name}/{key}"]
            # For gradients near zero, rounding determines the direction of Adam's first step.
            live = np.abs(value) > 1e-6
            np.testing.assert_allclose(
                (after[key] - before[name][key])[live], delta[live], rtol=0, atol=1e-9, err_msg=key
            )


def gradients_by_torch_name(model, network):
    kept = [variable.numpy() for variable in network.variables]
    for variable in network.trainable_variables:
        variable.assign(model.recorded[id(variable)])
    gradients = to_state_dict(network)
    for variable, value in zip(network.variables, kept, strict=True):
        variable.assign(value)
    return gradients


def one_step(dtype):
    """Runs one step as a graph, at a size for which the CPU kernels are used.

    Returns:
        The losses, and the path, gradient and update of every weight.
    """
    networks = {name: ResNetGenerator(32, blocks=1, dtype=dtype) for name in ("a2b", "b2a")}
    networks |= {name: PatchDiscriminator(8, layers=1, dtype=dtype) for name in ("d_a", "d_b")}
    rng = np.random.default_rng(0)
    for network in networks.values():
        network.build((None, None, None, 3))
        for variable in network.trainable_variables:
            variable.assign(rng.normal(0, 0.02, variable.shape).astype(np.float32))
    model = Recorder(**networks)
    adam = {"learning_rate": 2e-4, "beta_1": 0.5, "epsilon": 1e-8}
    model.compile(keras.optimizers.Adam(**adam), keras.optimizers.Adam(**adam))
    variables = [v for network in networks.values() for v in network.trainable_variables]
    real = [tf.constant(rng.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)) for _ in "ab"]

    @tf.function(autograph=False)
    def step(real_a, real_b):
        losses = model.train_step((real_a, real_b))
        return losses, [model.recorded[id(variable)] for variable in variables]

    before = [variable.numpy() for variable in variables]
    losses, gradients = step(*(tf.cast(x, dtype) for x in real))
    updates = [v.numpy() - old for v, old in zip(variables, before, strict=True)]
    return losses, [v.path for v in variables], [g.numpy() for g in gradients], updates


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="these kernels are a CPU's alone"
)
def test_a_step_in_float32_by_the_cpus_kernels_is_that_in_float64_without_them(monkeypatch):
    """The steps above use float64 and few channels, so they do not test the CPU kernels."""
    taken = dict.fromkeys(("convolution_3x3", "standardized_images"), 0)
    for module, name in ((winograd, "convolution_3x3"), (fused_norm, "standardized_images")):
        kernel = getattr(module, name)

        def counting(*args, kernel=kernel, name=name):
            taken[name] += 1
            return kernel(*args)

        monkeypatch.setattr(module, name, counting)
    losses, paths, gradients, updates = one_step("float32")
    assert all(count >= 6 for count in taken.values()), taken
    taken = dict.fromkeys(taken, 0)
    with cpu.disabled():
        exact_losses, _, exact_gradients, exact_updates = one_step("float64")
    assert not any(taken.values())
    for name, value in exact_losses.items():
        assert float(losses[name]) == pytest.approx(float(value), rel=1e-5), name
    largest = max(np.abs(g).max() for g in exact_gradients)
    for path, g, exact, update, exact_update in zip(
        paths, gradients, exact_gradients, updates, exact_updates, strict=True
    ):
        # Instance norm cancels a bias before it, so the gradient of that bias is only rounding.
        size = np.abs(exact).max()
        if size < 1e-9 * largest:
            assert np.abs(g).max() < 1e-4 * largest, path
            continue
        # In the generators, rounding flips some ReLUs and some signs of the L1 terms.
        tolerance = 0.03 if "generator" in path else 1e-4
        assert np.linalg.norm(g - exact) < tolerance * np.linalg.norm(exact), path
        # For gradients near zero, rounding determines the direction of Adam's first step.
        live = np.abs(exact) > 0.1 * size
        np.testing.assert_allclose(update[live], exact_update[live], rtol=1e-3, err_msg=path)


def test_learning_rate_of_every_epoch():
    for name, expected in json.loads((GOLDENS / "lr_linear.json").read_text()).items():
        epochs, decay_epochs = (int(n) for n in name.split("_"))
        schedule = LinearDecay(2e-4, epochs, decay_epochs, steps_per_epoch=7)
        ours = [float(schedule(7 * e + s)) for e in range(len(expected)) for s in (0, 6)]
        np.testing.assert_allclose(ours, np.repeat(expected, 2), rtol=1e-6, err_msg=name)
