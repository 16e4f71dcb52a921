"""Safe loading of Keras model files of unknown origin: `.keras` and whole-model `.h5` files.

Keras builds the network of a file's config before it reads the weights, so a file of a few
kilobytes can request millions of layers, unpack to gigabytes, read other files or run code. Here a
file is checked first: its members and their sizes, its classes and numbers, and, while the network
is built, that the file contains every weight.
"""

import contextlib
import io
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

MAX_CONFIG = 2 * 2**20  # bytes; EfficientNetB7's has 760,000
MAX_WEIGHTS = 2 * 2**30  # bytes
MAX_OTHER = 64 * 2**20  # bytes of a weights file that are not weights
MAX_LINKS = 10_000  # names in a weights file; EfficientNetB7's has 2,666
MAX_OBJECTS = 10_000  # layers, initializers and so on; EfficientNetB7's config has 3,739
MAX_COUNT = 100  # for blocks, depth or layers of one network
MAX_NUMBER = 2**63  # Keras saves the memory addresses of shared objects
UNSAVED = 10_000  # values that a network may have beyond those of its file
MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]

# The classes of image networks. Other Keras classes can run code (Lambda), load other files
# (TFSMLayer, StringLookup) or unroll loops of any length (RNN).
CLASSES = frozenset(
    """
    Functional Model Sequential InputLayer __keras_tensor__ __tuple__ DTypePolicy Policy
    Activation Add Average AveragePooling2D BatchNormalization CenterCrop Concatenate Conv2D
    Conv2DTranspose Cropping2D CustomScaleLayer Dense DepthwiseConv2D Divide Dropout ELU Flatten
    GetItem GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization Identity
    LayerNormalization LayerScale LeakyReLU MaxPooling2D Maximum Mean Minimum Multiply
    Normalization PReLU Permute ReLU Rescaling Reshape Resizing SeparableConv2D Softmax
    SpatialDropout2D StochasticDepth Subtract TrueDivide UpSampling2D ZeroPadding2D
    Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform Ones
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    L1 L1L2 L2 MaxNorm MinMaxNorm NonNeg UnitNorm
    """.split()
)


def load_model(path: Path) -> keras.Model:
    """Loads a `.keras` or `.h5` file (suffix in lower or upper case) without training state.

    Only classes of image networks and classes registered in this process are loaded.

    Raises:
        ValueError: the file is damaged, too large, or claims more than it holds; or a weight is
            not finite. Keras' loader may raise other exceptions, too.
    """
    if path.suffix.lower() == ".h5":
        with h5py.File(path) as file:
            values = count_weights(file, path.stat().st_size)
            config = file.attrs.get("model_config")
        if config is None:
            raise ValueError("it holds only weights, no architecture")
        check_config(config)
    else:
        values = _check_keras(path)
    with weights_bounded(values), _lower_case(path) as lower:
        network = keras.saving.load_model(lower, compile=False)
    for variable in network.variables:
        check_finite(variable.path, variable.numpy())
    return network


def save(network: keras.Model, filepath, *args, **kwargs) -> None:
    """Saves a network like `keras.Model.save`, but rejects `.h5` files, which Keras cannot load.

    Raises:
        ValueError: the suffix is `.h5` or `.hdf5`.
    """
    if Path(filepath).suffix.lower() in (".h5", ".hdf5"):
        raise ValueError(
            f"{filepath}: Keras cannot load a {type(network).__name__} from an .h5 file: name it "
            "*.keras, or use save_weights for the weights alone."
        )
    keras.Model.save(network, filepath, *args, **kwargs)


