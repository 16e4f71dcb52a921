"""A generator as an ONNX file, by Keras' own exporter."""

import json
import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from tf_cyclegan.export.compare import Runner, difference, keras_runner
from tf_cyclegan.export.description import describe_generator
from tf_cyclegan.files import write_files

LARGEST = 1e-3  # difference to Keras
TRIES = 5


def export_onnx(
    generator,
    path: Path,
    image: np.ndarray,
    name: str | None = None,
    direction: str | None = None,
) -> dict[str, float]:
    """Writes a generator as ONNX, whole or not at all, once ONNX Runtime has run it.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        path: the file. It takes `image`, float32 `[batch, height, width, c]` in [-1, 1] with
            height and width multiples of `generator.multiple`, and gives `fake`, `[batch, height,
            width, c']`. Other sizes make it fail, at a node that is named for the multiple.
        image: `[1, h, w, c]` to compare on.
        name, direction: for the file's metadata, which are those of `describe_generator`.

    Returns:
        The `difference` to Keras on the image.

    Raises:
        ValueError: that is larger than LARGEST, the file's images have another shape, or it
            cannot be written.
    """
    image_in = keras.Input((None, None, generator.input_channels), name="image")
    named = keras.Model({"image": image_in}, {"fake": generator(image_in)})
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.onnx"
        named({"image": image})  # the exporter wants a model that was called
        expected = keras_runner(generator)(image)
        # tf2onnx' optimizer, whose order varies, leaves a dimension too many in some percent of
        # the exports of a generator of gray images.
        for _ in range(TRIES):
            named.export(part, format="onnx", verbose=False)
            _describe(part, describe_generator(generator, name or path.stem, direction))
            fake = onnx_runner(part)(image)
            if fake.shape == expected.shape:
                break
        apart = difference([fake], [expected])
        if not apart["max"] <= LARGEST:  # NaN is not
            raise ValueError(f"ONNX Runtime is {apart['max']:.1e} from Keras: nothing was written.")
        write_files(path.parent, {path.name: part.read_bytes()})
    return apart


def _describe(path, description):
    """Names the free dimensions, and writes metadata: text as it is, all else as JSON."""
    import onnx

    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        sides = value.type.tensor_type.shape.dim[:3]
        for dimension, name in zip(sides, ("batch", "height", "width"), strict=True):
            dimension.dim_param = name
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in description.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)


def onnx_runner(path: Path) -> Runner:
    """An ONNX file of ours in ONNX Runtime on all cores of the CPU.

    Raises:
        ValueError: it is no ONNX file; or later, on an image that it does not take.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    options.log_severity_level = 4  # errors are raised, and need not be logged too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds have no other base
        raise ValueError(f"{path} cannot be read: {_one_line(error)}") from None

    def run(image):
        try:
            return session.run(None, {"image": image})[0]
        except Exception as error:
            raise ValueError(f"the file does not take {image.shape}: {_one_line(error)}") from None

    return run


def _one_line(error):
    return " ".join(str(error).split())
