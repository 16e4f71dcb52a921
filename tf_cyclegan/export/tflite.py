"""Exports a generator to LiteRT (TensorFlow Lite) files, and compares each with Keras."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tf_cyclegan.export.compare import (
    Runner,
    comparison_sheet,
    difference,
    keras_runner,
    latencies,
)
from tf_cyclegan.export.description import Size, describe_generator, sides, size_text
from tf_cyclegan.export.lite_form import lite_form
from tf_cyclegan.export.model_file import check_operators, operators, seal
from tf_cyclegan.export.multiply_adds import convolutions
from tf_cyclegan.files import temporary_folder

# Mode -> minimum PSNR against Keras, mean over the images, in dB over [-1, 1]: less than trained
# generators reach, but more than a wrong conversion.
MODES = {
    "float32": 60.0,
    "float16": 40.0,
    "dynamic": 25.0,
    "int8": 18.0,
    "int16x8": 25.0,
    "int8_convolutions": 20.0,
}
CALIBRATED = {"int8", "int16x8", "int8_convolutions"}  # need images to measure activation ranges


def parse_modes(text: str, resizable: bool = False) -> list[str]:
    """Parses a flag of comma-separated modes.

    Raises:
        ValueError: a mode is unknown, is given twice, or does not support resizable files.
    """
    modes = [mode.strip() for mode in text.split(",")]
    for mode in modes:
        check_mode(mode, resizable)
        if modes.count(mode) > 1:
            raise ValueError(f"mode {mode} is given twice: give it once.")
    return modes


def check_mode(mode: str, resizable: bool) -> None:
    """Raises a ValueError if a mode is unknown or does not support resizable files."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not known: use {', '.join(MODES)}.")
    if mode in CALIBRATED and resizable:
        raise ValueError(f"{mode} is calibrated at one size: leave --resizable out.")


def convert(
    generator, mode: str, size: Size | None, calibration: Sequence[np.ndarray] = ()
) -> bytes:
    """Converts a generator to one .tflite file, without description, seal or checks.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        mode: float32; float16 (weights; computed in float32 on a CPU); dynamic (int8 weights,
            activations quantized to int8 at run time); int8 (weights and activations, calibrated);
            int16x8 (16-bit activations, calibrated); int8_convolutions (int8, calibrated, only in
            the convolutions). Input and output are float32 in every mode.
        size: a side, or height and width; None for a file for any size.
        calibration: for the modes in CALIBRATED, images `[1, h, w, c]` in [-1, 1] that are typical
            inputs.

    Returns:
        The file's content.

    Raises:
        ValueError: the mode is unknown, calibration images are missing, or the size is not
            supported.
    """
    check_mode(mode, resizable=size is None)
    if mode in CALIBRATED and not calibration:
        raise ValueError(f"{mode} is calibrated on images: give a folder with --images.")
    form = lite_form(generator, size)
    with temporary_folder() as folder:
        # The converter's other entry points lose a Keras 3 model's weights, and give NaN.
        archive = keras.export.ExportArchive()
        archive.track(form)
        archive.add_endpoint(
            "serving_default",
            lambda image: {"image": form(image)},
            [tf.TensorSpec(form.input_shape, name="image")],
        )
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if mode not in ("float32", "int8_convolutions"):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if mode in ("int8", "int16x8"):
            converter.representative_dataset = lambda: ([image] for image in calibration)
        if mode == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        content = converter.convert()
    return _quantized_convolutions(content, calibration) if mode == "int8_convolutions" else content


def _quantized_convolutions(content, calibration):
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.qtyping import TFLOperationName

    quantizing = quantizer.Quantizer(content)
    for operation in (TFLOperationName.CONV_2D, TFLOperationName.CONV_2D_TRANSPOSE):
        quantizing.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    data = {"serving_default": [{"image": image} for image in calibration]}
    # It prints progress bars.
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(io.StringIO()):
        return bytes(quantizing.quantize(quantizing.calibrate(data)).quantized_model)


