"""Checks that no model file can run code, access other files, or allocate sizes it only claims."""

import io
import json
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tf_cyclegan import model_archive
from tf_cyclegan.evaluation.features import load_features
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.interop import load_generator, save_torch

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
HUGE = 10**7


@pytest.fixture(scope="module")
def generator():
    network = ResNetGenerator(2, blocks=0)
    network.build((None, None, None, 3))
    return network


@pytest.fixture(scope="module")
def sound(tmp_path_factory, generator):
    """Returns the parts of a valid `.keras` file by name."""
    path = tmp_path_factory.mktemp("sound") / "net.keras"
    generator.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sound_h5(tmp_path_factory):
    """Returns a valid `.h5` file of a whole model."""
    path = tmp_path_factory.mktemp("sound") / "net.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")]
        keras.Sequential(layers).save(path)
    return path.read_bytes()


@pytest.fixture
def secret(tmp_path):
    """Writes a file near the hostile one. The tests detect whether loading accesses it."""
    path = tmp_path / "secret" / "secret.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["values"] = np.ones(8, np.float32)
    return path


opened: list[str] | None = None  # paths opened while a file is being loaded


def listen(event, arguments):
    if opened is not None and event in ("open", "os.mkdir", "subprocess.Popen", "os.system"):
        opened.append(str(arguments[0]))


sys.addaudithook(listen)  # HDF5 opens files without Python; the refusals below prevent it


def refused(load, path, message):
    """Checks that loading fails with a one-line error naming the file, and opens no other file."""
    global opened
    opened = []
    try:
        with pytest.raises(ValueError, match=message) as error:
            load(path)
        seen = opened
    finally:
        opened = None
    assert path.name in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 600 + len(str(path))
    assert not [name for name in seen if str(path.parent) in name and name != str(path)]
    assert sorted(item.name for item in path.parent.iterdir()) in (
        [path.name],
        sorted([path.name, "secret"]),
    )


