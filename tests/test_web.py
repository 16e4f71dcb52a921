"""Tests the browser client in a real Chromium: the page computes the same as Keras."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import threading
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_model_file import converted

from tf_cyclegan.cli import page
from tf_cyclegan.data.image_files import read_image, to_channels, to_float, to_uint8, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.export.model_file import seal
from tf_cyclegan.export.site import build_site, install_litert, make_server, read_contracts
from tf_cyclegan.export.tflite import convert, describe
from tf_cyclegan.generators import ResNetGenerator

pytestmark = pytest.mark.slow

CHROMIUM = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]


def absent(what):
    """Fails the test in CI, where everything must be installed, and skips it elsewhere."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not installed")


# === Models, the site and its server ===


def generator(channels_in, channels_out):
    keras.utils.set_random_seed(0)
    network = ResNetGenerator(filters=4, blocks=1, channels=channels_out)
    network.build((None, None, None, channels_in))
    # The initial weights of 0.02 would give nearly gray images.
    network.set_weights([10 * weight for weight in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def networks():
    return {"rgb": generator(3, 3), "gray": generator(1, 1)}


@pytest.fixture(scope="module")
def models(networks, tmp_path_factory):
    """Returns a folder like those that export/tflite.py writes."""
    folder = tmp_path_factory.mktemp("models")
    for name, size in (("rgb", 32), ("rgb", None), ("gray", 32)):
        network = networks[name]
        stem = f"a2b_{name}_{size or 'resizable'}"
        contract = describe(network, name, "a2b", 32, resizable=not size) | {"mode": "float32"}
        bare = convert(network, "float32", size)
        content = seal(bare, contract)
        (folder / f"{stem}.bare").write_bytes(bare)
        (folder / f"{stem}.tflite").write_bytes(content)
        contract |= {"file": f"{stem}.tflite", "bytes": len(content)}
        contract["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / f"{stem}.json").write_text(json.dumps(contract))
    return folder


@pytest.fixture(scope="module")
def site(models, tmp_path_factory):
    if shutil.which("npm") is None:
        absent("npm")
    folder = tmp_path_factory.mktemp("site") / "web"
    assert build_site(models, folder, install_litert()) == 3
    return folder


@contextlib.contextmanager
def running(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def address(site):
    with running(make_server(site, 0)) as address:
        yield address


# === The browser ===


@pytest.fixture(scope="module")
def playwright():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright")
    with sync_playwright() as instance:
        yield instance


@pytest.fixture(scope="module")
def launch(playwright):
    path = shutil.which("chromium")
    if path is None:
        absent("chromium")
    return lambda *flags: playwright.chromium.launch(executable_path=path, args=[*CHROMIUM, *flags])


@pytest.fixture(scope="module")
def browser(launch):
    browser = launch("--disable-gpu")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def context(browser):
    """Most pages share this context, so that the runtime is loaded and compiled once."""
    return browser.new_context()


class Visit:
    """A new page, and the actions of its visitor."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.requests, self.errors = [], []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        self.address_of_last = ""

    def choose(self, model):
        self.page.select_option("#model", label=model)

    def give(self, *files, to="photo"):
        """Selects files: pairs (name, bytes), images as uint8 [h, w, c], or paths."""
        files = [("photo.png", png(f)) if isinstance(f, np.ndarray) else f for f in files]
        self.page.set_input_files(
            f"#{to}",
            [
                {"name": f[0], "mimeType": "", "buffer": f[1]} if isinstance(f, tuple) else f
                for f in files
            ],
        )

    def result(self):
        """Waits for the next translation and returns it, float32 [1, h, w, c]."""
        fresh = f"[data-state=done] #download:not([href='{self.address_of_last}'])"
        self.address_of_last = self.page.wait_for_selector(fresh).get_attribute("href")
        found = self.page.evaluate("({...lastResult, output: [...lastResult.output]})")
        shape = 1, found["height"], found["width"], found["channels"]
        return np.array(found["output"], np.float32).reshape(shape)

    def seen(self):
        """Returns the photo as the model received it, uint8 [h, w, 3]."""
        width, height, bytes_ = self.page.evaluate(
            """() => {
              const { width, height } = document.getElementById("before");
              const context = document.getElementById("before").getContext("2d");
              return [width, height, [...context.getImageData(0, 0, width, height).data]];
            }"""
        )
        return np.array(bytes_, np.uint8).reshape(height, width, 4)[:, :, :3]

    def complaint(self):
        self.page.wait_for_selector("#error:not([hidden])")
        return self.page.text_content("#error")


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def visit(context, address):
    """Opens pages; finally checks that none raised an error or sent a request to other hosts."""
    visits = []

    def open_page(where=context, address=address, **options):
        visits.append(Visit(where.new_page(**options), address))
        return visits[-1]

    yield open_page
    for visitor in visits:
        visitor.page.close()
        assert visitor.errors == []
        urls = [url for url in visitor.requests if not url.startswith(("blob:", "data:"))]
        assert [url for url in urls if not url.startswith(visitor.address)] == []


RGB, ANY, GRAY = (
    "rgb, a2b, 32 × 32, float32",
    "rgb, a2b, any size, float32",
    "gray, a2b, 32 × 32, float32",
)


@pytest.fixture(scope="module")
def photo():
    return landscape(0, "summer", 32, 32, seed=1)


def run_keras(network, image):
    image = to_channels(image, network.input_channels)
    return np.asarray(network(to_float(image)[np.newaxis], training=False))


def assert_near(output, expected):
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-4)


# === Translations ===


def test_it_computes_what_keras_computes(visit, networks, photo):
    visitor = visit()
    visitor.choose(RGB)
    visitor.give(photo)
    output = visitor.result()
    expected = run_keras(networks["rgb"], photo)
    assert expected.std() > 0.1  # a nearly gray image would match too easily
    assert_near(output, expected)
    np.testing.assert_array_equal(visitor.seen(), photo)

    page = visitor.page
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "photo-a2b.png"
    levels = read_image(waiting.value.path()).astype(int) - to_uint8(expected)[0]
    assert abs(levels).max() <= 1
    assert page.text_content("#details") == (
        "a2b · 32 × 32 · float32 · 0.1 MB · 1.79 million multiply-adds"
    )
    assert page.text_content("#caption").startswith("The photo scaled to 32 × 32 pixels: this")
    assert page.text_content("#engine").startswith("CPU (wasm), ")  # multithreaded
    assert all(page.text_content(f"#{x}").endswith("s") for x in ("loading", "running"))
    # It runs in a worker, whose requests the fixture also sees.
    assert len(page.workers) >= 1
    assert any(url.endswith(".wasm") for url in visitor.requests)


def test_gray(visit, networks, photo):
    visitor = visit()
    visitor.choose(GRAY)
    visitor.give(photo)
    assert_near(visitor.result(), run_keras(networks["gray"], photo))
    pixels = visitor.page.evaluate(
        "[...document.getElementById('after').getContext('2d').getImageData(0, 0, 9, 1).data]"
    )
    pixels = np.reshape(pixels, (9, 4))
    assert (pixels[:, :3] == pixels[:, :1]).all() and (pixels[:, 3] == 255).all()


def test_a_resizable_model_at_two_sizes(visit, networks):
    visitor = visit()
    visitor.choose(ANY)
    small = landscape(1, "summer", 40, 64, seed=1)
    visitor.give(small)
    assert_near(visitor.result(), run_keras(networks["rgb"], small))

    visitor.page.select_option("#limit", "256")
    visitor.result()
    visitor.give(landscape(2, "summer", 200, 600, seed=1))
    output = visitor.result()
    assert output.shape == (1, 84, 256, 3)  # 600 x 200 scaled, in multiples of 4
    assert_near(output, run_keras(networks["rgb"], visitor.seen()))
    assert "256 × 84 pixels, both multiples of 4" in visitor.page.text_content("#caption")


def test_a_model_need_not_be_square(visit, networks, photo):
    contract = describe(networks["rgb"], "wide", "a2b", (24, 40), resizable=False)
    contract |= {"mode": "float32"}
    content = seal(convert(networks["rgb"], "float32", (24, 40)), contract)
    visitor = visit()
    visitor.give(photo)
    visitor.result()
    visitor.give(("wide.tflite", content), to="own")
    output = visitor.result()
    assert output.shape == (1, 24, 40, 3)
    assert_near(output, run_keras(networks["rgb"], visitor.seen()))
    assert "40 × 24" in visitor.page.text_content("#details")


def test_photos_are_cropped_put_on_white_and_turned(visit, photo):
    visitor = visit()
    visitor.choose(RGB)
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = (200, 100, 50)
    visitor.give(wide)
    visitor.result()  # not compared: norms turn a single color into rounding errors
    np.testing.assert_array_equal(visitor.seen(), np.full((32, 32, 3), (200, 100, 50)))
    assert "The middle of the photo, cropped" in visitor.page.text_content("#caption")

    visitor.give(np.concatenate([photo, np.zeros((32, 32, 1), np.uint8)], axis=2))  # transparent
    visitor.result()
    assert (visitor.seen() == 255).all()

    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    Image.fromarray(photo).save(file, "PNG", exif=exif)
    visitor.give(("turned.png", file.getvalue()))
    visitor.result()
    np.testing.assert_array_equal(visitor.seen(), photo[::-1, ::-1])


# === Accelerators ===


def test_without_webgpu_the_cpu_translates_and_says_so(visit, networks, photo):
    visitor = visit()
    visitor.choose(RGB)
    visitor.page.check("[value=webgpu]", force=True)
    visitor.give(photo)
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))
    assert "no WebGPU" in visitor.page.text_content("#note")
    assert visitor.page.text_content("#engine").startswith("CPU")


def test_webgpu(visit, launch, networks, photo):
    """Compares the numbers on SwiftShader, which simulates a GPU in software."""
    browser = launch(*WEBGPU)
    visitor = visit(browser)
    visitor.choose(RGB)
    visitor.page.check("[value=webgpu]", force=True)
    visitor.give(photo)
    output = visitor.result()
    note = visitor.page.text_content("#note")
    if "no WebGPU" in note:
        absent("Chromium's WebGPU on SwiftShader")
    assert_near(output, run_keras(networks["rgb"], photo))
    assert note == ""
    assert visitor.page.text_content("#engine") == "GPU (WebGPU)"

    visitor.choose(ANY)  # has a dynamic shape, which the GPU refuses
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))
    assert "WebGPU cannot run this model" in visitor.page.text_content("#note")

    # A file of someone else, with an operator that the GPU does not have.
    content = converted(keras.layers.GroupNormalization(groups=-1))
    visitor.give(("partly.tflite", content), to="own")
    visitor.result()
    engine = visitor.page.text_content("#engine")
    assert "CPU" in engine and engine != "GPU (WebGPU)"
    browser.close()


def test_any_static_server_will_do_for_one_thread(visit, site, networks, photo):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *message):
            pass

    handler = functools.partial(Handler, directory=str(site))
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as plain:
        visitor = visit(address=plain)
        visitor.choose(RGB)
        visitor.give(photo)
        assert_near(visitor.result(), run_keras(networks["rgb"], photo))
        assert visitor.page.text_content("#engine") == "CPU (wasm)"


# === Errors ===


def test_wrong_files_are_refused_and_the_page_goes_on(visit, networks, models, photo, tmp_path):
    good = (models / "a2b_rgb_32.tflite").read_bytes()
    lite = tf.lite.TFLiteConverter.from_concrete_functions
    bare = (models / "a2b_rgb_32.bare").read_bytes()
    other_range = json.loads((models / "a2b_rgb_32.json").read_text())
    other_range |= {"range": [0, 1], "file": "bare.tflite", "bytes": len(bare)}
    others = {
        name: lite([tf.function(tf.abs).get_concrete_function(tf.TensorSpec(shape))]).convert()
        for name, shape in {"flat": [1, 9], "deep": [1, 8, 8, 3, 2], "wide": [1, 8, 8, 4]}.items()
    }
    custom = lite([tf.function(tf.math.erfinv).get_concrete_function(tf.TensorSpec([1, 8, 8, 3]))])
    custom.allow_custom_ops = True
    heavy = tmp_path / "heavy.png"
    with open(heavy, "wb") as file:
        file.truncate(65 * 2**20)
    bitmap = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(bitmap, "PNG")

    visitor = visit()
    visitor.choose(RGB)
    cases = [
        ("own", [("pretty.tflite", png(photo))], "pretty.tflite is not a TensorFlow Lite model"),
        ("own", [("empty.tflite", b"")], "empty.tflite is not a TensorFlow Lite model"),
        ("own", [("cut.tflite", good[: len(good) // 2])], "cut.tflite is damaged or incomplete"),
        ("own", [("short.tflite", good[:200])], "short.tflite is damaged or incomplete"),
        ("own", [("tail.tflite", bare[:-100])], "tail.tflite is damaged or incomplete"),
        *(
            ("own", [(f"{name}.tflite", content)], f"{name}.tflite does not turn one image into")
            for name, content in others.items()
        ),
        (
            "own",
            [("bare.tflite", bare), ("bare.json", json.dumps(other_range).encode())],
            "bare.tflite expects other values than this page computes",
        ),
        ("own", [("alone.json", b"{}")], "alone.json only describes a model"),
        ("own", [("m.tflite", good), ("other.json", b"{}")], "other.json does not describe"),
        ("photo", [("text.png", b"no image")], "text.png is not an image"),
        ("photo", [("cut.png", png(photo)[:300])], "cut.png is not an image"),
        ("photo", [heavy], "heavy.png has 68.2 MB: choose one of at most 64 MB"),
        ("photo", [("large.png", bitmap.getvalue())], "large.png has 10000 × 6000 pixels"),
    ]
    for to, files, sentence in cases:
        visitor.give(*files, to=to)
        visitor.page.wait_for_selector(f"#error:has-text('{sentence}')")
    assert visitor.page.get_attribute("body", "data-state") == "empty"

    visitor.give(photo)
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))
    visitor.give(
        ("odd.tflite", custom.convert()), to="own"
    )  # has a valid shape, but an unknown operator
    assert "odd could not translate this photo" in visitor.complaint()
    visitor.give(("mine.tflite", good), to="own")
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))
    assert visitor.page.is_hidden("#error")


def test_a_file_of_ones_own_dropped_with_its_json(visit, networks, models, photo):
    """Files of other converters have no description, so the JSON file provides it."""
    bare = (models / "a2b_rgb_resizable.bare").read_bytes()
    contract = json.loads((models / "a2b_rgb_resizable.json").read_text())
    described = json.dumps(contract | {"name": "described"}).encode()
    visitor = visit()
    visitor.page.evaluate(
        """(files) => {
          const dataTransfer = new DataTransfer();
          for (const [name, bytes] of files) {
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
          }
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        [["x.json", [*described]], ["x.tflite", [*bare]], ["photo.png", [*png(photo)]]],
    )
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))
    shown = visitor.page.eval_on_selector("#model", "select => select.selectedOptions[0].label")
    assert shown == "described, a2b, any size, float32"


def test_models_that_do_not_arrive(visit, models, networks, photo):
    visitor = visit()
    visitor.page.route("**/*.tflite", lambda route: route.fulfill(body=b"half a model"))
    visitor.choose(RGB)
    visitor.give(photo)
    assert "a2b_rgb_32.tflite could not be loaded" in visitor.complaint()
    visitor.page.unroute("**/*.tflite")
    visitor.give(photo)
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))

    visitor.page.route("**/models.json", lambda route: route.fulfill(status=404))
    visitor.page.reload()
    assert "list of models could not be loaded" in visitor.complaint()
    visitor.give(photo)
    visitor.page.wait_for_selector("text=There is no model yet")
    visitor.give(models / "a2b_rgb_32.tflite", to="own")
    assert_near(visitor.result(), run_keras(networks["rgb"], photo))