def export_files(
    generator,
    description: dict[str, Any],
    modes: Iterable[str],
    calibration: Sequence[np.ndarray],
    examples: Sequence[np.ndarray],
) -> tuple[dict[str, bytes], dict[str, Any], np.ndarray]:
    """Converts a generator in several modes, and compares every file with Keras.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        description: from `describe`.
        modes: some of MODES.
        calibration: images `[1, h, w, c]`, for the modes that need them.
        examples: images `[1, h, w, c]`, for the comparison.

    Returns:
        A dict from file name to content, a .tflite and a .json for each mode; the report, with
        differences to Keras, bytes, operators, XNNPACK partitions and latencies; and a contact
        sheet of all modes, uint8 `[h, w, 3]`.

    Raises:
        ValueError: a mode cannot be converted, gives NaN or is too far from Keras, or a backend
            does not support a fixed-size file.
    """
    size, resizable = (description["height"], description["width"]), description["resizable"]
    stem = start_of_name(description["direction"], size, resizable)
    run_keras = keras_runner(generator)
    references = [run_keras(image) for image in examples]
    runners: dict[str, Runner] = {"keras": run_keras}
    files: dict[str, bytes] = {}
    fakes: dict[str, list[np.ndarray]] = {}
    measured: dict[str, Any] = {}
    for mode in modes:
        own = description | {"mode": mode}
        content = convert(generator, mode, None if resizable else size, calibration)
        content = seal(content, own)
        if not resizable:
            check_operators(content)
        runners[mode] = run = LiteModel(content)
        fakes[mode] = [run(image) for image in examples]
        apart = difference(fakes[mode], references)
        if not apart["psnr"] >= MODES[mode]:  # also true for NaN
            raise ValueError(
                f"{mode}: {apart['psnr']:.1f} dB against Keras, {MODES[mode]:.0f} is the minimum: "
                "nothing was written; leave this mode out, or calibrate on other --images."
            )
        file = f"{stem}_{mode}.tflite"
        digest = hashlib.sha256(content).hexdigest()
        own |= {"file": file, "bytes": len(content), "sha256": digest}
        files[file] = content
        files[f"{stem}_{mode}.json"] = (json.dumps(own, indent=2) + "\n").encode()
        measured[mode] = {
            "file": file,
            "bytes": len(content),
            "difference": apart,
            "partitions": run.partitions(),
            "operators": dict(sorted(operators(content).items())),
        }
    for mode, milliseconds in latencies(runners, examples[0]).items():
        measured.setdefault(mode, {})["milliseconds"] = milliseconds
    report = description | {
        "calibration": len(calibration),
        "compared": len(examples),
        "keras_milliseconds": measured.pop("keras")["milliseconds"],
        "modes": measured,
    }
    return files, report, comparison_sheet(examples, references, fakes)


def describe(generator, name: str, direction: str, size: Size, resizable: bool) -> dict[str, Any]:
    """Returns `describe_generator` with the entries that only .tflite files have.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        name: the model's name.
        direction: "a2b" or "b2a".
        size: a side, or height and width; for a resizable file, the initial size.
        resizable: whether the file accepts other sizes, multiples of `multiple`.
    """
    height, width = sides(size)
    shape = (1, height, width, generator.input_channels)
    own = {
        "height": height,
        "width": width,
        "resizable": resizable,
        "weights": generator.count_params(),
        "multiply_adds": sum(convolutions(generator, shape)),  # at this height and width
    }
    return describe_generator(generator, name, direction) | own


def start_of_name(direction: str, size: Size, resizable: bool) -> str:
    """Returns the prefix of the file names for one direction and size, such as "a2b_256"."""
    return f"{direction}_{'resizable' if resizable else size_text(size)}"


class LiteModel:
    """A .tflite file in LiteRT's interpreter.

    Args:
        content: the file's content.
        threads: number of threads; by default, one for each CPU core.

    Call arguments:
        image: float32 `[1, h, w, c]`.

    Returns:
        float32 `[1, h, w, c']`.

    Raises:
        ValueError: the file does not take an image of this size.
    """

    def __init__(self, content: bytes, threads: int | None = None):
        threads = threads or os.cpu_count()
        self.interpreter = Interpreter(model_content=content, num_threads=threads)
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]
        self.shape: tuple[int, ...] = ()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        try:
            if image.shape != self.shape:
                self.shape = ()  # until the new size has run once
                self.interpreter.resize_tensor_input(self.input, image.shape)
                self.interpreter.allocate_tensors()
            self.interpreter.set_tensor(self.input, image)
            self.interpreter.invoke()  # a resizable file checks its shapes here
        except RuntimeError as error:
            raise ValueError(f"the file does not take {image.shape}: {error}") from None
        self.shape = image.shape
        return self.interpreter.get_tensor(self.output)

    def partitions(self) -> int:
        """Counts the XNNPACK partitions after a first call; other operators run without XNNPACK.

        Raises:
            RuntimeError: the model was not called yet.
        """
        # There is no public method for this.
        return sum(node["op_name"] == "DELEGATE" for node in self.interpreter._get_ops_details())