def packed(parts, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # about two members with the same name
        for name, content in parts:
            archive.writestr(name, content)
    return buffer.getvalue()


# === The archive ===


def symlink(target):
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = 0o120777 << 16
    return info, target


def with_flag(data, flag):
    """Sets a bit in the flags of every member, both in its header and in the central directory."""
    data = bytearray(data)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= flag
            at = data.find(mark, at + 4)
    return bytes(data)


def with_size(data, name, size):
    """Changes the size of a member in the central directory."""
    data = bytearray(data)
    at = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    data[at + 20 : at + 28] = 2 * size.to_bytes(4, "little")
    return bytes(data)


ARCHIVES = {
    "empty": (lambda p: b"", "damaged or cut short"),
    "text": (lambda p: b"no archive", "damaged or cut short"),
    "cut": (lambda p: packed(p.items())[:-200], "damaged or cut short"),
    "weights cut": (lambda p: packed((p | {WEIGHTS: p[WEIGHTS][:900]}).items()), "net.keras"),
    "no weights": (lambda p: packed([*p.items()][:2]), "does not hold exactly"),
    "another member": (lambda p: packed([*p.items(), ("x", b"")]), "does not hold exactly"),
    "out of the folder": (lambda p: packed([*p.items(), ("../out", b"x")]), "not hold exactly"),
    "absolute": (lambda p: packed([*p.items(), ("/tmp/out", b"x")]), "does not hold exactly"),
    "symlink": (lambda p: packed([*p.items(), symlink("/etc")]), "does not hold exactly"),
    "twice": (lambda p: packed([*p.items(), (CONFIG, p[CONFIG])]), "does not hold exactly"),
    "npz": (lambda p: packed([*[*p.items()][:2], ("model.weights.npz", b"")]), "not hold exactly"),
    "many members": (lambda p: packed((f"assets/{i}", b"") for i in range(999)), "not hold exac"),
    "deflated": (lambda p: packed(p.items(), zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "bomb": (
        lambda p: packed((p | {WEIGHTS: bytes(10**7)}).items(), zipfile.ZIP_LZMA),
        "compressed or encrypted",
    ),
    "encrypted": (lambda p: with_flag(packed(p.items()), 1), "compressed or encrypted"),
    "claims 3 GB": (lambda p: with_size(packed(p.items()), WEIGHTS, 3 * 10**9), "larger than"),
    "claims 2 GB": (lambda p: with_size(packed(p.items()), WEIGHTS, 2 * 10**9), "net.keras"),
    "config claims 1 GB": (lambda p: with_size(packed(p.items()), CONFIG, 10**9), "larger than"),
    "config of blanks": (lambda p: packed((p | {CONFIG: b" " * 5 * 10**6}).items()), "larger than"),
    "damaged bytes": (lambda p: packed(p.items()).replace(b'"filters"', b'"filterz"'), "damaged"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(sound, secret, tmp_path, name):
    make, message = ARCHIVES[name]
    path = tmp_path / "net.keras"
    path.write_bytes(make(sound))
    refused(load_generator, path, message)


# === The config ===


def changed(**values):
    return lambda config, _: config["config"].update(values)


def layer(class_name, config=None, module="keras.layers", **rest):
    """Changes a config to a Sequential model of an input and one layer."""
    image = {"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 8, 3]}}
    part = {"class_name": class_name, "module": module, "config": config or {}} | rest

    def change(config, secret):
        text = json.dumps([image | {"module": "keras.layers"}, part]).replace("SECRET", str(secret))
        config.clear()
        config.update(module="keras", class_name="Sequential", registered_name=None)
        config["config"] = {"name": "net", "layers": json.loads(text)}

    return change


def nested(depth):
    def change(config, _):
        for _ in range(depth):
            config["config"] = {"config": config["config"]}

    return change


CODE = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}}
FUNCTION = {"class_name": "function", "config": "get_file", "module": "keras.utils"}
UNKNOWN = "could run code or read files"
CONFIGS = {
    "blocks": (changed(blocks=HUGE), "blocks=10000000 is more than 100"),
    "blocks as float": (changed(blocks=1e7), "blocks=10000000.0 is more than 100"),
    "blocks of infinity": (changed(blocks=float("inf")), "blocks=inf is more than 100"),
    "blocks of NaN": (changed(blocks=float("nan")), "nan is out of range"),
    "negative blocks": (changed(blocks=-HUGE), "blocks=-10000000 is more than"),
    "blocks that are not there": (changed(blocks=20), "claims .* weights or more, but holds"),
    "filters": (changed(filters=HUGE), "claims .* weights or more, but holds"),
    "filters, a little": (changed(filters=90), "claims .* weights or more, but holds"),
    "channels": (changed(channels=10**9), "claims .* weights or more, but holds"),
    "number of 30 digits": (changed(filters=10**30), "number 1000.* is out of range"),
    "epsilon of infinity": (changed(dropout=float("inf")), "number inf is out of range"),
    "nested": (nested(300), "net.keras"),
    "another type": (changed(filters=[[2]]), "net.keras"),
    "a list": (changed(blocks={"class_name": "Lambda", "config": {}}), UNKNOWN),
    "Lambda": (layer("Lambda", {"function": CODE}), f"Lambda.*{UNKNOWN}"),
    "Lambda by its module": (
        layer("Lambda", {"function": CODE}, "keras.src.layers.core.lambda_layer"),
        UNKNOWN,
    ),
    "Lambda within": (layer("TimeDistributed", {"layer": {"class_name": "Lambda"}}), UNKNOWN),
    "lambda": (layer("Activation", {"activation": CODE}), UNKNOWN),
    "function": (layer("Activation", {"activation": FUNCTION}), UNKNOWN),
    "os.system": (layer("system", {}, "os"), UNKNOWN),
    "builtins.exec": (layer("exec", {}, "builtins"), UNKNOWN),
    "get_file": (layer("get_file", {"origin": "file://SECRET"}, "keras.utils"), UNKNOWN),
    "load_model": (layer("load_model", {"filepath": "SECRET"}, "keras.saving"), UNKNOWN),
    "TFSMLayer": (layer("TFSMLayer", {"filepath": "SECRET"}), UNKNOWN),
    "TorchModuleWrapper": (layer("TorchModuleWrapper", {"module": "SECRET"}), UNKNOWN),
    "StringLookup": (layer("StringLookup", {"vocabulary": "SECRET"}), UNKNOWN),
    "TextVectorization": (layer("TextVectorization", {"vocabulary": "SECRET"}), UNKNOWN),
    "unrolled RNN": (layer("SimpleRNN", {"units": 1, "unroll": True}), UNKNOWN),
    "Orthogonal": (
        layer("Dense", {"units": 2, "kernel_initializer": {"class_name": "Orthogonal"}}),
        UNKNOWN,
    ),
    "typespec": (layer("__typespec__", {}, "tensorflow", spec_name="TensorSpec"), UNKNOWN),
    "class by number": (layer(7), UNKNOWN),
    "class by list": (layer(["Lambda"]), UNKNOWN),
    "another registered name": (layer("Dense", {"units": 10**9}), "claims .* weights or more"),
    "Dense": (layer("Dense", {"units": 10**9}), "claims .* weights or more"),
    "Conv2D": (layer("Conv2D", {"filters": 10**6, "kernel_size": 8}), "claims .* weights or more"),
    "many layers": (
        lambda config, _: config["config"].update(
            x=[{"class_name": "ReLU", "config": {}}] * 11_000
        ),
        "more than 10000 objects",
    ),
}


def with_config(sound, secret, change):
    config = json.loads(sound[CONFIG])
    change(config, secret)
    return packed((sound | {CONFIG: json.dumps(config)}).items())


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(sound, secret, tmp_path, name):
    change, message = CONFIGS[name]
    path = tmp_path / "net.keras"
    path.write_bytes(with_config(sound, secret, change))
    refused(load_generator, path, message)
    refused(lambda path: load_features(str(path)), path, message)


@pytest.mark.parametrize("text", ["[" * 10**6, "{", "null", "[]", "1e999", "9" * 10**4, "\x80"])
def test_configs_that_are_none(sound, tmp_path, text):
    path = tmp_path / "net.keras"
    path.write_bytes(packed((sound | {CONFIG: text.encode("latin-1")}).items()))
    refused(load_generator, path, "net.keras cannot be read as a Keras model: .")


# === The weights ===


def first(file):
    """Returns the group and the name of the first array in an `.h5` file."""
    names = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return file[names[0]].parent, names[0].rpartition("/")[2]


def replaced(make):
    def change(file, secret):
        group, name = first(file)
        shape = group[name].shape
        del group[name]
        make(group, name, shape, secret)

    return change


def virtual(group, name, shape, secret):
    layout = h5py.VirtualLayout((8,), np.float32)
    layout[:] = h5py.VirtualSource(secret, "values", (8,))
    group.create_virtual_dataset(name, layout)


def many_names(file, _):
    for i in range(101):
        file.create_group(f"x{i}")


FLOAT = {"dtype": np.float32}
HDF5 = {
    "external link": (
        replaced(lambda g, n, s, secret: g.__setitem__(n, h5py.ExternalLink(secret, "values"))),
        "is a link to another place",
    ),
    "external link in the place of a group": (
        lambda file, secret: file.__setitem__("fire9", h5py.ExternalLink(secret, "/")),
        "is a link to another place",
    ),
    "soft link": (
        replaced(lambda g, n, s, _: g.__setitem__(n, h5py.SoftLink("/"))),
        "is a link to another place",
    ),
    "external storage": (
        replaced(
            lambda g, n, s, secret: g.create_dataset(
                n, (8,), external=[(str(secret), 0, 32)], **FLOAT
            )
        ),
        "not a plain array",
    ),
    "virtual": (replaced(virtual), "not a plain array"),
    "sparse chunks": (
        replaced(
            lambda g, n, s, _: g.create_dataset(n, (10**6, 10**6), chunks=(100, 100), **FLOAT)
        ),
        "not a plain array",
    ),
    "a huge chunk": (
        replaced(
            lambda g, n, s, _: g.create_dataset(
                n, (8,), maxshape=(None,), chunks=(10**8,), compression="gzip", **FLOAT
            )
        ),
        "not a plain array",
    ),
    "huge, never written": (
        replaced(lambda g, n, s, _: g.create_dataset(n, (10**5, 10**3), **FLOAT)),
        "claims .* bytes of weights, but the file has",
    ),
    "3 GB, never written": (
        replaced(lambda g, n, s, _: g.create_dataset(n, (3 * 10**9,), dtype=np.int8)),
        "bytes of weights are more than",
    ),
    "objects": (
        replaced(lambda g, n, s, _: g.create_dataset(n, (8,), dtype=h5py.string_dtype())),
        "not a plain array",
    ),
    "references": (
        replaced(lambda g, n, s, _: g.create_dataset(n, (8,), dtype=h5py.ref_dtype)),
        "not a plain array",
    ),
    "a type": (replaced(lambda g, n, s, _: g.__setitem__(n, np.dtype("f4"))), "not a plain array"),
    "nothing": (
        replaced(lambda g, n, s, _: g.__setitem__(n, h5py.Empty("f4"))),
        "not a plain array",
    ),
    "a circle": (lambda file, _: file.__setitem__("again", file["/"]), "more than 100 names"),
    "many names": (many_names, "more than 100 names"),
    "another shape": (replaced(lambda g, n, s, _: g.create_dataset(n, data=np.ones(3))), "net."),
    "missing": (replaced(lambda *_: None), "net."),
    "NaN": (
        replaced(lambda g, n, s, _: g.create_dataset(n, data=np.full(s, np.nan, np.float32))),
        "holds NaN or infinity",
    ),
    "infinity": (
        replaced(lambda g, n, s, _: g.create_dataset(n, data=np.full(s, np.inf, np.float32))),
        "holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", HDF5)
def test_weights(sound, sound_h5, secret, tmp_path, monkeypatch, name, suffix):
    monkeypatch.setattr(model_archive, "MAX_LINKS", 100)
    change, message = HDF5[name]
    buffer = io.BytesIO(sound[WEIGHTS] if suffix == ".keras" else sound_h5)
    with h5py.File(buffer, "r+") as file:
        change(file, secret)
    path = tmp_path / f"net{suffix}"
    if suffix == ".keras":
        path.write_bytes(packed((sound | {WEIGHTS: buffer.getvalue()}).items()))
        refused(load_generator, path, message)
    else:
        path.write_bytes(buffer.getvalue())
        refused(lambda path: load_features(str(path)), path, message)


@pytest.mark.parametrize(
    "config, message",
    [
        (b" " * 5 * 10**6, "is longer than"),
        (b"[" * 10**5, "net.h5"),
        (json.dumps({"class_name": "Lambda", "config": {"function": ["4wE=", None]}}), UNKNOWN),
        (
            json.dumps(
                {
                    "class_name": "Lambda",
                    "registered_name": "tf_cyclegan>ResNetGenerator",
                    "config": {"function": ["4wE=", None]},
                }
            ),
            UNKNOWN,
        ),
        (json.dumps({"class_name": "Sequential", "config": {"layers": HUGE}}), "layers=10000000"),
    ],
)
def test_configs_of_h5_files(sound_h5, tmp_path, config, message):
    buffer = io.BytesIO(sound_h5)
    with h5py.File(buffer, "r+") as file:
        file.attrs["model_config"] = config if isinstance(config, str) else config.decode()
    path = tmp_path / "net.h5"
    path.write_bytes(buffer.getvalue())
    refused(lambda path: load_features(str(path)), path, message)


# === PyTorch ===


def torch_state(generator, tmp_path, torch):
    save_torch(generator, tmp_path / "sound.pth")
    state = torch.load(tmp_path / "sound.pth", weights_only=True)
    (tmp_path / "sound.pth").unlink()
    return state


FIRST = "model.1.weight"
TENSORS = {
    "expanded": (lambda t, s: {FIRST: t.ones(1, 1, 1, 1).expand(10**5, 10**4, 7, 7)}, "larger"),
    "many views": (lambda t, s: {f"x{i}": s[FIRST] for i in range(5000)}, "claims larger tensors"),
    "meta": (
        lambda t, s: {FIRST: t.empty(10**6, 10**6, device="meta")},
        "cannot be read|sparse tensors",
    ),
    "sparse": (lambda t, s: {FIRST: t.eye(3).to_sparse()}, "cannot be read|sparse tensors"),
    "quantized": (
        lambda t, s: {FIRST: t.quantize_per_tensor(t.ones(9), 0.1, 0, t.quint8)},
        "cannot be read|sparse tensors",
    ),
    "many filters": (lambda t, s: {FIRST: t.ones(3000, 3, 1, 1)}, "claims .* weights or more"),
    "NaN": (lambda t, s: {FIRST: s[FIRST] * float("nan")}, f"{FIRST} holds NaN or infinity"),
    "infinity": (lambda t, s: {FIRST: s[FIRST] / 0}, f"{FIRST} holds NaN or infinity"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors(generator, tmp_path, name, zipped):
    torch = pytest.importorskip("torch", reason="the authors' .pth files need PyTorch")
    change, message = TENSORS[name]
    state = torch_state(generator, tmp_path, torch)
    state |= change(torch, state)
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    refused(load_generator, tmp_path / "net.pth", message)


def rezipped(data, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name in parts:
        if name.endswith("data.pkl"):
            parts[name] = change(parts[name])
    return packed(parts.items(), compression)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PTH = {
    "deflated": lambda data: rezipped(data, lambda p: p, zipfile.ZIP_DEFLATED),
    "a pickle of blanks": lambda data: rezipped(data, lambda p: p[:2] + b"N0" * 10**6 + p[2:]),
    "cut": lambda data: data[: len(data) // 2],
    "no pickle": lambda data: rezipped(data, lambda p: b""),
    "exec": lambda data: rezipped(data, lambda p: pickle.dumps(Call(exec, "1/0"), 2)),
    "open": lambda data: rezipped(data, lambda p: pickle.dumps(Call(open, "out", "w"), 2)),
    "exec, plain": lambda data: pickle.dumps(Call(exec, "1/0"), 2),
    "zip of nothing": lambda data: packed([]),
}


@pytest.mark.parametrize("name", PTH)
def test_pth_files(generator, tmp_path, name):
    pytest.importorskip("torch", reason="the authors' .pth files need PyTorch")
    path = tmp_path / "net.pth"
    save_torch(generator, path)
    path.write_bytes(PTH[name](path.read_bytes()))
    refused(load_generator, path, "net.pth cannot be read as PyTorch weights")


# === Valid files ===


@pytest.mark.parametrize("suffix", [".keras", ".KERAS", ".pth", ".PTH", ".pt", ".Pt"])
def test_the_suffix_may_be_in_capitals(generator, sound, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix.lower() == ".keras":
        path.write_bytes(packed(sound.items()))
    else:
        pytest.importorskip("torch", reason="the authors' .pth files need PyTorch")
        save_torch(generator, path)
    loaded = load_generator(path)
    for ours, theirs in zip(generator.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_feature_networks_with_capitals(sound_h5, tmp_path):
    Path(tmp_path, "NET.H5").write_bytes(sound_h5)
    assert load_features(str(tmp_path / "NET.H5")).name == "NET.H5"