# === The page ===


def test_progress_is_seen_and_stopping_works(visit, models, photo):
    visitor = visit()
    page = visitor.page
    held = []
    page.route("**/*.tflite", lambda route: held.append(route))  # never gets a response
    visitor.choose(RGB)
    visitor.give(photo)
    page.wait_for_selector("[data-state=busy]")
    page.click("#stop")
    page.wait_for_selector("[data-state=photo]")
    assert page.is_hidden("#download") and page.is_hidden("#error")

    page.unroute("**/*.tflite")
    page.evaluate(
        """() => {
          window.steps = [];
          new MutationObserver(() => {
            const { value } = document.getElementById("progress");
            steps.push([document.getElementById("doing").textContent, value]);
          }).observe(document.querySelector(".busy"), { subtree: true, childList: true });
        }"""
    )
    visitor.give(photo)
    visitor.result()
    steps = page.evaluate("steps")
    megabytes = f"{(models / 'a2b_rgb_32.tflite').stat().st_size / 1e6:.1f} MB"
    assert any(text == f"Loading the model: {megabytes[:-3]} of {megabytes}" for text, _ in steps)
    assert [text for text, _ in steps][-2:] == ["Starting the model", "Translating"]
    assert max(value for _, value in steps) == 1


def test_the_slider_by_keyboard(visit, photo):
    visitor = visit()
    visitor.choose(RGB)
    visitor.give(photo)
    visitor.result()
    page = visitor.page
    page.focus("#split")
    for key, split in (("ArrowLeft", "49%"), ("End", "100%"), ("Home", "0%")):
        page.keyboard.press(key)
        style = page.eval_on_selector("#compare", "x => x.style.getPropertyValue('--split')")
        assert style == split
    assert page.get_attribute("#split", "aria-valuetext") == "0 % photo"


