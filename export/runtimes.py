"""Runs exported files in other runtimes, as functions of float32 [1, h, w, c] in [-1, 1]."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve().parent

# Runs in the web page, for compare.py; the model runs in the page's worker thread.
IN_PAGE = """async ([file, values, shape]) => {
    const { Runner } = await import("./runner.js");
    if (!window.compared) {
        const buffer = await (await fetch(`models/${file}`)).arrayBuffer();
        window.compared = new Runner();
        await window.compared.compile(buffer, "wasm");
    }
    const { output, milliseconds } = await window.compared.run(new Float32Array(values), shape);
    return [[...output], milliseconds];
}"""


def newest(folder: str) -> Path:
    """Returns the newest version of a SavedModel, the one that a server loads."""
    versions = [path for path in Path(folder).glob("*") if path.name.isdecimal()]
    if not versions:
        raise ValueError(
            f"{folder} contains no version: export one with tf-cyclegan export saved-model."
        )
    return max(versions, key=lambda path: int(path.name))


def in_tensorflow(version: Path):
    """Loads a SavedModel in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(version)  # kept below, since its functions do not hold its weights
    run = loaded.signatures["serving_default"]
    return lambda image, loaded=loaded: run(image=tf.constant(image))["image"].numpy()


def in_openvino(version: Path):
    """Loads a SavedModel in OpenVINO."""
    import openvino

    core = openvino.Core()
    run = core.compile_model(core.read_model(version), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: run({"image": image})[0]


@contextlib.contextmanager
def over_network(folder: str) -> Iterator[dict]:
    """Serves a SavedModel with serving/loader_server.py, for all four requests of client.py."""
    from serving import client

    from tf_cyclegan.data.image_files import decode_image, to_float, to_uint8

    command = [sys.executable, HERE / "serving" / "loader_server.py"]
    server = subprocess.Popen(
        [*command, f"--model_base_path={folder}", "--port=0", "--rest_api_port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [server.stdout.readline() for _ in range(3)]
        if not lines[-1]:
            raise ValueError(f"{folder} cannot be served: see the error above.")
        grpc, rest = (line.split()[1] for line in lines[:2])
        name = Path(folder).name

        def asking(ask, address):
            def floats(image):
                options = client.Options(address, name, "", "", signature="serving_default")
                return ask(options, "image", image)

            def encoded(image):
                options = client.Options(address, name, "", "", signature="image_bytes")
                png = client.to_png(to_uint8(image[0]))
                answer = ask(options, "image_bytes", np.array([png], object))[0]
                return to_float(decode_image(answer))[np.newaxis]

            return floats, encoded

        grpc_floats, grpc_png = asking(client.ask_grpc, grpc)
        rest_floats, rest_png = asking(client.ask_rest, rest)
        yield {
            "SavedModel, gRPC, floats": grpc_floats,
            "SavedModel, gRPC, PNG": grpc_png,
            "SavedModel, REST, floats": rest_floats,
            "SavedModel, REST, PNG": rest_png,
        }
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@contextlib.contextmanager
def in_chromium(files: Sequence[Path], timings: dict[Path, list[float]]) -> Iterator[dict]:
    """Runs .tflite files on the web page, in headless Chromium.

    Args:
        files: .tflite files, each with its .json next to it.
        timings: gets the page's own milliseconds of each call, without transfers, by file.
    """
    from playwright.sync_api import sync_playwright

    from tf_cyclegan.export.site import build_site, install_litert, make_server

    chromium = shutil.which("chromium")
    if chromium is None:
        raise ValueError("chromium is not installed: install Debian's package chromium.")
    litert = install_litert()
    with contextlib.ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        stack.callback(browser.close)

        def in_own_page(file):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for suffix in (".tflite", ".json"):
                shutil.copy(file.with_suffix(suffix), folder)
            build_site(folder, folder / "site", litert)
            server = make_server(folder / "site", 0)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            own = timings.setdefault(file, [])

            def run(image):
                question = [file.name, image.ravel().tolist(), image.shape]
                fake, milliseconds = page.evaluate(IN_PAGE, question)
                own.append(milliseconds)
                return np.array(fake, np.float32).reshape(*image.shape[:3], -1)

            return run

        yield {file: in_own_page(file) for file in files}


def median_in_page(milliseconds: list[float], rounds: int) -> float:
    """Returns the median of the calls by `compare.latencies`, which counts each second one."""
    return median(milliseconds[-2 * rounds :][1::2])
