"""Tests the size check and the operator check of .tflite files, and what each must refuse."""

import json
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from cases import CASES, make
from flatbuffers.number_types import Float32Flags, Int8Flags, Uint32Flags
from flatbuffers.table import Table

from tf_cyclegan.export import lite_metadata
from tf_cyclegan.export.model_file import check_operators, operators, read_description, seal
from tf_cyclegan.export.tflite import convert, describe
from tf_cyclegan.layers import ReflectionPadding2D

FIXED = describe(make(CASES["resnet"]), "öl", "a2b", 16, resizable=False) | {"mode": "float32"}
ANY = FIXED | {"resizable": True}


@pytest.fixture(scope="module")
def generator():
    return make(CASES["resnet_resize"])


@pytest.fixture(scope="module")
def fixed(generator):
    return convert(generator, "float32", 16)


@pytest.fixture(scope="module")
def resizable(generator):
    return convert(generator, "float32", None)


def converted(*layers, shape=(1, 16, 16, 3), flex=False):
    """Converts Keras layers to a .tflite file in the standard way, without our export code."""
    model = keras.Sequential([keras.Input(shape[1:]), *layers])
    with tempfile.TemporaryDirectory() as folder:
        signature = [keras.InputSpec(shape=shape, dtype="float32")]
        model.export(folder, input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if flex:
            sets = tf.lite.OpsSet
            converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
        return converter.convert()


def allocate(content, shape, resolver=OpResolverType.AUTO):
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


# === seal ===


def test_description_is_kept(fixed):
    assert read_description(seal(fixed, FIXED)) == FIXED
    with pytest.raises(ValueError, match="has no description"):
        read_description(fixed)


RESOLVERS = [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES]


@pytest.mark.parametrize("resolver", RESOLVERS, ids=["xnnpack", "plain"])
@pytest.mark.parametrize("height, width", [(32, 32), (8, 8), (8, 32), (32, 8), (1, 256)])
def test_a_fixed_size_file_refuses_every_other_size(fixed, resolver, height, width):
    sealed = seal(fixed, FIXED)
    allocate(sealed, (1, 16, 16, 3), resolver)
    with pytest.raises(RuntimeError, match="failed to (prepare|reshape)"):
        allocate(sealed, (1, height, width, 3), resolver)


def test_without_the_seal_another_size_is_silently_wrong(generator, fixed):
    """Shows why the seal is needed: if this test ever fails, the seal can be removed."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    interpreter = allocate(fixed, image.shape)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    wrong = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.abs(wrong - generator(image)).max() > 0.1


def test_a_resizable_file_takes_any_size_and_starts_with_its_own(generator, resizable):
    sealed = seal(resizable, ANY)
    for height, width in ((16, 16), (8, 12), (32, 20)):
        image = np.random.default_rng(0).uniform(-1, 1, (1, height, width, 3)).astype(np.float32)
        interpreter = allocate(sealed, image.shape)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        fake = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(fake, generator(image), atol=1e-4)
    details = Interpreter(model_content=sealed).get_input_details()[0]
    assert list(details["shape"]) == [1, 16, 16, 3]
    assert list(details["shape_signature"]) == [1, -1, -1, 3]


def slot(table, number):
    """Returns the position of a slot in a flatbuffer's table."""
    offset = table.Offset(4 + 2 * number)
    assert offset, f"slot {number} is empty"
    return table.Pos + offset


def follow(table, *numbers):
    """Returns the table at the end of a path of slots; of a list, it takes the first entry."""
    for number, is_list in numbers:
        position = table.Indirect(slot(table, number))
        if is_list:
            position = table.Indirect(position + 4)  # skips the list's length
        table = Table(table.Bytes, position)
    return table


def text(table, number):
    return table.String(slot(table, number)).decode()


def number(table, slot_number):
    return table.Get(Float32Flags, table.Vector(slot(table, slot_number) - table.Pos))


def test_the_standard_metadata_says_the_same(fixed):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(seal(fixed, FIXED)))
    entry = next(e for e in model.metadata if e.name == b"TFLITE_METADATA")
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    root = Table(content, int.from_bytes(content[:4], "little"))
    assert text(root, 0) == "öl"
    graph = follow(root, (3, True))
    assert text(graph, 0) == "a2b"
    image = follow(graph, (2, True))
    assert text(image, 0) == "image" and text(follow(graph, (3, True)), 0) == "fake"
    properties = follow(image, (3, False), (1, False))
    assert properties.Get(Int8Flags, slot(properties, 0)) == 1  # RGB
    size = follow(properties, (1, False))
    assert [size.Get(Uint32Flags, slot(size, i)) for i in (0, 1)] == [16, 16]
    normalization = follow(image, (4, True), (1, False))
    stats = follow(image, (5, False))
    assert [number(normalization, i) for i in (0, 1)] == [127.5, 127.5]
    assert [number(stats, i) for i in (0, 1)] == [1, -1]


