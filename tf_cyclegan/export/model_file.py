"""Edits, reads and checks .tflite files without running them."""

import json
from collections import Counter
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from tf_cyclegan.export import lite_metadata

DESCRIPTION = "tf_cyclegan"  # the metadata buffer that holds the description as JSON

# The operators of our generators, with the versions that XNNPACK and LiteRT's GPU backends support.
# Version 6 of DEPTHWISE_CONV_2D has 8-bit weights and float inputs, and runs without XNNPACK on a
# CPU: the dynamic mode of separable generators with 29 filters or more has it.
ALLOWED = {
    "ADD": 2, "CONCATENATION": 2, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "DEQUANTIZE": 3,
    "LEAKY_RELU": 2, "MEAN": 2, "MINIMUM": 1, "MUL": 2, "PAD": 2, "QUANTIZE": 2, "RELU": 2,
    "RESHAPE": 1, "RSQRT": 2, "SLICE": 2, "STRIDED_SLICE": 2, "SUB": 2, "TANH": 2,
    "TRANSPOSE_CONV": 3,
}  # fmt: skip
MOST_JOINED = 4  # maximum number of tensors that a GPU concatenates


def seal(content: bytes, description: dict[str, Any]) -> bytes:
    """Writes the description into a converted file, and enforces a fixed size.

    If you resized the input of a fixed-size file, it would run and silently give a wrong image,
    because its slices hold the original size. So the input is reshaped to that size, and the
    minimum of both, which is the input itself, goes on; at any other size one of the two operators
    fails when tensors are allocated. A resizable file gets the described size as its initial one.

    Args:
        content: a .tflite file with one input `[1, h, w, c]`.
        description: from `tf_cyclegan.export.tflite.describe`, with its mode.

    Returns:
        The file's new content.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    if description["resizable"]:
        image = graph.tensors[graph.inputs[0]]
        image.shape = [1, description["height"], description["width"], image.shape[3]]
    else:
        _guard(model, graph)
    notes = {
        lite_metadata.NAME: lite_metadata.standard_metadata(description),
        DESCRIPTION: json.dumps(description).encode(),
    }
    for name, note in notes.items():
        model.buffers.append(schema.BufferT(data=list(note)))
        entry = schema.MetadataT(name=name.encode(), buffer=len(model.buffers) - 1)
        model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _guard(model, graph):
    checked = graph.inputs[0]  # the network reads this tensor, now the output of the check
    shape = graph.tensors[checked].shape

    def tensor(name, kind, shape, buffer=0):
        new = schema.TensorT(name=name, type=kind, shape=list(shape), buffer=buffer)
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def operator(code, inputs, output, options_type, options):
        model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)
        )
        return schema.OperatorT(
            opcodeIndex=len(model.operatorCodes) - 1,
            inputs=inputs,
            outputs=[output],
            builtinOptionsType=options_type,
            builtinOptions=options,
        )

    model.buffers.append(schema.BufferT(data=list(np.array(shape, np.int32).tobytes())))
    sizes = tensor(b"own_shape", schema.TensorType.INT32, [4], len(model.buffers) - 1)
    image = tensor(b"image", schema.TensorType.FLOAT32, shape)
    reshaped = tensor(b"image_reshaped", schema.TensorType.FLOAT32, shape)
    graph.operators[:0] = [
        operator(
            schema.BuiltinOperator.RESHAPE,
            [image, sizes],
            reshaped,
            schema.BuiltinOptions.ReshapeOptions,
            schema.ReshapeOptionsT(newShape=list(shape)),
        ),
        operator(
            schema.BuiltinOperator.MINIMUM,
            [image, reshaped],
            checked,
            schema.BuiltinOptions.MaximumMinimumOptions,
            schema.MaximumMinimumOptionsT(),
        ),
    ]
    graph.inputs = [image]
    model.signatureDefs[0].inputs[0].tensorIndex = image


def read_description(content: bytes) -> dict[str, Any]:
    """Reads the description that `seal` wrote.

    Raises:
        ValueError: it is not a .tflite file, or has no description.
    """
    model = _parsed(content)
    for entry in model.metadata or []:
        if entry.name.decode() == DESCRIPTION:
            return json.loads(bytes(model.buffers[entry.buffer].data))
    raise ValueError("the file has no description: export it with tf-cyclegan export tflite.")


def operators(content: bytes) -> Counter[str]:
    """Counts each operator; custom ones have their own names, such as "FlexTile"."""
    model = _parsed(content)
    return Counter(
        _name(model.operatorCodes[operator.opcodeIndex])
        for graph in model.subgraphs
        for operator in graph.operators
    )


def check_operators(content: bytes) -> None:
    """Checks that XNNPACK and LiteRT's GPU backends support all of a fixed-size file.

    The file may only hold known operators and versions, tensors of at most rank 4 with a known
    shape, and concatenations of at most 4. TensorFlow's own analyzer accepts any file
    (tensorflow/tensorflow#77042).

    Raises:
        ValueError: something is not supported; the message names the first case.
    """
    model = _parsed(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            shape = [] if tensor.shape is None else list(tensor.shape)
            if len(shape) > 4:
                raise ValueError(f"{tensor.name.decode()} has rank {len(shape)}: 4 is the maximum.")
            if tensor.shapeSignature is not None and -1 in list(tensor.shapeSignature):
                raise ValueError(f"{tensor.name.decode()} has no fixed shape.")
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = _name(code)
            if name not in ALLOWED:
                raise ValueError(
                    f"{name} is not one of the operators that are tested on XNNPACK and GPUs: use "
                    "other layers, or --resizable for a file for CPUs."
                )
            if code.version > ALLOWED[name]:
                raise ValueError(f"{name} has version {code.version}: use at most {ALLOWED[name]}.")
            if name == "CONCATENATION" and len(operator.inputs) > MOST_JOINED:
                raise ValueError(f"CONCATENATION of {len(operator.inputs)}: {MOST_JOINED} at most.")


def _parsed(content):
    if content[4:8] != b"TFL3":
        raise ValueError("it is not a .tflite file: write one with tf-cyclegan export tflite.")
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def _name(code):
    if code.customCode:
        return code.customCode.decode()
    number = flatbuffer_utils.get_builtin_code_from_operator_code(code)
    return next(k for k, v in vars(schema.BuiltinOperator).items() if v == number)
