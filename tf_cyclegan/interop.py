"""Reads and writes weights of the authors' PyTorch code (junyanz/pytorch-CycleGAN-and-pix2pix).

The file is a `state_dict`, such as `latest_net_G_A.pth`; its architecture is recognized by the
names and shapes of its tensors. Kernels are converted between PyTorch's (out, in, h, w) (transposed
convolutions: (in, out, h, w)) and Keras' (h, w, in, out) (transposed: (h, w, out, in)). Reading and
writing the files needs PyTorch: `pip install "tf_cyclegan[torch]"`.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from tf_cyclegan.discriminators import PatchDiscriminator, PixelDiscriminator
from tf_cyclegan.files import whole_file
from tf_cyclegan.generators import ResNetGenerator, UNetGenerator
from tf_cyclegan.model_archive import check_finite, load_model, reason, weights_bounded

# Our name of each network -> the authors'. Their D_A is for domain b, their D_B for domain a.
AUTHORS = {"a2b": "G_A", "b2a": "G_B", "d_a": "D_B", "d_b": "D_A"}
STALE = ("running_mean", "running_var", "num_batches_tracked")
MAX_PICKLE = 2**20  # bytes; a tensor takes about 300


def load_generator(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a generator: a `.keras` file, or a `.pth` file of the authors' code.

    Args:
        path: a file.

    Returns:
        A built `ResNetGenerator` or `UNetGenerator` (or any generator saved as `.keras`).

    Raises:
        ValueError: the file is missing, is of neither kind, or holds something else.
    """
    return _load(path, _generator_of, (PatchDiscriminator, PixelDiscriminator))


