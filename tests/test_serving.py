"""Tests export/serving: its client over gRPC and REST, and a local server with the C++ loader."""

import base64
import http.client
import importlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_cyclegan.data.image_files import (
    decode_image,
    read_image,
    to_channels,
    to_float,
    to_uint8,
    write_image,
)
from tf_cyclegan.export.saved_model import export_saved_model
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.inference.translator import translator

ROOT = Path(__file__).resolve().parents[1]
SERVING = ROOT / "export" / "serving"
MAX_PIXELS = 5000
MODEL = "seasons"

if sys.platform != "linux":
    pytest.skip("the loader's libraries have other names here", allow_module_level=True)


def needed(name):
    """Imports a package; without it, the tests are skipped, or fail in CI."""
    if os.environ.get("CI"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


grpc = needed("grpc")
model_service = needed("tensorflow_serving.apis.model_service_pb2_grpc")
prediction_service = needed("tensorflow_serving.apis.prediction_service_pb2_grpc")
metadata_pb2 = needed("tensorflow_serving.apis.get_model_metadata_pb2")
predict_pb2 = needed("tensorflow_serving.apis.predict_pb2")
status_pb2 = needed("tensorflow_serving.apis.get_model_status_pb2")


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"serving_{name}", SERVING / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and tyro look up a class's module there
    spec.loader.exec_module(module)
    return module


client = load_script("client")


def generator(seed=0):
    keras.utils.set_random_seed(seed)
    network = ResNetGenerator(filters=4, blocks=1)
    network.build((None, None, None, 3))
    # The initial weights of 0.02 would give nearly gray images.
    network.set_weights([10 * weight for weight in network.get_weights()])
    return network


def noise(height=12, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def environment():
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "no_proxy": "127.0.0.1",
    }


def start(folder, errors):
    command = [sys.executable, SERVING / "loader_server.py", f"--model_base_path={folder}"]
    with errors.open("w") as file:
        return subprocess.Popen(
            [*command, "--port=0", "--rest_api_port=0"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment(),
        )


@pytest.fixture(scope="module")
def a2b():
    return generator()


@pytest.fixture(scope="module")
def translate(a2b):
    return translator(a2b)


@pytest.fixture(scope="module")
def server(tmp_path_factory, a2b):
    """Serves two versions, 2 is a2b: {"grpc": host:port, "rest": host:port, "log": last line}."""
    folder = tmp_path_factory.mktemp("models") / MODEL
    export_saved_model(generator(seed=1), folder, 1, MAX_PIXELS)
    export_saved_model(a2b, folder, 2, MAX_PIXELS)
    errors = folder.parent / "errors.txt"
    process = start(folder, errors)
    lines = [process.stdout.readline() for _ in range(3)]
    if not lines[2]:
        pytest.fail(errors.read_text())
    ports = [re.search(r"127\.0\.0\.1:\d+", line)[0] for line in lines[:2]]
    yield {"grpc": ports[0], "rest": ports[1], "log": lines[2]}
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def channel(server):
    limits = [(f"grpc.max_{way}_message_length", 2**28) for way in ("receive", "send")]
    options = [*limits, ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(server["grpc"], options=options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service.PredictionServiceStub(channel)


def request(signature, array, version=None, model=MODEL):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    key = "image_bytes" if signature == "image_bytes" else "image"
    message.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return message


def png(image):
    return client.to_png(image)


def rest(server, path, body=None):
    """Sends a request, and returns the status code and the JSON of the response."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://{server['rest']}{path}", data, 60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def post(server, **body):
    return rest(server, f"/v1/models/{MODEL}:predict", body)


def close(fake, expected):
    return fake.shape == expected.shape and np.abs(fake.astype(int) - expected).max() <= 1


# === The client ===


def ask(ports, protocol, source, target, **options):
    options = {"server": ports[protocol], "model": MODEL} | options
    return client.main(
        client.Options(protocol=protocol, input=str(source), output=str(target), **options)
    )


@pytest.mark.parametrize("signature", ["image_bytes", "serving_default"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_writes_the_translation(
    server, translate, tmp_path, monkeypatch, protocol, signature
):
    """It comes from version 2, the newest. On loopback, the client ignores proxy settings."""
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    write_image(tmp_path / "a.png", noise(13, 19))
    assert ask(server, protocol, tmp_path / "a.png", tmp_path / "b.png", signature=signature) == 0
    assert close(read_image(tmp_path / "b.png"), translate(noise(13, 19)))


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tif", "jpg", "webp"])
def test_the_client_converts_what_the_server_does_not_take(server, translate, tmp_path, suffix):
    source = tmp_path / f"a.{suffix}"
    write_image(source, noise(13, 19))
    assert ask(server, "rest", source, tmp_path / "b.png") == 0
    assert close(read_image(tmp_path / "b.png"), translate(read_image(source)))


def test_the_client_sets_upright_and_puts_alpha_on_white(server, translate, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    image = noise(13, 19)
    Image.fromarray(image).save(tmp_path / "exif.png", exif=exif)
    clear = np.concatenate([image, image[:, :, :1]], -1)
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    for name, shape in (("exif.png", (19, 13, 3)), ("alpha.png", (13, 19, 3))):
        assert ask(server, "grpc", tmp_path / name, tmp_path / "b.png") == 0
        fake = read_image(tmp_path / "b.png")
        assert fake.shape == shape
        assert close(fake, translate(read_image(tmp_path / name)))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_what_goes_wrong_is_one_line(server, tmp_path, protocol):
    write_image(tmp_path / "a.png", noise())
    write_image(tmp_path / "large.png", noise(60, 100))
    (tmp_path / "text.png").write_text("no image")
    closed = {"server": "127.0.0.1:9"}
    other = {"server": server["rest" if protocol == "grpc" else "grpc"]}
    listener = socket.create_server(("127.0.0.1", 0))  # connects, but never responds
    silent = {"server": f"127.0.0.1:{listener.getsockname()[1]}", "timeout": 0.3}
    cases = [
        ("a.png", closed, r"127\.0\.0\.1:9 gave no translation .*refused.*check --server"),
        ("a.png", other, "gave no translation"),
        ("a.png", {"model": "nix"}, "Servable not found for request: Latest nix"),
        ("a.png", {"signature": "serving_default", "channels": 1}, "not compatible"),
        ("a.png", silent, "DEADLINE_EXCEEDED|timed out"),
        ("large.png", {}, "100 x 60 is more than 5000 pixels: scale the image down"),
        ("text.png", {}, "not a JPEG"),
        ("missing.png", {}, "no such file"),
    ]
    for name, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            ask(server, protocol, tmp_path / name, tmp_path / "b.png", **options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "b.png").exists()
    listener.close()


def test_the_command_ends_with_one_line_and_a_code(server, tmp_path):
    write_image(tmp_path / "a.png", noise())
    done = subprocess.run(
        [sys.executable, SERVING / "client.py", "--input=a.png", "--output=b.png"]
        + ["--protocol=rest", f"--server={server['rest']}", "--model=nix"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {server['rest']} gave no translation")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# === The protocol ===


def test_the_warm_up_was_replayed(server):
    assert server["log"] == f"{MODEL} 2: 2 warm-up requests\n"


def test_floats_come_bit_for_bit_through_the_loader(stub, a2b):
    graph = tf.function(
        lambda image: a2b(image, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3])],
    )
    image = to_float(np.stack([noise(64, 48, seed=seed) for seed in (1, 2)]))
    response = stub.Predict(request("", image))
    assert response.model_spec.version.value == 2
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["image"]), graph(image))


def test_status(server, channel):
    message = status_pb2.GetModelStatusRequest()
    message.model_spec.name = MODEL
    status = model_service.ModelServiceStub(channel).GetModelStatus(message)
    (version,) = status.model_version_status
    assert (version.version, version.state) == (2, version.AVAILABLE)
    code, answer = rest(server, f"/v1/models/{MODEL}")
    assert code == 200
    assert [(v["version"], v["state"]) for v in answer["model_version_status"]] == [
        ("2", "AVAILABLE")
    ]


def test_metadata(server, stub):
    message = metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = MODEL
    signatures = metadata_pb2.SignatureDefMap()
    assert stub.GetModelMetadata(message).metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "image_bytes"}
    image = signatures.signature_def["serving_default"].inputs["image"]
    assert image.dtype == tf.float32.as_datatype_enum
    assert [dim.size for dim in image.tensor_shape.dim] == [-1, -1, -1, 3]
    code, answer = rest(server, f"/v1/models/{MODEL}/versions/2/metadata")
    assert code == 200
    assert answer["model_spec"] == {"name": MODEL, "version": "2"}
    named = answer["metadata"]["signature_def"]["signature_def"]
    assert named["image_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"


def test_rest_by_rows_and_by_columns(server, translate):
    images = [noise(9, 10), noise(12, 8, seed=1)]
    rows = [{"b64": base64.b64encode(png(image)).decode()} for image in images]
    named = [{"image_bytes": row} for row in rows]
    for body, key in (
        ({"instances": rows}, "predictions"),
        ({"instances": named}, "predictions"),
        ({"inputs": rows}, "outputs"),
        ({"inputs": {"image_bytes": rows}}, "outputs"),
    ):
        code, answer = post(server, signature_name="image_bytes", **body)
        assert code == 200, answer
        for image, fake in zip(images, answer[key], strict=True):
            fake = decode_image(base64.b64decode(fake["b64"]))
            assert close(fake, translate(image))
    code, answer = post(server, instances=to_float(images[0])[np.newaxis].tolist())
    assert code == 200
    fake = np.array(answer["predictions"], np.float32)[0]
    assert close(to_uint8(fake), translate(images[0]))


def test_bad_requests_are_refused_and_the_server_lives_on(server, stub, translate):
    bad = {"b64": base64.b64encode(b"text").decode()}
    gray = to_channels(noise(), 1)
    for code, message, body in [
        (400, "not a JPEG", {"signature_name": "image_bytes", "instances": [bad]}),
        (400, "JSON Parse", {"signature_name": "image_bytes", "instances": [{"b64": "?"}]}),
        (400, "JSON Parse", {"signature_name": "image_bytes", "instances": [3]}),
        (400, "JSON Parse", {"instances": [[[[1, 2, 3]], [[1]]]]}),
        (400, "'nix' not found", {"signature_name": "nix", "instances": []}),
        (400, "not compatible", {"instances": [[[]]]}),
        (400, "JSON Parse", {"instances": [[[[10**400] * 3]]]}),
        (400, "not compatible", {"instances": to_float(gray)[np.newaxis].tolist()}),
        (400, "not compatible", {"instances": [[[[0.0] * 6] * 8] * 8]}),  # 2 groups of 3
        (400, "not compatible", {"instances": []}),
        (400, "float32 in [-1, 1]", {"instances": [[[[255.0] * 3] * 8] * 8]}),
        (400, "float32 in [-1, 1]", {"instances": [[[[float("nan")] * 3] * 8] * 8]}),
        (400, "more than 5000", {"instances": [[[[0.0] * 3] * 5001]]}),
    ]:
        answer = post(server, **body)
        assert answer[0] == code and message in answer[1]["error"], (body.keys(), answer)
    assert rest(server, "/v1/models/nix")[0] == 404
    assert rest(server, f"/v1/models/{MODEL}/versions/1")[0] == 404
    assert rest(server, "/etc/passwd")[0] == 404

    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    floats = request("", np.zeros([1, 8, 8, 3], np.float32))
    floats.inputs["other"].CopyFrom(floats.inputs["image"])
    claimed = request("", np.zeros([1, 1, 1, 1], np.float32))  # one value for 10 ** 15 of them
    for side in claimed.inputs["image"].tensor_shape.dim[1:]:
        side.size = 100_000
    for code, message in [
        (invalid, request("image_bytes", [b"text"])),
        (invalid, request("image_bytes", np.zeros([1], np.float32))),
        (invalid, request("", np.zeros([1, 8, 8, 3], np.int32))),
        (invalid, request("", np.zeros([8, 8, 3], np.float32))),
        (invalid, request("nix", np.zeros([1, 8, 8, 3], np.float32))),
        (invalid, floats),
        (invalid, claimed),
        (missing, request("", np.zeros([1, 8, 8, 3], np.float32), model="nix")),
        (missing, request("", np.zeros([1, 8, 8, 3], np.float32), version=1)),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, request("image_bytes", [bytes(65 * 2**20)])),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            stub.Predict(message, timeout=60)
        assert error.value.code() == code, error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request("", np.full([1, 8, 8, 3], np.nan, np.float32)), timeout=60)
    assert "takes float32 in [-1, 1]" in error.value.details()

    response = stub.Predict(request("image_bytes", [png(noise())], version=2))
    fake = decode_image(tf.make_ndarray(response.outputs["image_bytes"])[0])
    assert close(fake, translate(noise()))


def test_a_body_too_long_is_not_read(server):
    connection = http.client.HTTPConnection(server["rest"], timeout=30)
    for length in (str(2**40), "9" * 5000, "-1", "many"):
        connection.putrequest("POST", f"/v1/models/{MODEL}:predict")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_mutated_requests_are_answered_or_refused(server, stub, translate):
    """Runs a short version of `tests/torture/served_requests.py`."""
    sys.path.insert(0, str(ROOT / "tests" / "torture"))
    try:
        served_requests = importlib.import_module("served_requests")
    finally:
        sys.path.pop(0)
    counts = served_requests.send(server["grpc"], server["rest"], MODEL, 40, 0, 60)
    assert counts["answered"] > 0 and counts["refused"] > 0
    assert counts["answered"] + counts["refused"] == 40
    response = stub.Predict(request("image_bytes", [png(noise())]))
    fake = decode_image(tf.make_ndarray(response.outputs["image_bytes"])[0])
    assert close(fake, translate(noise()))


def test_three_hundred_requests_at_a_time(server, stub, translate):
    sizes = [(height, width) for height in (8, 9, 12) for width in (8, 11)]
    images = [noise(*sizes[seed % 6], seed=seed) for seed in range(30)]
    expected = [translate(image) for image in images]

    def over_rest(index):
        row = {"b64": base64.b64encode(png(images[index])).decode()}
        code, answer = post(server, signature_name="image_bytes", instances=[row])
        assert code == 200, answer
        return base64.b64decode(answer["predictions"][0]["b64"])

    calls = [
        stub.Predict.future(request("image_bytes", [png(images[i % 30])]), timeout=120)
        for i in range(200)
    ]
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(over_rest, [i % 30 for i in range(100)]))
    answers += [tf.make_ndarray(call.result().outputs["image_bytes"])[0] for call in calls]
    indices = [*range(100), *range(200)]
    for index, answer in zip(indices, answers, strict=True):
        assert close(decode_image(answer), expected[index % 30])


def test_a_folder_without_a_version(tmp_path):
    errors = tmp_path / "errors.txt"
    process = start(tmp_path, errors)
    process.communicate()
    assert process.returncode == 1
    assert (
        "contains no version: export one with tf-cyclegan export saved-model" in errors.read_text()
    )


# === The files for TensorFlow Serving ===


def test_models_config_is_one_that_tensorflow_serving_reads():
    from google.protobuf import text_format

    config = needed("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    text_format.Parse((SERVING / "models.config").read_text(), config)
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("summer2winter", "/models/summer2winter")
    assert model.model_version_policy.latest.num_versions == 1