def test_a_phone_scrolls_only_down_by_day_and_night(visit, browser, models, photo):
    visitor = visit(browser, viewport={"width": 360, "height": 740}, color_scheme="dark")

    def width():
        return visitor.page.evaluate("document.documentElement.scrollWidth")

    def brightness():
        color = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        return np.mean(visitor.page.evaluate(color))

    assert width() == 360
    visitor.give((f"{'long' * 30}.tflite", b"no model"), to="own")
    visitor.complaint()
    assert width() == 360
    visitor.give(photo)
    visitor.result()
    bare = (models / "a2b_rgb_resizable.bare").read_bytes()  # it is shown by its file name
    visitor.give((f"{'long' * 30}.tflite", bare), to="own")
    visitor.result()
    assert visitor.page.is_visible("#limit")
    assert width() == 360
    assert brightness() < 60
    visitor.page.emulate_media(color_scheme="light")
    assert brightness() > 200


def test_the_camera(visit):
    visitor = visit()
    page = visitor.page
    visitor.choose(RGB)
    page.click("#camera")
    page.wait_for_selector("#shoot:enabled")
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.click("#shoot")
    visitor.result()
    assert page.evaluate("track.readyState") == "ended"
    assert visitor.seen().std() > 0
    assert page.get_attribute("#download", "download") == "camera-a2b.png"

    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject() }")
    page.click("#camera")
    assert visitor.complaint().startswith("The camera cannot be used")