def load_discriminator(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a discriminator: a `.keras` file, or a `.pth` file of the authors' code.

    Args:
        path: a file.

    Returns:
        A built `PatchDiscriminator` or `PixelDiscriminator` (or any saved as `.keras`).

    Raises:
        ValueError: the file is missing, is of neither kind, or holds something else.
    """
    return _load(path, _discriminator_of, (ResNetGenerator, UNetGenerator))


def save_torch(network: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes a network in the format of the authors' code.

    Args:
        network: a built generator or discriminator of this package.
        path: the file to write, `*.pth`. An existing file is replaced atomically.

    Raises:
        ValueError: the authors' code has no such network (`upsampling="resize"`).
    """
    torch = _torch()
    state = {}
    for name, array in to_state_dict(network).items():
        # torch needs a writable copy in C order
        state[name] = torch.from_numpy(np.array(array, order="C"))
    with whole_file(path) as part:
        torch.save(state, part)


def from_state_dict(network: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Sets the weights of a built network from a PyTorch `state_dict`.

    Args:
        network: a built generator or discriminator of this package.
        state: a dict of name to array.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs. Then no weight is set.
    """
    state = dict(state)
    values = []
    for layer, prefix in torch_layers(network):
        for variable, suffix, order in _torch_weights(layer):
            name = f"{prefix}.{suffix}"
            if name not in state:
                raise ValueError(f"The file lacks {name} of a {type(network).__name__}.")
            array = np.asarray(state.pop(name))
            array = array if order is None else array.transpose(order)
            if array.shape != tuple(variable.shape):
                raise ValueError(
                    f"{name} has the shape {array.shape}, but needs {tuple(variable.shape)}."
                )
            values.append((variable, array))
    left = [name for name in state if not name.endswith(STALE)]
    if left:
        raise ValueError(f"The file has {left[0]}, which is not in a {type(network).__name__}.")
    for variable, array in values:
        variable.assign(array)


def to_state_dict(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of a built network by PyTorch's names, in PyTorch's order and layout.

    Args:
        network: a built generator or discriminator of this package.

    Returns:
        A dict of name to NumPy array.

    Raises:
        ValueError: the network has no counterpart in the authors' code.
    """
    state = {}
    for layer, prefix in torch_layers(network):
        for variable, suffix, order in _torch_weights(layer):
            array = np.asarray(variable)
            # argsort gives the inverse permutation
            state[f"{prefix}.{suffix}"] = (
                array if order is None else array.transpose(np.argsort(order))
            )
        if isinstance(layer, keras.layers.BatchNormalization):
            state[f"{prefix}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def torch_layers(network: keras.Model) -> list[tuple[keras.Layer, str]]:
    """Returns (layer, name in the authors' code) for each layer that has weights.

    Args:
        network: a built generator or discriminator of this package.

    Raises:
        ValueError: the network has no counterpart in the authors' code.
    """
    if isinstance(network, ResNetGenerator):
        if network.upsampling != "transpose":
            raise ValueError(
                f"upsampling={network.upsampling!r} does not exist in the authors' code: only "
                "generators with upsampling='transpose' can be written for it."
            )
        if network.kernel != 7:
            raise ValueError(
                f"kernel={network.kernel} does not exist in the authors' code: only generators "
                "with kernel=7 can be written for it."
            )
        return _resnet_layers(network)
    if isinstance(network, UNetGenerator):
        return _unet_layers(network)
    if getattr(network, "norm", None) == "spectral":
        raise ValueError(
            "norm='spectral' does not exist in the authors' code: only discriminators with another "
            "norm can be written for it."
        )
    if isinstance(network, PatchDiscriminator):
        # conv, LeakyReLU, then conv, norm, LeakyReLU for each level, then conv
        levels = range(network.strided_layers + 2)
        return _number(network.stack.layers, "model", [0, *(3 * i - 1 for i in levels[1:])])
    if isinstance(network, PixelDiscriminator):
        return _number(network.stack.layers, "net", [0, 2, 5])
    raise ValueError(f"{type(network).__name__} has no counterpart in the authors' code.")


def _resnet_layers(network: ResNetGenerator) -> list[tuple[keras.Layer, str]]:
    pairs = _number(network.encoder.layers, "model", [1, 4, 7])
    convolutions = (1, 6) if network.dropout else (1, 5)
    for i, block in enumerate(network.transformer.layers if network.blocks else []):
        pairs += _number(block.body.layers, f"model.{10 + i}.conv_block", convolutions)
    first = 10 + network.blocks
    return pairs + _number(network.decoder.layers, "model", [first, first + 3, first + 7])


def _unet_layers(network: UNetGenerator) -> list[tuple[keras.Layer, str]]:
    # In the authors' U-Net, each level contains the next one between its two halves.
    downs: list[tuple[keras.Layer, str]] = []
    ups: list[tuple[keras.Layer, str]] = []
    prefix = "model"
    last = network.depth - 1
    for level, (down, up) in enumerate(zip(network.down_blocks, network.up_blocks, strict=True)):
        prefix += ".model"
        downs += _number(down.layers, prefix, [0 if level == 0 else 1])
        ups = _number(up.layers, prefix, [3 if level in (0, last) else 5]) + ups
        prefix += ".1" if level == 0 else ".3"
    return downs + ups


def _number(
    layers: Sequence[keras.Layer], prefix: str, numbers: Iterable[int]
) -> list[tuple[keras.Layer, str]]:
    """Names convolutions by `numbers`, and each batch norm by the number after its convolution."""
    pairs, numbers, number = [], iter(numbers), 0
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
            number = next(numbers)
            pairs.append((layer, f"{prefix}.{number}"))
        elif isinstance(layer, keras.layers.BatchNormalization):
            pairs.append((layer, f"{prefix}.{number + 1}"))
    return pairs


def _torch_weights(
    layer: keras.Layer,
) -> list[tuple[keras.Variable, str, tuple[int, ...] | None]]:
    """Returns (variable, PyTorch's suffix, permutation of axes from PyTorch to Keras) triples."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return [
            (layer.gamma, "weight", None),
            (layer.beta, "bias", None),
            (layer.moving_mean, "running_mean", None),
            (layer.moving_variance, "running_var", None),
        ]
    # (out, in, h, w) -> (h, w, in, out), and (in, out, h, w) -> (h, w, out, in) transposed
    weights = [(layer.kernel, "weight", (2, 3, 1, 0))]
    return weights + ([(layer.bias, "bias", None)] if layer.use_bias else [])


def _load(
    path: str | os.PathLike[str],
    recognise: Callable[[dict[str, np.ndarray]], tuple[keras.Model, int]],
    strangers: tuple[type, ...],
) -> keras.Model:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a .keras file or a .pth file.")
    suffix = path.suffix.lower()
    if suffix == ".keras":
        network = _read_keras(path)
        if isinstance(network, strangers):
            raise ValueError(f"{path} holds a {type(network).__name__}: give another file.")
        return network
    if suffix not in (".pth", ".pt"):
        raise ValueError(f"{path} is neither a .keras nor a .pth file.")
    state = _read_state(path)
    try:
        for name, array in state.items():
            check_finite(name, array)
        with weights_bounded(sum(array.size for array in state.values())):
            network, channels = recognise(state)
            network.build((None, None, None, channels))
        from_state_dict(network, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return network


def _read_keras(path: Path) -> keras.Model:
    try:
        return load_model(path)
    except Exception as error:  # Keras raises many kinds of errors for invalid files
        raise ValueError(f"{path} cannot be read as a Keras model: {reason(error)}") from None


def _read_state(path: Path) -> dict[str, np.ndarray]:
    torch = _torch()
    try:
        _check_archive(path)
        # weights_only unpickles only tensors, so that an untrusted file cannot run code
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch's message advises to load without weights_only
        raise ValueError(
            f"{path} cannot be read as PyTorch weights: it is damaged, or holds more than tensors, "
            "which is refused because it could run code."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ValueError(f"{path} contains no state_dict: save network.state_dict().")
    tensors = state.values()
    if any(v.is_meta or v.is_quantized or v.layout != torch.strided for v in tensors):
        raise ValueError(
            f"{path} holds meta, quantized or sparse tensors: save dense float32 weights."
        )
    # With strides of 0, or many views of one tensor, a small file can claim any size.
    if sum(v.numel() * v.element_size() for v in tensors) > path.stat().st_size:
        raise ValueError(f"{path} claims larger tensors than it holds: save it again.")
    # a network trained on several GPUs may have the prefix "module." in each name
    return {k.removeprefix("module."): v.detach().float().numpy() for k, v in state.items()}


def _check_archive(path: Path) -> None:
    """Raises a ValueError if a zip archive is compressed, or has oversized members or pickles."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # torch's own test; PyTorch before 1.6 wrote another format
            return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            limit = MAX_PICKLE if member.filename.endswith(".pkl") else path.stat().st_size
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > limit:
                raise ValueError(member.filename)


def _generator_of(state: dict[str, np.ndarray]) -> tuple[keras.Model, int]:
    """Returns an unbuilt generator that fits the state_dict, and the channels of its input."""
    kernels = _kernel_shapes(state)
    if "model.1.weight" in kernels and "model.4.weight" in kernels:
        filters, channels = kernels["model.1.weight"][:2]
        blocks = sum(bool(re.fullmatch(r"model\.\d+\.conv_block\.1\.weight", k)) for k in kernels)
        last = f"model.{17 + blocks}.weight"
        if last in kernels:
            generator = ResNetGenerator(
                filters,
                blocks,
                channels=kernels[last][0],
                norm=_norm_of(state, "model.1"),
                dropout=0.5 if "model.10.conv_block.6.weight" in kernels else 0.0,
            )
            return generator, channels
    if "model.model.0.weight" in kernels and "model.model.3.weight" in kernels:
        filters, channels = kernels["model.model.0.weight"][:2]
        halving = r"model\.model(\.[13]\.model)+\.1\.weight"  # all levels but the first
        generator = UNetGenerator(
            filters,
            depth=1 + sum(bool(re.fullmatch(halving, k)) for k in kernels),
            channels=kernels["model.model.3.weight"][1],
            norm=_norm_of(state, "model.model.1.model.1"),
        )
        return generator, channels
    raise ValueError("its tensor names match no generator of the authors' code.")


def _discriminator_of(state: dict[str, np.ndarray]) -> tuple[keras.Model, int]:
    """Returns an unbuilt discriminator that fits the state_dict, and the channels of its input."""
    kernels = _kernel_shapes(state)
    if "net.0.weight" in kernels:
        filters, channels = kernels["net.0.weight"][:2]
        return PixelDiscriminator(filters, norm=_norm_of(state, "net.2")), channels
    if "model.0.weight" in kernels:
        filters, channels = kernels["model.0.weight"][:2]
        layers = len(kernels) - 2
        return PatchDiscriminator(filters, layers, norm=_norm_of(state, "model.2")), channels
    raise ValueError("its tensor names match no discriminator of the authors' code.")


def _kernel_shapes(state: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of convolution kernels by name; batch norm weights have one axis."""
    return {name: array.shape for name, array in state.items() if array.ndim == 4}


def _norm_of(state: dict[str, np.ndarray], hidden: str) -> str:
    """Returns the norm: "batch" has weights, and before "instance" a hidden layer has a bias."""
    if any(name.endswith(".weight") and array.ndim == 1 for name, array in state.items()):
        return "batch"
    return "instance" if f"{hidden}.bias" in state else "none"


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError:
        raise ValueError(
            'The authors\' .pth files need PyTorch: pip install "tf_cyclegan[torch]"'
        ) from None
    return torch
