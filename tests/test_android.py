"""Tests the Android sample: compiles all of it, and runs the parts without Android on the JVM.

No Android SDK is needed: kotlinc compiles the sources, with the plugin of the Compose compiler,
against export/android/check/stubs/, which declare the signatures that the app uses.
"""

import configparser
import io
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.data.image_files import decode_image, to_channels, to_float, to_uint8
from tf_cyclegan.export.tflite import describe
from tf_cyclegan.generators import ResNetGenerator

pytestmark = pytest.mark.slow

ANDROID = Path(__file__).resolve().parents[1] / "export" / "android"
CHECK = ANDROID / "check"
MAIN = ANDROID / "app" / "src" / "main"
SOURCES = MAIN / "kotlin"
LIBRARIES = CHECK / "node_modules" / "kotlin-compiler" / "lib"
NAME = "{http://schemas.android.com/apk/res/android}name"


def strings():
    root = ElementTree.parse(MAIN / "res" / "values" / "strings.xml").getroot()
    return {entry.get("name"): entry.text for entry in root}


def source(folder=SOURCES):
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.kt")))


def jars(*names):
    return os.pathsep.join(str(LIBRARIES / f"{name}.jar") for name in names)


def java(classpath, *arguments, stdin=b""):
    flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]  # faster for short programs
    command = ["java", *flags, "-classpath", classpath, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def kotlinc(tmp_path_factory):
    """Compiles sources with the stubs; returns exit code, messages and output folder."""
    for program in ("java", *(() if LIBRARIES.is_dir() else ("npm",))):
        if shutil.which(program) is None:
            # In CI, every program must be installed; elsewhere, the test is skipped.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    if not LIBRARIES.is_dir():
        subprocess.run(["npm", "ci", "--silent"], cwd=CHECK, check=True, timeout=300)

    resources = tmp_path_factory.mktemp("resources") / "R.kt"  # as aapt generates it from the XML
    constants = "\n".join(f"const val {name} = 1" for name in strings())
    resources.write_text(
        f"package tfcyclegan.android\nobject R {{ object string {{\n{constants} }} }}"
    )

    def compile(*sources):
        output = tmp_path_factory.mktemp("classes")
        done = java(
            jars("kotlin-compiler", "kotlin-stdlib", "kotlinx-coroutines-core-jvm"),
            "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
            *("-language-version", "2.2", "-Wextra", "-Werror", "-no-stdlib", "-no-reflect"),
            f"-Xplugin={LIBRARIES / 'compose-compiler-plugin.jar'}",
            *("-classpath", jars("kotlin-stdlib", "kotlinx-coroutines-core-jvm")),
            *("-d", output, CHECK / "stubs", resources, *sources),
        )
        return done.returncode, done.stderr.decode(), output

    return compile


@pytest.fixture(scope="module")
def classes(kotlinc):
    """Compiles the app against the stubs."""
    code, said, output = kotlinc(SOURCES, CHECK / "Check.kt")
    assert (code, said) == (0, "")
    return output


@pytest.fixture(scope="module")
def kotlin(classes):
    """Runs check/Check.kt with arrays of 4-byte numbers as input; returns the bytes it prints."""

    def ask(*arguments, arrays=()):
        stdin = b""
        for array in arrays:
            array = np.asarray(array).view(np.uint32).ravel()
            stdin += np.append(np.uint32(array.size), array).astype(">u4").tobytes()
        classpath = os.pathsep.join([str(classes), jars("kotlin-stdlib")])
        done = java(classpath, "tfcyclegan.android.CheckKt", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return ask


def numbers(*values):
    return np.array(values, np.int32)


def answer(printed, dtype):
    return np.frombuffer(printed, ">u4").astype(np.uint32).view(dtype)


def to_argb(image):
    red, green, blue = np.moveaxis(to_channels(image, 3).astype(np.uint32), -1, 0)
    return 255 << 24 | red << 16 | green << 8 | blue


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# === The sources ===


def test_the_app_compiles(classes):
    assert (classes / "tfcyclegan" / "android" / "MainActivity.class").is_file()


def test_wrong_calls_do_not_compile(kotlinc, tmp_path):
    """Checks that the stubs are strict enough: the compiler reports each mistake in its file."""
    screen, click = "TranslatorScreen.kt", "{ start { share(context, translation) } }"
    mistakes = [
        ("Translator.kt", "model.run(", "model.execute(", "unresolved reference 'execute'"),
        ("Translator.kt", "writeFloat(input)", 'writeFloat("")', "actual type is 'String'"),
        (
            "MainActivity.kt",
            "onSave = viewModel::save,",
            "",
            "no value passed for parameter 'onSave'",
        ),
        (screen, "R.string.gallery", "R.string.galery", "unresolved reference 'galery'"),
        (screen, "if (uri != null) onImage", "onImage", "actual type is 'Uri?'"),
        (screen, click, '{ Text("") }', "@Composable invocations can only happen from"),
    ]
    shutil.copytree(SOURCES, tmp_path / "kotlin")
    for file, right, wrong, _ in mistakes:
        (path,) = (tmp_path / "kotlin").rglob(file)
        text = path.read_text()
        assert right in text
        path.write_text(text.replace(right, wrong, 1))
    code, said, _ = kotlinc(tmp_path / "kotlin")
    errors = re.findall(r"([A-Z]\w+\.kt):\d+:\d+: error: (.*)", said)
    assert code != 0
    for file, _, _, message in mistakes:
        assert any(name == file and message in text for name, text in errors), (message, said)


# === The numbers are equal to those in Python ===


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_to_floats(kotlin, channels):
    image = np.concatenate(
        [noise(100, 256), np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)]
    )
    printed = kotlin("toFloats", arrays=[to_argb(image), numbers(channels)])
    expected = to_float(to_channels(image, channels)).ravel()
    np.testing.assert_array_equal(answer(printed, np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_to_pixels(kotlin, channels):
    halves = (np.arange(-3, 260, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - 1
    levels = to_float(np.arange(256, dtype=np.uint8))
    random = np.random.default_rng(0).uniform(-1.2, 1.2, 3 * 997).astype(np.float32)
    extremes = np.array([-np.inf, np.inf, -0.0, 1e-45, -1e30, 1e30], np.float32)
    image = np.concatenate([halves, levels, random, extremes])
    image = image[: image.size // 3 * 3].reshape(1, -1, channels)
    printed = kotlin("toPixels", arrays=[image, numbers(channels)])
    expected = to_argb(to_uint8(image)).ravel()
    np.testing.assert_array_equal(answer(printed, np.uint32), expected)


def test_nan_is_black(kotlin):
    printed = kotlin("toPixels", arrays=[np.float32([np.nan, 1, -1]), numbers(3)])
    assert answer(printed, np.uint32).tolist() == [0xFF00FF00]


@pytest.mark.parametrize("orientation", range(10))
def test_upright(kotlin, orientation):
    image = noise(3, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=exif)
    expected = decode_image(file.getvalue())
    printed = kotlin("upright", arrays=[numbers(5, 3, orientation), to_argb(image)])
    width, height, *pixels = answer(printed, np.uint32).tolist()
    assert (height, width) == expected.shape[:2]
    assert pixels == to_argb(expected).ravel().tolist()


def test_crops(kotlin):
    random = np.random.default_rng(0)
    sizes = np.exp(random.uniform(0, np.log(60_000), (500, 2))).astype(np.int32)
    targets = random.integers(1, 2049, (500, 2)).astype(np.int32)
    targets[::2, 1] = targets[::2, 0]
    cases = np.concatenate([sizes, targets], 1)
    printed = kotlin("crops", arrays=[cases])
    answers = answer(printed, np.int32).reshape(-1, 5)
    for case, crop in zip(cases.tolist(), answers.tolist(), strict=True):
        (width, height, target_width, target_height), (left, top, w, h, size) = case, crop
        assert (left, top) == ((width - w) // 2, (height - h) // 2)
        assert 1 <= w <= width and 1 <= h <= height and (w == width or h == height)
        if w > 1 and h > 1:  # the aspect ratio, within one pixel
            assert abs(w * target_height - h * target_width) < max(target_width, target_height)
        shrunk = min(w // size // target_width, h // size // target_height)
        assert size & (size - 1) == 0 and (size == 1 or shrunk >= 1)
        assert w // (2 * size) < target_width or h // (2 * size) < target_height


# === The description of the model, and failures of LiteRT ===


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ("nothing", "fine: a2b_1x1.tflite"),
        ("format", "format 2"),
        ("resizable", "any size"),
        ("layout", "NCHW"),
        ("range", "[0.0, 1.0]"),
        ("input_channels", "4 and 3 channels"),
        ("output_channels", "3 and 2 channels"),
        ("height", "1 x 0 pixels"),
        ("width", "4096 x 1 pixels"),
    ],
)
def test_descriptions_are_checked(kotlin, wrong, reason):
    (line,) = kotlin("check", wrong).decode().splitlines()
    assert reason in line
    assert line.startswith(
        "fine" if wrong == "nothing" else "IllegalArgumentException: a2b_1x1.tflite"
    )


@pytest.mark.parametrize(
    "wrong, title", [("nothing", "mine, 12.3 million multiply-adds"), ("old", "mine")]
)
def test_the_app_says_which_model_it_is(kotlin, wrong, title):
    assert kotlin("title", wrong).decode() == title + "\n"


def test_descriptions_hold_what_the_app_reads():
    generator = ResNetGenerator(filters=4, blocks=1)
    generator.build((None, None, None, 3))
    description = describe(generator, "demo", "a2b", 64, resizable=False) | {"bytes": 1}
    kinds = {"Int": int, "Long": int, "String": str, "Boolean": bool, "JSONArray": list}
    reads = re.findall(r'json\.(?:get|opt)(\w+)\("(\w+)"[),]', source())
    assert len(reads) == 11
    for kind, key in reads:
        assert type(description[key]) is kinds[kind], key
    assert description["range"] == [-1, 1] and description["format"] == 1


IDENTITY = "[-1.0, 0.5, 1.0] true"  # the output of the fake network, equal in both runs


@pytest.mark.parametrize(
    "failing, expected",
    [
        ([], f"GPU {IDENTITY}"),
        (["GPU create"], f"CPU {IDENTITY}"),
        (["GPU inputs"], f"CPU {IDENTITY}"),
        (["GPU outputs"], f"CPU {IDENTITY}"),
        (["GPU run"], f"CPU {IDENTITY}"),
        (["GPU nan"], f"CPU {IDENTITY}"),
        (["GPU size"], f"CPU {IDENTITY}"),
        (["CPU create"], f"GPU {IDENTITY}"),
        (["GPU create", "CPU create"], "does not run on the CPU (no CPU create)"),
        (["GPU outputs", "CPU outputs"], "does not run on the CPU (no CPU outputs)"),
        (["GPU run", "CPU create"], "does not run on the CPU (no CPU create)"),
        (["GPU run", "CPU run"], "does not run on the CPU (no CPU run)"),
        (["GPU nan", "CPU nan"], "gave NaN or infinity on the CPU"),
        (["GPU size", "CPU size"], "gave 1 numbers"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
)
def test_the_cpu_takes_over(kotlin, failing, expected):
    """Checks the fallback from GPU to CPU, and that every model and buffer is closed at the end."""
    (line,) = kotlin("translate", *failing).decode().splitlines()
    assert expected in line and line.endswith(", 0 open")


# === Manifest, resources and Gradle files ===


def test_xml_is_well_formed_and_its_references_exist():
    files = list(MAIN.rglob("*.xml"))
    assert len(files) == 6
    styles = {
        entry.get("name") for entry in ElementTree.parse(MAIN / "res/values/themes.xml").getroot()
    }
    for path in files:
        ElementTree.parse(path)
        for kind, name in re.findall(r'"@(\w+)/([\w.]+)"', path.read_text()):
            known = {"string": strings(), "style": styles}.get(kind)
            assert name in known if known else (MAIN / "res" / kind / f"{name}.xml").is_file()


def test_the_manifest_names_what_exists():
    root = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot()
    (activity,) = root.iter("activity")
    namespace = re.search(r'namespace = "(.*)"', (ANDROID / "app/build.gradle.kts").read_text())[1]
    assert f"package {namespace}\n" in source()
    assert f"class {activity.get(NAME).removeprefix('.')} : ComponentActivity()" in source()
    (provider,) = root.iter("provider")
    authority = provider.get(NAME.replace("name", "authorities"))
    assert authority == "${applicationId}.files" and '"${context.packageName}.files"' in source()
    (folder,) = ElementTree.parse(MAIN / "res/xml/shared_files.xml").getroot()
    assert f'File(context.cacheDir, "{folder.get("path").rstrip("/")}")' in source()


def test_every_string_is_used():
    """Checks for unused strings; the compiler already checks that every used string exists."""
    manifest = (MAIN / "AndroidManifest.xml").read_text()
    used = re.findall(r"R\.string\.(\w+)", source()) + re.findall(r"@string/(\w+)", manifest)
    assert set(used) == set(strings())


def test_the_version_catalog_holds_what_gradle_uses():
    catalog = configparser.ConfigParser(delimiters="=")  # enough to read this TOML file
    catalog.optionxform = str
    catalog.read(ANDROID / "gradle" / "libs.versions.toml")
    scripts = [ANDROID / "build.gradle.kts", ANDROID / "app" / "build.gradle.kts"]
    used = set(re.findall(r"\(libs\.([\w.]+)\)", "".join(path.read_text() for path in scripts)))
    held = {name.replace("-", ".") for name in catalog["libraries"]}
    held |= {"plugins." + name.replace("-", ".") for name in catalog["plugins"]}
    assert used == held
    entries = [*catalog["libraries"].values(), *catalog["plugins"].values()]
    references = {
        name for entry in entries for name in re.findall(r'version\.ref = "(\w+)"', entry)
    }
    assert references == set(catalog["versions"])
