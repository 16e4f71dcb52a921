"""Kill the exporters at random moments, and check that every file is complete or absent.

    python tests/torture/exporters.py --kills=5 --seed=0

Each exporter is killed --kills times: every third time at any moment, otherwise after it has begun
to write. After each kill, every file must load and run, or be absent. Unfinished files of a killed
exporter are listed, and the next run must remove them. The exit code is 1 if any check fails. Takes
about half a minute for each kill, most of it for imports and conversion.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds after which a run counts as hung
SIZE = 32


@dataclass(frozen=True)
class Options:
    """The flags."""

    kills: int = 5
    """How often each exporter is killed."""
    seed: int = 0
    """Random seed of the moments."""
    exporters: str = "saved_model,tflite,onnx_file"
    """Which of them, by commas."""


@dataclass(frozen=True)
class Exporter:
    """One of the scripts in export/.

    Attributes:
        name: the name of its script.
        flags: all flags except --run_dir; `{output}` is its folder, `{base}` that of the inputs.
        wanted: names of all files and folders of a complete output.
        check: raises an Exception unless one of these, given as a path, loads and runs.
    """

    name: str
    flags: tuple[str, ...]
    wanted: tuple[str, ...]
    check: Callable[[Path], None]


def check_saved_model(path: Path) -> None:
    """Loads a version's folder, and translates an image."""
    import numpy as np
    import tensorflow as tf

    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert np.isfinite(signature(image=tf.zeros([1, SIZE, SIZE, 3]))["image"]).all()
    assert (path / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0


def check_tflite(path: Path) -> None:
    """Loads and runs a .tflite file, or reads a .json or .png file."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image

    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        Image.open(path).load()
    else:
        runner = Interpreter(str(path)).get_signature_runner()
        (name,) = runner.get_input_details()
        (fake,) = runner(**{name: np.zeros([1, SIZE, SIZE, 3], np.float32)}).values()
        assert np.isfinite(fake).all()


def check_onnx(path: Path) -> None:
    """Loads and runs an ONNX file."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (fake,) = session.run(None, {"image": np.zeros([1, SIZE, SIZE, 3], np.float32)})
    assert np.isfinite(fake).all()


MODES = ("float32", "dynamic")
EXPORTERS = (
    Exporter("saved_model", ("--output={output}",), ("1",), check_saved_model),
    Exporter(
        "tflite",
        (
            "--output={output}",
            f"--size={SIZE}",
            f"--modes={','.join(MODES)}",
            "--images={base}/images",
        ),
        (
            *(f"a2b_{SIZE}_{mode}.{suffix}" for mode in MODES for suffix in ("tflite", "json")),
            f"a2b_{SIZE}_report.json",
            f"a2b_{SIZE}_report.png",
        ),
        check_tflite,
    ),
    Exporter("onnx_file", ("--output={output}/a2b.onnx",), ("a2b.onnx",), check_onnx),
)


def main(options: Options) -> int:
    """Returns the exit code: 1 if any file was incomplete, or a later run failed."""
    rng = random.Random(options.seed)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_inputs(base)
        for exporter in EXPORTERS:
            if exporter.name in options.exporters.split(","):
                faults += torture(exporter, base, options.kills, rng)
    print(f"faults {faults}")
    return 1 if faults else 0


def torture(exporter: Exporter, base: Path, kills: int, rng: random.Random) -> int:
    """Kills one exporter, and returns the number of faults."""
    output = base / exporter.name
    begun, wrote, ended = watch(start(exporter, base, output), output)
    faults = judge(exporter, output, "undisturbed", whole=True)
    done = 0
    while done < kills:
        shutil.rmtree(output, ignore_errors=True)
        process, at = start(exporter, base, output), time.monotonic()
        if done % 3 == 2:
            delay = rng.uniform(0, ended - begun)
        else:
            while process.poll() is None and not snapshot(output):
                time.sleep(0.0005)
            delay = time.monotonic() - at + rng.uniform(0, ended - wrote)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(at + delay - time.monotonic(), 0))
        killed = process.poll() is None
        if killed:
            os.killpg(process.pid, signal.SIGKILL)
            done += 1
        process.wait()
        output.mkdir(exist_ok=True)
        when = f"killed after {delay:.2f} s" if killed else "ended before its kill"
        faults += judge(exporter, output, when, whole=not killed)
    for name in exporter.wanted:  # an export does not replace files that are complete
        if (output / name).is_dir():
            shutil.rmtree(output / name)
        else:
            (output / name).unlink(missing_ok=True)
    process = start(exporter, base, output)
    if process.wait(LIMIT):
        print(f"{exporter.name}: the next run ended with {process.returncode}")
        faults += 1
    left = {path.name for path in output.iterdir()} - set(exporter.wanted)
    return faults + judge(exporter, output, "after the last kill", whole=True) + len(left)


def judge(exporter: Exporter, output: Path, when: str, whole: bool) -> int:
    """Checks the output, prints its state, and returns the number of faults."""
    faults, states = 0, {}
    for name in exporter.wanted:
        if not (output / name).exists():
            states[name] = "absent"
            faults += whole
            continue
        try:
            exporter.check(output / name)
            states[name] = "whole"
        except Exception as error:
            states[name] = f"DAMAGED ({type(error).__name__}: {str(error).splitlines()[:1]})"
            faults += 1
    beside = sorted({path.name for path in output.iterdir()} - set(exporter.wanted))
    print(f"{exporter.name}, {when}: {states}, beside: {beside}", flush=True)
    return faults


def watch(process: subprocess.Popen, output: Path) -> tuple[float, float, float]:
    """Waits for the process to end; returns when it began, first wrote, and last wrote."""
    begun = wrote = ended = time.monotonic()
    known: dict[str, int] = {}
    while process.poll() is None and time.monotonic() < begun + LIMIT:
        if (now := snapshot(output)) != known:
            ended = time.monotonic()
            wrote = wrote if known else ended
            known = now
        time.sleep(0.0005)
    process.wait(LIMIT)
    return begun, wrote, ended


def snapshot(folder: Path) -> dict[str, int]:
    """Returns all files in a folder with their sizes; files may disappear meanwhile."""
    sizes = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes[os.path.join(root, name)] = os.stat(os.path.join(root, name)).st_size
    return sizes


def make_inputs(base: Path) -> None:
    """Writes a generator with large weights, and some images."""
    import keras  # imported here to keep --help fast
    import numpy as np

    from tf_cyclegan.data.image_files import write_image
    from tf_cyclegan.generators import ResNetGenerator
    from tf_cyclegan.training.run_folder import save_generator

    keras.utils.set_random_seed(0)
    network = ResNetGenerator(filters=4, blocks=1)
    network.build((None, None, None, 3))
    save_generator(network, base / "a2b.keras")
    (base / "images").mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        write_image(base / "images" / f"{number}.png", image)


def start(exporter: Exporter, base: Path, output: Path) -> subprocess.Popen:
    """Starts the exporter."""
    command = [sys.executable, ROOT / "export" / f"{exporter.name}.py", f"--run_dir={base}"]
    command += [flag.format(output=output, base=base) for flag in exporter.flags]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=open(base / f"{exporter.name}.log", "w"),
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
