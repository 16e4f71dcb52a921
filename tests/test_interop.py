import contextlib
import pickle
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.interop import (
    from_state_dict,
    load_discriminator,
    load_generator,
    save_torch,
    to_state_dict,
)

GOLDENS = Path(__file__).parent / "goldens"
REFERENCE = GOLDENS / "reference_resnet_9blocks_net_G_A.pth"

GENERATORS = {
    "resnet 6": lambda: ResNetGenerator(2, blocks=6),
    "resnet 9": lambda: ResNetGenerator(2, blocks=9),
    "resnet batch": lambda: ResNetGenerator(2, blocks=6, norm="batch"),
    "resnet none": lambda: ResNetGenerator(2, blocks=6, norm="none"),
    "resnet dropout": lambda: ResNetGenerator(2, blocks=6, dropout=0.5),
    "resnet batch dropout": lambda: ResNetGenerator(2, blocks=1, norm="batch", dropout=0.5),
    "resnet without blocks": lambda: ResNetGenerator(2, blocks=0),
    "resnet gray": lambda: ResNetGenerator(2, blocks=1, channels=1),
    "unet 128": lambda: UNetGenerator(2, depth=7),
    "unet batch": lambda: UNetGenerator(2, depth=5, norm="batch", channels=1),
    "unet none": lambda: UNetGenerator(2, depth=3, norm="none"),
    "unet smallest": lambda: UNetGenerator(2, depth=2, norm="batch"),
}
DISCRIMINATORS = {
    **{f"patch {n}": lambda n=n: PatchDiscriminator(2, layers=n) for n in (1, 2, 3, 4, 5)},
    "patch batch": lambda: PatchDiscriminator(2, norm="batch"),
    "patch none": lambda: PatchDiscriminator(2, norm="none"),
    "pixel": lambda: PixelDiscriminator(2),
    "pixel batch": lambda: PixelDiscriminator(2, norm="batch"),
    "pixel none": lambda: PixelDiscriminator(2, norm="none"),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the authors' .pth files need PyTorch")


def built(network, channels=3):
    network.build((None, None, None, channels))
    rng = np.random.default_rng(0)
    for variable in network.variables:
        if variable.name != "seed_generator_state":
            variable.assign(rng.uniform(0.1, 1, variable.shape))
    return network


def config(network):
    return {key: value for key, value in network.get_config().items() if key != "name"}


def weights(network):
    return [v.numpy() for v in network.variables if v.name != "seed_generator_state"]


@pytest.mark.parametrize(
    "golden, network",
    [
        ("G_resnet_6blocks", lambda: ResNetGenerator(6, blocks=6)),
        ("G_resnet_9blocks", lambda: ResNetGenerator(6, blocks=9)),
        ("G_unet_128", lambda: UNetGenerator(4, depth=7)),
        ("D_n1", lambda: PatchDiscriminator(4, layers=1)),
        ("D_n3", lambda: PatchDiscriminator(4, layers=3)),
        ("D_n5", lambda: PatchDiscriminator(4, layers=5)),
        ("D_pixel", lambda: PixelDiscriminator(4)),
    ],
)
def test_names_order_and_shapes_are_the_authors(golden, network):
    with np.load(GOLDENS / f"forward_{golden}.npz") as data:
        expected = [
            (key.removeprefix("weight/"), data[key].shape) for key in data if key[:7] == "weight/"
        ]
    state = to_state_dict(built(network()))
    assert [(name, array.shape) for name, array in state.items()] == expected


def test_a_file_of_the_authors_translates_as_with_the_authors(torch):
    with np.load(f"{REFERENCE.with_suffix('')}_io.npz") as data:
        x, y = data["x"], data["y"]
    generator = load_generator(REFERENCE)
    assert isinstance(generator, ResNetGenerator)
    assert (generator.blocks, generator.norm, generator.dropout) == (9, "instance", 0.0)
    np.testing.assert_allclose(generator(x), y, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("network", [*GENERATORS, *DISCRIMINATORS])
def test_round_trip(torch, tmp_path, network, channels):
    load = load_generator if network in GENERATORS else load_discriminator
    network = built((GENERATORS | DISCRIMINATORS)[network](), channels)
    save_torch(network, tmp_path / "net.pth")
    loaded = load(tmp_path / "net.pth")
    assert type(loaded) is type(network)
    assert config(loaded) == config(network)
    assert len(weights(loaded)) == len(weights(network))
    for ours, theirs in zip(weights(network), weights(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_batch_norm_is_written_as_pytorch_does(torch, tmp_path):
    save_torch(built(ResNetGenerator(2, blocks=0, norm="batch")), tmp_path / "net.pth")
    state = torch.load(tmp_path / "net.pth", weights_only=True)
    names = [name for name in state if name.startswith("model.2.")]
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == [f"model.2.{part}" for part in parts]
    assert state["model.2.num_batches_tracked"].dtype == torch.int64


def test_kernels_mean_the_same_to_pytorch(torch, tmp_path):
    """PyTorch layers with our exported weights compute the same as our network."""
    ours = built(PixelDiscriminator(2, norm="batch"))
    save_torch(ours, tmp_path / "net.pth")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 1),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Conv2d(2, 4, 1, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Conv2d(4, 1, 1, bias=False),
    ).eval()
    state = torch.load(tmp_path / "net.pth", weights_only=True)
    theirs.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    x = np.random.default_rng(0).uniform(-1, 1, (1, 4, 5, 3)).astype(np.float32)
    with torch.no_grad():
        y = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(x), y, rtol=1e-5)


def test_names_behind_module_and_stale_statistics_are_taken(torch, tmp_path):
    """DataParallel adds the prefix; instance norm before PyTorch 0.4 saved statistics."""
    network = built(ResNetGenerator(2, blocks=1))
    state = {name: torch.tensor(array) for name, array in to_state_dict(network).items()}
    for part in ("running_mean", "running_var"):
        state[f"model.2.{part}"] = torch.ones(2)
    state["model.2.num_batches_tracked"] = torch.tensor(7)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "net.pth")
    loaded = load_generator(tmp_path / "net.pth")
    assert loaded.norm == "instance"
    for ours, theirs in zip(weights(network), weights(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trained_parameters_and_half_floats_are_taken(torch, tmp_path):
    state = to_state_dict(built(PixelDiscriminator(2)))
    halves = {k: torch.nn.Parameter(torch.tensor(v).half()) for k, v in state.items()}
    torch.save(halves, tmp_path / "net.pth")
    loaded = to_state_dict(load_discriminator(tmp_path / "net.pth"))
    for name, array in state.items():
        np.testing.assert_allclose(loaded[name], array, rtol=1e-3)


class Malicious:
    """Simulates an attack: unpickling it would create the file at its path."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["saved by torch", "old format", "plain pickle"])
def test_a_malicious_file_is_refused_and_runs_nothing(torch, tmp_path, kind):
    path, proof = tmp_path / "net.pth", tmp_path / "it_ran"
    content = {"model.1.weight": torch.zeros(2, 3, 7, 7), "x": Malicious(proof)}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content["x"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "saved by torch")
    with pytest.raises(ValueError, match="holds more than tensors, which is refused") as refusal:
        load_generator(path)
    assert "\n" not in str(refusal.value)
    assert "weights_only" not in str(refusal.value)  # no advice to load it anyway
    assert not proof.exists()
    with contextlib.suppress(RuntimeError):  # torch expects more after a plain pickle
        torch.load(path, weights_only=False)
    assert proof.exists()  # without the check, the attack works


def test_damaged_and_foreign_files(torch, tmp_path):
    whole = REFERENCE.read_bytes()
    bad = {
        "truncated.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"hello\n",
        "page.pth": b"<!DOCTYPE html>\n<html>",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as PyTorch weights") as error:
            load_generator(tmp_path / name)
        assert "\n" not in str(error.value)


def test_missing_files_and_wrong_suffixes(tmp_path):
    with pytest.raises(ValueError, match="none.pth does not exist: give a .keras file or a .pth"):
        load_generator(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="does not exist"):
        load_discriminator(tmp_path)
    (tmp_path / "net.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="net.h5 is neither a .keras nor a .pth file"):
        load_generator(tmp_path / "net.h5")


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "match no generator"),
        ({"conv1.weight": (8, 3, 7, 7), "fc.weight": (10, 8)}, "match no generator"),
        # The right names, but other shapes.
        ({"model.1.weight": (8,), "model.4.weight": (8,)}, "match no generator"),
        ({"model.1.weight": (2, 3, 7, 7), "model.4.weight": (4, 2, 3, 3)}, "match no generator"),
        ({"model.model.0.weight": (2, 3, 4, 4)}, "match no generator"),
    ],
)
def test_a_state_dict_of_something_else(torch, tmp_path, state, message):
    torch.save({name: torch.zeros(shape) for name, shape in state.items()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"net.pth: its tensor names {message}"):
        load_generator(tmp_path / "net.pth")


@pytest.mark.parametrize("content", ["tensor", "list", "nested", "numbered"])
def test_a_file_without_a_state_dict(torch, tmp_path, content):
    tensor = torch.zeros(3)
    holds = {"tensor": tensor, "list": [tensor], "nested": {"net": {}}, "numbered": {0: tensor}}
    torch.save(holds[content], tmp_path / "net.pth")
    with pytest.raises(ValueError, match="contains no state_dict: save network.state_dict"):
        load_generator(tmp_path / "net.pth")


@pytest.mark.parametrize("network", ["patch 3", "pixel"])
@pytest.mark.parametrize("suffix", [".pth", ".keras"])
def test_a_discriminator_is_no_generator(torch, tmp_path, network, suffix):
    network = built(DISCRIMINATORS[network]())
    path = tmp_path / f"net{suffix}"
    network.save(path) if suffix == ".keras" else save_torch(network, path)
    with pytest.raises(ValueError, match=r"net.*(no generator|holds a P\w+Discriminator)"):
        load_generator(path)


@pytest.mark.parametrize("network", ["resnet 6", "unet 128"])
@pytest.mark.parametrize("suffix", [".pth", ".keras"])
def test_a_generator_is_no_discriminator(torch, tmp_path, network, suffix):
    network = built(GENERATORS[network]())
    path = tmp_path / f"net{suffix}"
    network.save(path) if suffix == ".keras" else save_torch(network, path)
    with pytest.raises(ValueError, match=r"net.*(no discriminator|holds a \w+Generator)"):
        load_discriminator(path)


def test_keras_files_load_and_bad_ones_are_errors(tmp_path):
    generator = built(GENERATORS["resnet gray"]())
    generator.save(tmp_path / "net.keras")
    loaded = load_generator(tmp_path / "net.keras")
    assert config(loaded) == config(generator)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), generator(x))
    whole = (tmp_path / "net.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match="half.keras cannot be read as a Keras model: it is damaged or cut short"
    ) as error:
        load_generator(tmp_path / "half.keras")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", ["resnet gray", "unet smallest", "patch 1", "pixel"])
@pytest.mark.parametrize("suffix", [".h5", ".HDF5"])
def test_nothing_is_saved_in_a_format_that_does_not_load_again(tmp_path, network, suffix):
    network = built((GENERATORS | DISCRIMINATORS)[network]())
    with pytest.raises(ValueError, match=r"from an .h5 file: name it \*.keras"):
        network.save(tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []
    network.save_weights(tmp_path / "net.weights.h5")


def test_weights_that_do_not_fit_are_named_and_nothing_is_set():
    network = built(PatchDiscriminator(2, layers=1))
    before = [np.array(weight) for weight in weights(network)]
    state = {name: array + 1 for name, array in to_state_dict(network).items()}
    missing = {name: array for name, array in state.items() if name != "model.5.bias"}
    for bad, message in (
        (missing, "The file lacks model.5.bias of a PatchDiscriminator"),
        (
            state | {"model.9.weight": np.zeros(1)},
            "has model.9.weight, which is not in a PatchDiscriminator",
        ),
        (state | {"model.5.bias": np.zeros(2)}, r"model.5.bias has .* \(2,\), but needs \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            from_state_dict(network, bad)
    for old, new in zip(before, weights(network), strict=True):
        np.testing.assert_array_equal(old, new)
    from_state_dict(network, state)
    assert np.all(weights(network)[0] == before[0] + 1)


def test_networks_without_a_counterpart_cannot_be_written(tmp_path):
    generator = built(ResNetGenerator(2, blocks=1, upsampling="resize"))
    with pytest.raises(ValueError, match="upsampling='resize' does not exist in the authors' code"):
        to_state_dict(generator)
    with pytest.raises(ValueError, match="Sequential has no counterpart"):
        to_state_dict(keras.Sequential([keras.layers.Dense(1)]))


def test_without_pytorch_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r'need PyTorch: pip install "tf_cyclegan\[torch\]"'):
        load_generator(REFERENCE)
