"""Exports a generator to an ONNX file, with Keras' own exporter."""

import json
import os
from pathlib import Path

import keras
import numpy as np

from tf_cyclegan.export.compare import Runner, difference, keras_runner
from tf_cyclegan.export.description import describe_generator
from tf_cyclegan.files import one_line, temporary_folder, write_files
from tf_cyclegan.generators import with_size_check

LARGEST = 1e-3  # maximum difference to Keras
TRIES = 5


def export_onnx(
    generator,
    path: Path,
    image: np.ndarray,
    name: str | None = None,
    direction: str | None = None,
) -> dict[str, float]:
    """Writes a generator as ONNX atomically, after comparing ONNX Runtime with Keras.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        path: the file. It maps `image`, float32 `[batch, height, width, c]` in [-1, 1] with
            height and width multiples of `generator.multiple`, to `fake`, `[batch, height, width,
            c']`. Other sizes fail at a node whose name contains the multiple.
        image: `[1, h, w, c]`, for the comparison.
        name, direction: for the file's metadata, which are those of `describe_generator`.

    Returns:
        The `difference` to Keras on the image.

    Raises:
        ValueError: the difference is larger than LARGEST, the file's output has another shape, or
            the file cannot be written.
    """
    image_in = keras.Input((None, None, generator.input_channels), name="image")
    named = keras.Model({"image": image_in}, {"fake": with_size_check(generator, image_in)})
    with temporary_folder() as folder:
        part = Path(folder) / "part.onnx"
        named({"image": image})  # the exporter needs a model that was called
        expected = keras_runner(generator)(image)
        # The order of tf2onnx's optimizer varies: in a few percent of the exports of a generator
        # of gray images, the output has an extra dimension.
        for _ in range(TRIES):
            named.export(part, format="onnx", verbose=False)
            _describe(part, describe_generator(generator, name or path.stem, direction))
            fake = onnx_runner(part)(image)
            if fake.shape == expected.shape:
                break
        apart = difference([fake], [expected])
        if not apart["max"] <= LARGEST:  # also true for NaN
            raise ValueError(f"ONNX Runtime is {apart['max']:.1e} from Keras: nothing was written.")
        write_files(path.parent, {path.name: part.read_bytes()})
    return apart


def _describe(path, description):
    """Names the free dimensions, and writes metadata: text unchanged, everything else as JSON."""
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
    """Loads an exported ONNX file in ONNX Runtime, on all CPU cores.

    Raises:
        ValueError: it is not an ONNX file; or later, the model rejects an image.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    options.log_severity_level = 4  # errors are raised, so they are not logged
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no narrower base class
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None

    def run(image):
        try:
            return session.run(None, {"image": image})[0]
        except Exception as error:
            raise ValueError(f"the file does not take {image.shape}: {one_line(error)}") from None

    return run
