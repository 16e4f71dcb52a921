"""A generator as an ONNX file, by Keras' own exporter."""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from tf_cyclegan.export.compare import Runner, difference, keras_runner

LARGEST = 1e-3  # difference to Keras
TRIES = 5


def export_onnx(generator, path: Path, image: np.ndarray) -> dict[str, float]:
    """Writes a generator as ONNX, whole or not at all, once ONNX Runtime has run it.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        path: the file. It takes `image`, float32 `[n, h, w, c]` in [-1, 1] with h and w multiples
            of `generator.multiple`, and gives `fake`, `[n, h, w, c']`.
        image: `[1, h, w, c]` to compare on.

    Returns:
        The `difference` to Keras on the image.

    Raises:
        ValueError: that is larger than LARGEST, or the file's pictures have another shape.
    """
    image_in = keras.Input((None, None, generator.input_channels), name="image")
    named = keras.Model({"image": image_in}, {"fake": generator(image_in)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "part.onnx"
        named({"image": image})  # the exporter wants a model that was called
        expected = keras_runner(generator)(image)
        # tf2onnx' optimizer, whose order varies, leaves a dimension too many in some percent of
        # the exports of a generator of gray pictures.
        for _ in range(TRIES):
            named.export(part, format="onnx", verbose=False)
            fake = onnx_runner(part)(image)
            if fake.shape == expected.shape:
                break
        apart = difference([fake], [expected])
        if not apart["max"] <= LARGEST:  # NaN is not
            raise ValueError(f"ONNX Runtime is {apart['max']:.1e} from Keras: nothing was written.")
        os.replace(part, path)
    return apart


def onnx_runner(path: Path) -> Runner:
    """An ONNX file of ours in ONNX Runtime on all cores of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]
