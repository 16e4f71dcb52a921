"""Translate one image with a model in TensorFlow Serving.

    python export/serving/client.py --server=127.0.0.1:8500 --protocol=grpc \\
        --model=summer2winter --input=photo.jpg --output=winter.png

The image is rotated by its EXIF orientation, composited on white, and sent as PNG (signature
image_bytes) or as floats (serving_default), which take many times more bytes. TensorFlow Serving
uses port 8500 for gRPC and 8501 for REST.
gRPC needs tensorflow-serving-api: pip install "tf_cyclegan[export]"
"""

import base64
import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

import numpy as np

from tf_cyclegan.cli import command

MAX_BYTES = 256 * 2**20  # of a message; gRPC's default of 4 MiB only suffices for small images


@dataclass(frozen=True)
class Options:
    """The flags."""

    server: str
    """The server's host and port."""
    model: str
    """The model's name."""
    input: str
    """The image file to translate."""
    output: str
    """File for the translation; its suffix selects the format."""
    protocol: Literal["grpc", "rest"] = "grpc"
    """The protocol of the request."""
    signature: Literal["image_bytes", "serving_default"] = "image_bytes"
    """Whether to exchange PNGs or floats."""
    channels: Literal[1, 3] = 3
    """Use 1 if the model takes gray floats; with image_bytes you do not need it."""
    timeout: float = 60
    """Seconds to wait for the response."""


def main(options: Options) -> int:
    """Writes the translation, and returns the exit code."""
    from tf_cyclegan.data import image_files as images

    image = images.read_image(options.input, options.channels)
    ask = {"grpc": ask_grpc, "rest": ask_rest}[options.protocol]
    if options.signature == "image_bytes":
        answer = ask(options, "image_bytes", np.array([to_png(image)], object))[0]
        gray = answer[25:26] == b"\0"  # the color type in a PNG's header
        fake = images.decode_image(answer, "the answer", channels=1 if gray else 3)
    else:
        fake = images.to_uint8(ask(options, "image", images.to_float(image)[np.newaxis])[0])
    images.write_image(options.output, fake)
    height, width = fake.shape[:2]
    print(f"{options.output}: {width} x {height} pixels from {options.model}")
    return 0


def to_png(image: np.ndarray) -> bytes:
    """Encodes uint8 `[h, w, 1 or 3]` as PNG."""
    from tf_cyclegan.data.image_files import encode_image

    return encode_image(image, "image.png")


def ask_grpc(options: Options, key: str, array: np.ndarray) -> np.ndarray:
    """Sends a Predict request over gRPC.

    Args:
        options: server, model, signature and timeout.
        key: the name of the input and of the output.
        array: an array of float32 or of bytes objects.

    Returns:
        The output, with the same dtype.

    Raises:
        ValueError: the request failed; the message is one line.
    """
    try:
        import grpc
        from tensorflow import make_ndarray, make_tensor_proto
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError:
        raise ValueError(
            'gRPC needs tensorflow-serving-api: pip install "tf_cyclegan[export]", or use '
            "--protocol=rest."
        ) from None
    request = predict_pb2.PredictRequest()
    request.model_spec.name = options.model
    request.model_spec.signature_name = options.signature
    request.inputs[key].CopyFrom(make_tensor_proto(array))
    settings = [(f"grpc.max_{way}_message_length", MAX_BYTES) for way in ("receive", "send")]
    settings.append(("grpc.enable_http_proxy", 0 if on_this_machine(options.server) else 1))
    try:
        with grpc.insecure_channel(options.server, options=settings) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            response = stub.Predict(request, timeout=options.timeout)
        return make_ndarray(response.outputs[key])
    except grpc.RpcError as error:
        raise failure(options, f"{error.code().name}: {error.details()}") from None
    except (ValueError, TypeError) as error:  # the answer contains no such output
        raise failure(options, f"{type(error).__name__}: {error}") from None


def ask_rest(options: Options, key: str, array: np.ndarray) -> np.ndarray:
    """Sends a Predict request over REST; see `ask_grpc`."""
    strings = array.dtype == object
    rows = [{"b64": base64.b64encode(text).decode()} for text in array] if strings else array
    body = {"signature_name": options.signature, "inputs": rows if strings else rows.tolist()}
    request = urllib.request.Request(
        f"http://{options.server}/v1/models/{quote(options.model)}:predict",
        json.dumps(body).encode(),
    )
    proxies = {} if on_this_machine(options.server) else None  # None: use the environment's
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(request, timeout=options.timeout) as response:
            body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
        outputs = json.loads(body)["outputs"]
        if strings:
            return np.array([base64.b64decode(row["b64"]) for row in outputs], object)
        return np.array(outputs, np.float32)
    except urllib.error.HTTPError as error:
        raise failure(options, f"{error}: {error.read(10_000).decode(errors='replace')}") from None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise failure(options, f"{type(error).__name__}: {error}") from None


def on_this_machine(server: str) -> bool:
    """Returns whether the server is on this machine, and `http_proxy` must be ignored."""
    return server.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def failure(options: Options, reason: str) -> ValueError:
    """Returns an error, in one line, for a failed request."""
    return ValueError(
        f"{options.server} gave no translation by {options.model} ({' '.join(reason.split())}): "
        "check --server, --model, --signature and the image."
    )


if __name__ == "__main__":
    command.run(main, command.parse(Options, __doc__))