def check_finite(name: str, values: np.ndarray) -> None:
    """Raises a ValueError with the name of the weight unless all its values are finite."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} holds NaN or infinity: training diverged, use an earlier checkpoint"
        )


def reason(error: Exception) -> str:
    """Returns the message of an error in one line of at most 300 characters."""
    text = str(error).rpartition("Exception encountered: ")[2] or type(error).__name__
    return " ".join(text.split())[:300]


def count_weights(file: h5py.File, size: int) -> int:
    """Returns the number of values in an open `.h5` file of `size` bytes.

    Raises:
        ValueError: the file links to other files, contains anything but plain arrays of numbers,
            or claims more than its size.
    """
    groups: list[h5py.Group] = [file]
    links = values = used = 0
    while groups:
        group = groups.pop()
        for name in group:
            links += 1
            if links > MAX_LINKS:
                raise ValueError(f"its weights have more than {MAX_LINKS} names")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link to another place: save the network again")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
                continue
            # Chunks can be compressed or of any size. Keras does not write them.
            if (
                not isinstance(item, h5py.Dataset)
                or item.shape is None
                or item.dtype.kind not in "fiub"
                or item.chunks is not None
                or item.external
                or item.is_virtual
            ):
                raise ValueError(f"{name} is not a plain array of numbers: save the network again")
            values += math.prod(item.shape)
            used += math.prod(item.shape) * item.dtype.itemsize
    if used > MAX_WEIGHTS:
        raise ValueError(f"{used} bytes of weights are more than {MAX_WEIGHTS}")
    if not 0 <= size - used <= MAX_OTHER:
        raise ValueError(f"it claims {used} bytes of weights, but the file has {size}")
    return values


def check_config(text: str | bytes) -> None:
    """Checks the JSON text that describes a network.

    Raises:
        ValueError: it is too long, not JSON, or contains a class or number that is not allowed.
    """
    if len(text) > MAX_CONFIG:
        raise ValueError(f"a config of {len(text)} characters is longer than {MAX_CONFIG}")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError("its config is not a JSON object")
    # Training settings, such as optimizers: `load_model` makes Keras pass over them.
    config.pop("compile_config", None)
    nodes, objects = [config], 0
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            _check_class(node)
            objects += "class_name" in node
            if objects > MAX_OBJECTS:
                raise ValueError(f"its config has more than {MAX_OBJECTS} objects")
            for key in ("blocks", "depth", "layers"):
                if isinstance(node.get(key), int | float) and abs(node[key]) > MAX_COUNT:
                    raise ValueError(f"{key}={node[key]} is more than {MAX_COUNT}")
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
        elif isinstance(node, int | float) and not abs(node) <= MAX_NUMBER:  # NaN too
            raise ValueError(f"the number {str(node)[:20]} is out of range")


def _check_class(node):
    """Raises a ValueError if this part of a config names a class that is not allowed."""
    name = node.get("class_name")
    if name is None or (isinstance(name, str) and name in CLASSES):
        return
    if name == "function" and node.get("module") == "builtins":
        return  # an activation, given by its name
    registered = keras.saving.get_registered_object(str(node.get("registered_name") or name))
    # Keras loads .h5 files by class_name alone, so both names must be those of one class.
    if registered is None or str(name).rpartition(">")[2] != registered.__name__:
        raise ValueError(
            f"it holds a {str(name)[:40]}, which is not loaded since it could run code or read "
            "files: use only layers of image networks"
        )


def _check_keras(path):
    """Checks a `.keras` file, and returns its number of values; a ValueError if it is invalid."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != MEMBERS:
                raise ValueError(f"it does not hold exactly {', '.join(MEMBERS)}")
            for member in members:
                name, size = member.filename, member.file_size
                limit = MAX_WEIGHTS + MAX_OTHER if name == MEMBERS[2] else MAX_CONFIG
                if size > limit:
                    raise ValueError(f"its {name} of {size} bytes is larger than {limit}")
                if member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"its {name} is compressed or encrypted: save it with Keras")
            check_config(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it is damaged or cut short ({error}): copy it again") from None
    with h5py.File(io.BytesIO(weights)) as file:
        return count_weights(file, len(weights))


@contextlib.contextmanager
def weights_bounded(values: int) -> Iterator[None]:
    """Limits the networks built in this context to about `values` weights.

    Raises:
        ValueError: a network has more weights. No memory is allocated for them.
    """
    graph, claimed = tf.Graph(), 0

    def count(create, **options):
        nonlocal claimed
        value = options["initial_value"]
        with graph.as_default():  # gives the shape without computing the value
            shape = np.shape(value() if callable(value) else value)
        claimed += tf.TensorShape(shape).num_elements()
        if claimed > values + UNSAVED:
            raise MemoryError
        return create(**options)

    try:
        with tf.variable_creator_scope(count):
            yield
    finally:
        if claimed > values + UNSAVED:  # Keras may have caught the exception
            raise ValueError(f"it claims {claimed} weights or more, but holds {values}") from None


@contextlib.contextmanager
def _lower_case(path):
    """Yields a path to the same content with a lower-case suffix, as Keras requires."""
    suffix = path.suffix.lower()
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copyfile(path, Path(folder, f"model{suffix}"))