def test_the_policy_lets_nothing_out(visit):
    visitor = visit()
    blocked = visitor.page.evaluate(
        """async () => {
          const blocked = [];
          addEventListener("securitypolicyviolation", (e) => blocked.push(e.effectiveDirective));
          await fetch("https://example.com/").catch(() => {});
          await new Promise((resolve) => {
            const image = new Image();
            image.onerror = resolve;
            image.src = "https://example.com/x.png";
          });
          return blocked;
        }"""
    )
    assert set(blocked) == {"connect-src", "img-src"}
    visitor.requests.clear()  # they include the blocked requests


# === images.js computes the same as images.py ===


def evaluate(visitor, expression, *arguments):
    """Evaluates an expression that uses images.js and the arguments a, b and so on."""
    names = ", ".join("abcd"[: len(arguments)])
    return visitor.page.evaluate(
        f"async ([{names}]) => {{ const images = await import('/images.js'); "
        f"return ({expression}); }}",
        list(arguments),
    )


def test_to_float_and_to_pixels(visit):
    visitor = visit()
    levels = np.arange(256, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1, 3), np.uint8)
    ramp = np.stack([levels, levels, levels[::-1]], axis=-1)[:, np.newaxis]
    image = np.concatenate([ramp, noise])
    rgba = np.concatenate([image, np.full((len(image), 1, 1), 255, np.uint8)], axis=2)
    for channels in (1, 3):
        floats = evaluate(visitor, "[...images.toFloat(a, b)]", rgba.ravel().tolist(), channels)
        expected = to_float(to_channels(image, channels))
        np.testing.assert_array_equal(np.array(floats, np.float32), expected.ravel())

    halves = (np.arange(-2, 258) + 0.5) / 127.5 - 1  # between levels, and beyond both ends
    values = np.concatenate([halves, np.random.default_rng(1).uniform(-1.1, 1.1, 1000)])
    values = values.astype(np.float32)
    for channels in (1, 3):
        floats = values[: len(values) // 3 * 3].reshape(-1, 1, channels)
        found = evaluate(
            visitor,
            "[...images.toPixels(new Float32Array(a), b)]",
            floats.ravel().tolist(),
            channels,
        )
        found = np.reshape(found, (-1, 1, 4))
        np.testing.assert_array_equal(found[:, :, :3], to_channels(to_uint8(floats), 3))
        assert (found[:, :, 3] == 255).all()


def test_fit_and_crop(visit):
    visitor = visit()
    for (width, height, limit, multiple), expected in {
        (4000, 3000, 512, 4): (512, 384),
        (640, 479, 1024, 4): (640, 480),
        (479, 640, 512, 4): (384, 512),
        (5, 3, 512, 4): (8, 8),  # the smallest size for a ResNet
        (3000, 10, 512, 4): (512, 8),
        (1000, 700, 512, 256): (512, 256),
        (1000, 700, 512, 1024): (1024, 1024),
        (1000, 999, 510, 4): (508, 508),
    }.items():
        size = evaluate(visitor, "images.fit(a, b, c, d)", width, height, limit, multiple)
        assert (size["width"], size["height"]) == expected
    for (width, height, w, h), expected in {
        (64, 64, 64, 64): (0, 0, 64, 64),
        (300, 100, 50, 50): (100, 0, 100, 100),
        (100, 300, 200, 100): (0, 125, 100, 50),
    }.items():
        part = evaluate(visitor, "images.crop(a, b, c, d)", width, height, w, h)
        assert tuple(part[key] for key in ("x", "y", "width", "height")) == expected


# === The command ===


def test_what_cannot_be_built_is_named(site, models, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "bare").mkdir()
    shutil.copy(models / "a2b_rgb_32.tflite", tmp_path / "bare")
    mixed = shutil.copytree(tmp_path / "bare", tmp_path / "mixed")
    shutil.copy(models / "a2b_gray_32.json", mixed / "a2b_rgb_32.json")
    for folder, output, sentence in [
        ("empty", "out", "contains no models"),
        ("bare", "out", r"a2b_rgb_32\.json is missing or damaged"),
        ("mixed", "out", r"a2b_rgb_32\.json describes another file"),
        (models, "empty", "exists and is not an earlier build"),
    ]:
        options = page.Options(
            models=str(tmp_path / folder), output=str(tmp_path / output), serve=False
        )
        with pytest.raises(ValueError, match=sentence):
            page.main(options)
    assert not (tmp_path / "out").exists()


def test_without_npm_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # an empty cache
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm is not installed"):
        install_litert()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error no network >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(ValueError, match="npm ci failed .npm error no network"):
        install_litert()
    assert not list((tmp_path / "cache" / "tf_cyclegan").iterdir())


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({}, "use either --run_dir or --models"),
        ({"run_dir": "run", "models": "models"}, "use either --run_dir or --models"),
        ({"models": "models"}, "name a folder for the site with --output"),
        ({"run_dir": "a2b.keras", "output": "o"}, "a2b.keras is one file: add --direction=a2b"),
        ({"run_dir": "a2b.keras", "direction": "a2b"}, "name a folder for the site with --output"),
        ({"models": "models", "output": "o", "port": 99999}, "port 99999 is not available .*port"),
    ],
)
def test_wrong_flags_are_named_before_any_work(flags, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = ResNetGenerator(filters=2, blocks=0)
    generator.build((None, None, None, 3))
    generator.save(tmp_path / "a2b.keras")
    monkeypatch.setattr("tf_cyclegan.export.site.install_litert", lambda: pytest.fail("was called"))
    with pytest.raises(ValueError, match=sentence):
        page.main(page.Options(**flags))


def test_the_page_of_a_run(site, tmp_path, monkeypatch):
    """A single command exports a run folder's generator, builds the site and serves it."""
    run = tmp_path / "mine"
    run.mkdir()
    generator(3, 3).save(run / "b2a.keras")
    served = []
    monkeypatch.setattr(
        "http.server.ThreadingHTTPServer.serve_forever", lambda self: served.append(self)
    )
    write_image(run / "photo.png", landscape(0, "summer", 32, 32, seed=1))
    flags = {
        "run_dir": str(run),
        "direction": "b2a",
        "size": "32",
        "images": (str(run / "photo.png"),),
        "port": 0,
    }
    assert page.main(page.Options(**flags)) == 0
    [server] = served
    server.server_close()
    names = {m["file"] for m in json.loads((run / "page" / "models.json").read_text())}
    assert names == {
        f"b2a_{size}_{mode}.tflite"
        for size in ("32", "resizable")
        for mode in ("float32", "dynamic")
    }


def test_a_site_is_replaced_whole(models, tmp_path, site):
    output = shutil.copytree(site, tmp_path / "web")
    (output / "models" / "stale.tflite").touch()
    options = page.Options(models=str(models), output=str(output), serve=False)
    assert page.main(options) == 0
    assert not (output / "models" / "stale.tflite").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["web"]
    assert len(json.loads((output / "models.json").read_text())) == 3


@pytest.mark.parametrize("name", [".git/", "CNAME", "data.json", "models/LICENSE.txt"])
def test_a_site_with_files_of_others_is_not_replaced(models, tmp_path, site, name):
    output = shutil.copytree(site, tmp_path / "web")
    (output / name).mkdir() if name.endswith("/") else (output / name).touch()
    options = page.Options(models=str(models), output=str(output), serve=False)
    with pytest.raises(ValueError, match=f"web/{name.strip('/')} is not part of the page.*move it"):
        page.main(options)
    assert (output / name).exists()


def test_a_folder_with_a_file_of_the_same_name_is_not_a_site(models, tmp_path):
    for name in ("models.json", "thesis.txt"):
        (tmp_path / name).touch()
    options = page.Options(models=str(models), output=str(tmp_path), serve=False)
    with pytest.raises(ValueError, match="exists and is not an earlier build"):
        page.main(options)
    assert (tmp_path / "thesis.txt").exists()


def test_models_may_be_renamed_but_not_changed(models, tmp_path):
    for suffix in (".tflite", ".json"):
        shutil.copy(models / f"a2b_rgb_32{suffix}", tmp_path / f"monet{suffix}")
    (contract,) = read_contracts(tmp_path)
    assert contract["file"] == "monet.tflite"
    content = bytearray((tmp_path / "monet.tflite").read_bytes())
    content[-1] ^= 1  # the same size
    (tmp_path / "monet.tflite").write_bytes(content)
    with pytest.raises(ValueError, match="monet.json describes another file"):
        read_contracts(tmp_path)


def test_a_failed_build_keeps_the_old_site(models, tmp_path, site):
    output = shutil.copytree(site, tmp_path / "web")
    with pytest.raises(ValueError, match="web cannot be written .*: check disk space"):
        build_site(models, output, tmp_path / "no_litert")
    assert [path.name for path in tmp_path.iterdir()] == ["web"]
    assert (output / "index.html").exists()


def test_headers_and_types(address):
    for name, kind in {
        "": "text/html",
        "app.js": "text/javascript",
        "models.json": "application/json",
        "litert/wasm/litert_wasm_internal.wasm": "application/wasm",
        "models/a2b_rgb_32.tflite": "application/octet-stream",
    }.items():
        with urllib.request.urlopen(address + name) as answer:
            assert answer.headers.get_content_type() == kind
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_port_in_use_is_named(site, address):
    with pytest.raises(ValueError, match="port .* is not available"):
        make_server(site, int(address.rstrip("/").split(":")[-1]))
