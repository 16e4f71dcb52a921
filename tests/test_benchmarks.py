"""Tests the scripts in benchmarks/ at a very small size, and their functions for measuring."""

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from cases import write_landscapes

from tf_cyclegan.data.image_files import read_image
from tf_cyclegan.discriminators import PatchDiscriminator
from tf_cyclegan.export.multiply_adds import convolutions, operation_multiply_adds
from tf_cyclegan.generators import ResNetGenerator
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.factory import make_cyclegan, make_strategy

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import measure  # noqa: E402
import multiply_adds  # noqa: E402
import spawned  # noqa: E402
import train_step  # noqa: E402

pytestmark = pytest.mark.slow

TINY = "--blocks=1 --rounds=1 --threads=1"
STEP = f"--size=24 --filters=2 {TINY}"
COMMANDS = {
    "train_step": f"{STEP} --precisions=float32",
    "inference": STEP,
    "memory": f"{STEP} --precisions=float32 --no_recompute",
    "growth": f"--sizes 24 48 --filters 2 --batches 1 {TINY} --plots=plots",
    "input_pipeline": f"{STEP} --file_size=32 --files=3 --draws=4",
    "settings": "--variants paper EMA --rounds=1 --threads=1 --train='--crop_size=24 --filters=2'",
}


def start(folder, name, flags):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, BENCHMARKS / f"{name}.py", *shlex.split(flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs all scripts at once, as no test checks times; returns each result and printed text."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    folder = tmp_path_factory.mktemp("benchmarks")
    started = {
        name: start(folder, name, f"{flags} --json={name}.json") for name, flags in COMMANDS.items()
    }
    found = {}
    for name, process in started.items():
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        found[name] = json.loads((folder / f"{name}.json").read_text()), out
    assert not list(folder.glob("*.part"))
    found["plots"] = folder / "plots"
    return found


def numbers(value):
    """Returns all numbers in nested dicts."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def check_machine(result):
    assert result["machine"]["cpu"] and result["machine"]["cores"] >= 1
    assert result["machine"]["versions"]["tensorflow"] == tf.__version__
    assert result["machine"]["threads"]["tensorflow"] == 1
    assert result["settings"]["rounds"] == 1 and "json" not in result["settings"]


def test_settings_are_compared_with_the_first(runs):
    result, out = runs["settings"]
    check_machine(result)
    assert list(result["steps"]) == ["paper", "EMA"]
    for entry in result["steps"].values():
        assert all(math.isfinite(number) and number > 0 for number in numbers(entry))
    assert result["steps"]["paper"]["ratio_to_peer"] == 1
    assert "EMA" in out


def test_quality_trains_both_on_the_same_images(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    write_landscapes(tmp_path, (4, 5), (24, 24))
    flags = (
        f"--data_dir={tmp_path} --load_size=24 --crop_size=24 --filters=2 --blocks=1 "
        "--d_filters=2 --epochs=1 --decay_epochs=1"
    )
    process = start(tmp_path, "quality", f"--train='{flags}' --output=quality --seeds 0")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    result = json.loads((tmp_path / "quality" / "quality.json").read_text())
    (ours,), (steps,), (time,) = result.values()
    assert ours["steps"] == steps["steps"] == 10 and time["steps"] >= 1
    assert all(math.isfinite(run[d]) for run in (ours, steps, time) for d in ("a2b", "b2a"))
    assert "peer, equal time" in out
    process = start(tmp_path, "quality", "--train=--data_dir=x --output=quality")
    assert "has runs with other --train flags" in process.communicate()[1]
    process = start(tmp_path, "quality", "--train=--upsampling=resize --output=other")
    assert "upsampling is resize: the peer has only transpose" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.parametrize("name", ["train_step", "inference"])
def test_ours_is_compared_with_the_peer(runs, name):
    result, out = runs[name]
    check_machine(result)
    assert result["machine"]["threads"]["torch"] == 1
    ours = result["settings"]["precisions"].split(",")
    floors = ["float32", *(["bfloat16"] if result["machine"]["bfloat16"] else [])]
    assert set(result["floor"]) == set(floors[: len(ours)])
    entries = [result[label] for label in (*ours, "peer")]
    for entry in [*entries, *result["floor"].values()]:
        assert all(math.isfinite(number) and number > 0 for number in numbers(entry))
        assert set(entry["seconds"]) == set(entry["cpu_seconds"]) == {"median", "min", "max"}
    peer = result["peer"]["seconds"]["median"]
    for entry in entries[:-1]:
        assert entry["ratio_to_peer"] == pytest.approx(entry["seconds"]["median"] / peer)
    total = result["multiply_adds"]["total"]
    for label in ("float32", "peer"):
        rate = total / result[label]["seconds"]["median"]
        share = rate / result["floor"]["float32"]["multiply_adds_per_second"]
        assert result[label]["share_of_floor"] == pytest.approx(share)
        assert f"\n{label} " in out


def test_memory_of_each(runs):
    result, _ = runs["memory"]
    for label in ("float32", "peer"):
        # Importing a framework takes more than 100 MB, and this small model at most 1 or 2 GB.
        assert 1e8 < result[label]["built_bytes"] <= result[label]["peak_bytes"] < 4e9
    ratio = result["float32"]["peak_bytes"] / result["peer"]["peak_bytes"]
    assert result["float32"]["ratio_to_peer"] == pytest.approx(ratio)


def test_growth_along_an_axis(runs):
    result, out = runs["growth"]
    check_machine(result)
    assert [entry["size"] for entry in result["size"]] == [24, 48]
    assert "filters" not in result and "batch" not in result  # each of them has only one value
    small, large = result["size"]
    doubled = result["ratio_48_to_24"]
    assert doubled["seconds"] == pytest.approx(large["rounds"][0] / small["rounds"][0])
    assert doubled["peak_bytes"] == large["peak_bytes"] / small["peak_bytes"]
    assert doubled["multiply_adds"] == pytest.approx(4, rel=0.1)
    assert "along size:" in out
    image = read_image(runs["plots"] / "size.png")
    assert image.shape[1] > 500 and image.std() > 10


def test_images_a_second(runs):
    result, _ = runs["input_pipeline"]
    check_machine(result)
    step = result["step_seconds"]["cpu"]
    assert result["needed_images_per_second"]["cpu"] == pytest.approx(2 / step)
    for name in ("cached", "not_cached"):
        assert all(math.isfinite(number) and number > 0 for number in numbers(result[name]))
        rate = result[name]["images_per_second"]["median"]
        assert result[name]["times_needed"]["cpu"] == pytest.approx(rate * step / 2)
        assert result[name]["times_needed"]["gpu"] == pytest.approx(rate * 0.05 / 2)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train_step", "--threads=-1 --no_peer", "threads is -1: use 0 or more"),
        ("train_step", "--size=30", "multiple of 4"),
        ("inference", "--precisions=float16", "precisions=float16: use float32,mixed_bfloat16"),
        ("memory", "--json=absent/memory.json", "its folder does not exist"),
        ("growth", "--plots=plots --batches 0 1", "batches is 0: use 1 or more"),
        ("input_pipeline", "--step_seconds=0", "a step of 0.0 seconds: use more"),
    ],
)
def test_mistakes_give_one_line(tmp_path, name, flags, message):
    process = start(tmp_path, name, flags)
    out, errors = process.communicate()
    assert process.returncode == 1 and not out
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert not list(tmp_path.iterdir())


def test_without_torch_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r'pip install "tf_cyclegan\[torch\]", or use --no_peer'):
        train_step.main(train_step.Options())


def test_students_are_compared_with_teacher_and_control(tmp_path):
    write_landscapes(tmp_path / "data", (4, 4), (20, 20))
    write_landscapes(tmp_path / "data", (4, 4), (20, 20), ("testA", "testB"))
    data = "--data_dir=data --load_size=20 --crop_size=16 --filters=2 --blocks=1 --epochs=1"
    flags = f"{data} --d_filters=2 --d_layers=1 --decay_epochs=0"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tf_cyclegan.cli",
            "train",
            *shlex.split(flags),
            "--run_dir=teacher",
        ],
        check=True,
        cwd=tmp_path,
    )
    process = start(
        tmp_path,
        "student",
        "--run_dir=teacher --output=students --seeds 0 "
        f"--student='--filters=2 --blocks=1 --epochs=1 --decay_epochs=0' --control='{flags}'",
    )
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    result = json.loads((tmp_path / "students" / "students.json").read_text())
    assert [len(result[name]) for name in ("teacher", "student", "CycleGAN")] == [1, 1, 1]
    for runs in result.values():
        for run in runs:
            assert all(math.isfinite(run[direction]["kid"]) for direction in ("a2b", "b2a"))
    process = start(tmp_path, "student", "--run_dir=teacher --output=students --seeds 0")
    assert "has runs with other flags: use another --output" in process.communicate()[1]


# === Multiply-adds ===


def test_the_papers_networks_take_what_is_published():
    generator, discriminator = ResNetGenerator(64, blocks=9), PatchDiscriminator(64)
    for network, giga in ((generator, 49.6), (discriminator, 3.1)):
        network.build((None, None, None, 3))
        counted = sum(convolutions(network, (1, 256, 256, 3)))
        assert counted / 1e9 == pytest.approx(giga, abs=0.05)
    # Expected: 7x7 from 3 to 64 channels at every pixel; 3x3 from 64 to 128 at a quarter of them.
    first, second = convolutions(generator, (2, 256, 256, 3))[:2]
    assert first == 2 * 256**2 * 7 * 7 * 3 * 64
    assert second == 2 * 128**2 * 3 * 3 * 64 * 128


def test_separable_convolutions_take_a_ninth_of_full_ones():
    arguments = {"filters": 64, "blocks": 1, "upsampling": "resize", "separable": True}
    generator = ResNetGenerator(**arguments)
    generator.build((None, None, None, 3))
    counts = convolutions(generator, (1, 64, 64, 3))
    block = counts[5:9]  # after the first one, and two pairs that halve the size
    depthwise, pointwise = 16**2 * 3 * 3 * 256, 16**2 * 256 * 256
    assert block == [depthwise, pointwise] * 2
    upsampled = counts[9:11]
    assert upsampled == [16**2 * 256 * 128, 32**2 * 3 * 3 * 128]


def test_a_steps_multiply_adds_are_those_of_its_graph():
    size = (24, 28, 3)
    config = Config(crop_size=24, filters=2, blocks=1, d_filters=3)
    strategy = make_strategy("one")
    model = make_cyclegan(config, strategy, size, size, steps_per_epoch=10)
    step = tf.function(lambda *batch: strategy.run(model.train_step, args=(batch,)))
    spec = tf.TensorSpec((1, *size))
    graph = step.get_concrete_function(spec, spec).graph
    counts = multiply_adds.step_multiply_adds(
        convolutions(model.a2b, (1, *size)),
        convolutions(model.d_a, (1, *size)),
    )
    assert counts["total"] == sum(
        map(operation_multiply_adds, multiply_adds.needed_operations(graph))
    )
    assert counts["total"] == counts["forward"] + counts["backward"]


# === Alternating measurements ===


class Scripted:
    """Replaces a process, with calls that take known times."""

    def __init__(self, calls, *times):
        self.calls, self.times = calls, list(times)

    def time(self, name):
        self.calls.append(name)
        return self.times.pop(0)


def test_contestants_take_turns_and_are_compared_within_a_round():
    calls = []
    warmup = [(9.0, 9.0)] * measure.WARMUP
    ours = Scripted(calls, *warmup, (1.0, 2.0), (8.0, 2.0), (3.0, 3.0))
    peer = Scripted(calls, *warmup, (2.0, 4.0), (4.0, 1.0), (3.0, 4.0))
    times, others = measure.alternate({"float32": (ours, "a"), "peer": (peer, "b")}, rounds=3)
    assert calls == ["a", "b"] * (measure.WARMUP + 3)
    assert times["float32"] == [(1.0, 2.0), (8.0, 2.0), (3.0, 3.0)]
    assert measure.summary(times["peer"]) == {
        "seconds": {"median": 3.0, "min": 2.0, "max": 4.0},
        "cpu_seconds": {"median": 4.0, "min": 1.0, "max": 4.0},
    }
    assert measure.ratios(times["float32"], times["peer"]) == {
        "ratio_to_peer": 1.0,  # median of 0.5, 2 and 1; the ratio of medians is also 1, ...
        "ratio_to_peer_min": 0.5,
        "ratio_to_peer_max": 2.0,
        "cpu_ratio_to_peer": 0.75,  # ... but here 0.5, unlike the median of 0.5, 2 and 0.75
    }
    assert others is None or others >= 0


def test_a_process_answers_or_says_why_not():
    with pytest.raises(ValueError, match="^RuntimeError: no luck$"):
        measure.Process(spawned.fails)
    with pytest.raises(ValueError, match="killed.*use a smaller"):
        measure.Process(spawned.dies)
    with measure.Process(spawned.computes) as process:
        assert process.names == ["good", "nan"] and process.facts == {"fact": 1}
        seconds, cpu_seconds = process.time("good")
        assert seconds > 0 and cpu_seconds >= 0
        # Much less than this process uses, so the memory of the child is measured separately.
        assert 64 << 20 < process.peak_memory() < measure.peak_memory()
        with pytest.raises(ValueError, match="nan computed nan"):
            process.time("nan")