def test_metadata_name_width_and_height():
    wide = describe(make(CASES["resnet"]), "wide", "a2b", (16, 24), resizable=False)
    content = lite_metadata.standard_metadata(wide | {"mode": "float32"})
    root = Table(content, int.from_bytes(content[:4], "little"))
    assert "24x16 pixels" in text(root, 1)
    size = follow(root, (3, True), (2, True), (3, False), (1, False), (1, False))
    assert [size.Get(Uint32Flags, slot(size, i)) for i in (0, 1)] == [24, 16]


def test_signature_names_are_kept(fixed):
    for content in (fixed, seal(fixed, FIXED)):
        signatures = Interpreter(model_content=content).get_signature_list()
        assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["image"]}}


# === check_operators ===


def test_our_files_pass(fixed):
    check_operators(seal(fixed, FIXED))
    counts = operators(seal(fixed, FIXED))
    assert counts["TRANSPOSE_CONV"] == 2 and counts["CONV_2D"] == 6
    assert counts["RESHAPE"] == counts["MINIMUM"] == 1


def test_any_size_is_refused(resizable):
    with pytest.raises(ValueError, match="has no fixed shape"):
        check_operators(seal(resizable, ANY))


REFUSED = {
    "rank 5": ([keras.layers.GroupNormalization(groups=-1)], "has rank 5"),
    "upsampling": ([keras.layers.UpSampling2D(2)], "has rank 5"),
    "mirror padding": ([ReflectionPadding2D(1)], "MIRROR_PAD is not one of the operators"),
    "another operator": ([keras.layers.Activation("gelu")], "is not one of the operators"),
}


@pytest.mark.parametrize("layers, cause", REFUSED.values(), ids=REFUSED)
def test_what_not_every_backend_takes_is_refused(layers, cause):
    with pytest.raises(ValueError, match=cause):
        check_operators(converted(*layers))


def test_an_open_batch_is_refused():
    with pytest.raises(ValueError, match="has no fixed shape"):
        check_operators(converted(keras.layers.Conv2D(2, 3), shape=(None, 16, 16, 3)))


def test_tensorflows_own_operators_are_refused():
    content = converted(keras.layers.Lambda(tf.math.cumprod), flex=True)
    assert operators(content)["FlexCumprod"] == 1
    with pytest.raises(ValueError, match="FlexCumprod is not one of the operators"):
        check_operators(content)


def edited(content, edit):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    edit(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_a_newer_operator_is_refused(fixed):
    def newer(model):
        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.TRANSPOSE_CONV:
                code.version = 4

    with pytest.raises(ValueError, match="TRANSPOSE_CONV has version 4: use at most 3"):
        check_operators(edited(fixed, newer))


def test_a_concatenation_of_five_is_refused(fixed):
    def longer(model):
        names = [c.builtinCode for c in model.operatorCodes]
        joining = names.index(schema.BuiltinOperator.CONCATENATION)
        graph = model.subgraphs[0]
        next(o for o in graph.operators if o.opcodeIndex == joining).inputs = [0] * 5

    with pytest.raises(ValueError, match="CONCATENATION of 5: 4 at most"):
        check_operators(edited(fixed, longer))


@pytest.mark.parametrize("content", [b"", b"no model", json.dumps(FIXED).encode()])
def test_what_is_no_file_is_named(content):
    with pytest.raises(ValueError, match="not a .tflite file"):
        check_operators(content)
