"""Send damaged requests to a served generator, which must answer or refuse each of them.

    python tests/torture/served_requests.py --count=500

Exports a small generator, serves it with export/serving/loader_server.py on 127.0.0.1, and sends
randomly damaged images over REST and gRPC. Prints how many requests were answered, refused or got
no answer. The exit code is 1 if any got no answer, or if the server then does not translate a valid
image like the generator.
"""

import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import tyro
from PIL import Image
from tensorflow_serving.apis import predict_pb2

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tortured"
METHOD = "/tensorflow.serving.PredictionService/Predict"
EXTREMES = [
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\1\0\0",
    b"\0\0\1\0",
]
UNANSWERED = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class Options:
    """The flags."""

    count: int = 500
    """Requests."""
    seed: int = 0
    """Random seed: the same requests again."""
    timeout: float = 60
    """Seconds for each answer."""


def main(options: Options) -> int:
    """Serves, sends and counts, and returns the exit code."""
    from tf_cyclegan.data.image_files import decode_image  # keeps --help fast
    from tf_cyclegan.export.saved_model import export_saved_model
    from tf_cyclegan.generators import ResNetGenerator
    from tf_cyclegan.inference.translator import translator

    generator = ResNetGenerator(filters=4, blocks=1)
    generator.build((None, None, None, 3))
    # The initial weights of 0.02 would give nearly gray images.
    generator.set_weights([10 * weight for weight in generator.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        export_saved_model(generator, Path(folder, MODEL), max_pixels=512 * 512)
        command = [sys.executable, ROOT / "export/serving/loader_server.py", "--port=0"]
        command += ["--rest_api_port=0", f"--model_base_path={folder}/{MODEL}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as server:
            try:
                lines = [server.stdout.readline() for _ in range(3)]
                ports = [re.search(r"127\.0\.0\.1:\d+", line)[0] for line in lines[:2]]
                counts = send(*ports, MODEL, options.count, options.seed, options.timeout)
                good = encoded("RGB", "PNG")
                status, answer = ask_rest(ports[1], MODEL, rest_body(good), options.timeout)
                alive = server.poll() is None and status == "answered"
            finally:
                server.terminate()
    difference = 255
    if alive:
        expected = translator(generator)(decode_image(good))
        difference = np.abs(decode_image(answer).astype(int) - expected).max()
    print(
        f"{options.count} requests: {counts['answered']} answered, {counts['refused']} refused, "
        f"{counts['no answer']} without an answer; server {'alive' if alive else 'lost'}, "
        f"a sound image differs by {difference} levels"
    )
    return 0 if alive and difference <= 1 and not counts["no answer"] else 1


def send(grpc_port, rest_port, model, count, seed, timeout) -> Counter:
    """Sends `count` requests, and counts "answered", "refused" and "no answer"."""
    sound = [*seeds(), b"no image at all", b""]
    with grpc.insecure_channel(grpc_port, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(METHOD)  # sends any bytes, not only valid messages

        def one(number):
            rng = random.Random(f"{seed} {number}")
            image = mutated(rng, rng.choice(sound), rng.choice(sound))
            whole = rng.random() < 0.9  # otherwise the rest of the request is damaged too
            if rng.random() < 0.5:
                body = rest_body(image)
                return ask_rest(rest_port, model, body if whole else mutated(rng, body), timeout)[0]
            body = grpc_body(model, image)
            return ask_grpc(call, body if whole else mutated(rng, body), timeout)

        with ThreadPoolExecutor(4) as threads:
            return Counter(threads.map(one, range(count)))


def seeds() -> list[bytes]:
    """Returns small images in all formats that the server accepts, and in some others."""
    kinds = [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("I;16", "PNG")]
    kinds += [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP")]
    kinds += [("P", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF")]
    return [
        *[encoded(mode, kind) for mode, kind in kinds],
        encoded("RGB", "JPEG", progressive=True),
        encoded("RGB", "WEBP", lossless=True),
    ]


def encoded(mode, kind, **options) -> bytes:
    image = Image.linear_gradient("L").resize((40, 30))
    image = image.convert("L" if mode == "I;16" else "RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Damages `data` up to three times: flips, cuts, extreme numbers, repetitions, splices."""
    for _ in range(rng.randint(0, 3)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                flips = bytearray(data)
                for _ in range(rng.randint(1, 8) if flips else 0):
                    flips[rng.randrange(len(flips))] ^= 1 << rng.randrange(8)
                data = bytes(flips)
            case 1:
                data = data[:end]
            case 2:
                data = data[:at] + rng.choice(EXTREMES) + data[at + 4 :]
            case 3:
                data = data[:end] + data[at:end] * rng.choice([1, 10, 1000]) + data[end:]
                data = data[: 2**21]
            case 4:
                data = data[:at] + other[min(at, len(other)) :]
    return data


def rest_body(image: bytes) -> bytes:
    rows = [{"b64": base64.b64encode(image).decode()}]
    return json.dumps({"signature_name": "image_bytes", "instances": rows}).encode()


def grpc_body(model: str, image: bytes) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "image_bytes"
    tensor = request.inputs["image_bytes"]
    tensor.dtype = 7  # DT_STRING
    tensor.tensor_shape.dim.add().size = 1
    tensor.string_val.append(image)
    return request.SerializeToString()


def ask_rest(port: str, model: str, body: bytes, timeout: float) -> tuple[str, bytes]:
    """Returns the outcome of a request, and the first translated image."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{port}/v1/models/{model}:predict", body, timeout) as response:
            rows = json.loads(response.read())["predictions"]
        return "answered", base64.b64decode(rows[0]["b64"]) if rows else b""
    except urllib.error.HTTPError as error:
        return "refused" if "error" in json.loads(error.read()) else "no answer", b""
    except (OSError, ValueError, LookupError, TypeError):
        return "no answer", b""


def ask_grpc(call, body: bytes, timeout: float) -> str:
    try:
        predict_pb2.PredictResponse.FromString(call(body, timeout=timeout))
        return "answered"
    except grpc.RpcError as error:
        return "no answer" if error.code() in UNANSWERED else "refused"


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__, use_underscores=True)
    sys.exit(main(options))
