"""Tests benchmarks/peer.py against the authors' numbers (tests/goldens/README.md)."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import peer  # noqa: E402

# The authors' name of each network or loss -> ours.
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


def load(name):
    with np.load(ROOT / "tests" / "goldens" / f"{name}.npz") as data:
        arrays = dict(data)
    return arrays, json.loads(str(arrays.pop("meta")))


def weights(arrays, prefix):
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def nchw(array):
    return torch.from_numpy(array).double().permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("case", ["step_lsgan", "step_no_identity", "step_batch2", "step_pool2"])
def test_golden_steps_in_float64(case, monkeypatch):
    arrays, meta = load(case)
    options = meta["options"]
    script = [tuple(draw) for draw in meta["pool_script"] or []]
    monkeypatch.setattr(peer.ImagePool, "draw", lambda _: script.pop(0))
    model = peer.CycleGAN(
        options["ngf"],
        blocks=6,
        d_filters=options["ndf"],
        pool_size=options.get("pool_size", 50),
        lambda_identity=options.get("lambda_identity", 0.5),
    )
    networks = {theirs: getattr(model, ours).double() for theirs, ours in NETWORKS.items()}
    for name, network in networks.items():
        network.load_state_dict(weights(arrays, f"before/{name}/"))  # strict: every name must match

    for step in range(meta["steps"]):
        losses = model.train_step(*(nchw(arrays[f"step{step}/in/{domain}"]) for domain in "AB"))
        total = sum(loss for name, loss in losses.items() if not name.startswith("d_"))
        assert total == pytest.approx(float(arrays[f"step{step}/loss/G_total"]), rel=1e-9)
        for name, ours in LOSSES.items():
            expected = float(arrays[f"step{step}/loss/{name}"])
            assert losses.get(ours, 0.0) == pytest.approx(expected, rel=1e-9), (step, name)
        if step == 0:
            check_first_gradients_and_updates(arrays, meta, networks)
    assert not script


def check_first_gradients_and_updates(arrays, meta, networks):
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            if key in meta["dead_biases"][name]:  # instance norm cancels them: only noise
                continue
            gradient = arrays[f"step0/grad/{name}/{key}"]
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-6, atol=1e-6 * scale)
            change = parameter.detach().numpy() - arrays[f"before/{name}/{key}"]
            live = np.abs(gradient) > 1e-6  # if smaller, rounding decides Adam's direction
            np.testing.assert_allclose(
                change[live], arrays[f"step0/delta/{name}/{key}"][live], rtol=0, atol=1e-9
            )


def test_forward_pass_of_the_nine_block_generator():
    arrays, _ = load("forward_G_resnet_9blocks")
    network = peer.ResNetGenerator(6, blocks=9).double()
    network.load_state_dict(weights(arrays, "weight/"))
    with torch.no_grad():
        y = network(nchw(arrays["x"])).permute(0, 2, 3, 1)
    np.testing.assert_allclose(y, arrays["y"], rtol=0, atol=1e-6)


def test_it_has_the_papers_sizes():
    for network, size in (
        (peer.ResNetGenerator(64, 9), 11_378_179),
        (peer.PatchDiscriminator(64), 2_764_737),
    ):
        assert sum(parameter.numel() for parameter in network.parameters()) == size
        kernel = network.model[1 if size > 1e7 else 0].weight
        assert float(kernel.detach().std()) == pytest.approx(0.02, rel=0.05)
