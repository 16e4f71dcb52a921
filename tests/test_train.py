"""Tests scripts/train.py from images to a run folder, also stopped, killed and continued."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cases import write_landscapes

from tf_cyclegan.cli import evaluate
from tf_cyclegan.cyclegan import CycleGAN
from tf_cyclegan.data.image_files import ImageError, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.interop import load_generator
from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.checkpoint_files import saved_steps
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.loop import train as main
from tf_cyclegan.training.run_folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
SETTINGS = dict(
    load_size=20,
    crop_size=16,
    filters=4,
    blocks=0,
    d_filters=4,
    d_layers=1,
    pool_size=3,
    epochs=3,
    decay_epochs=1,
    sample_every=8,
    save_every=2,
    keep_checkpoints=2,
    strategy="one",
)
STEPS = 24  # four epochs; the larger domain has six images


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """Checks that training restores signal handlers, so that Ctrl-C works in notebooks."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert kept == {number: signal.getsignal(number) for number in kept}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_landscapes(tmp_path_factory.mktemp("photos"), counts=(5, 6))


def settings(photos, run_dir, **changes):
    return Config(**SETTINGS | {"data_dir": str(photos), "run_dir": str(run_dir)} | changes)


def start(config, **environment):
    """Starts the training in a separate process, through its command line."""
    given = {f.name: f.default for f in dataclasses.fields(Config)}
    flags = [
        f"--{name}={value}"
        for name, value in dataclasses.asdict(config).items()
        if value != given[name]
    ]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def steps_saved(run_dir):
    return saved_steps(Path(run_dir, "checkpoints", "worker_0"))


def wait_for_step(process, run_dir, step):
    while max(steps_saved(run_dir), default=0) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def everything(run_dir):
    latest = Path(run_dir, "checkpoints", "worker_0", f"ckpt-{steps_saved(run_dir)[-1]}")
    reader = tf.train.load_checkpoint(str(latest))
    names = [n for n in reader.get_variable_to_shape_map() if not n.startswith("_CHECKPOINT")]
    return {name: reader.get_tensor(name) for name in names}


def test_stopped_killed_and_resumed_equals_one_go_bit_for_bit(photos, tmp_path):
    assert main(settings(photos, tmp_path / "one_go")) == 0

    broken = settings(photos, tmp_path / "broken")
    process = start(broken)
    wait_for_step(process, broken.run_dir, 4)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "the same command continues" in output and "Traceback" not in errors
    stopped = steps_saved(broken.run_dir)[-1]
    assert f"Stopped at step {stopped} of {STEPS}" in output

    process = start(broken)
    wait_for_step(process, broken.run_dir, 14)
    process.kill()  # SIGKILL, which a process cannot catch
    output, _ = process.communicate()
    assert f"step {stopped} of {STEPS}" in output
    killed = steps_saved(broken.run_dir)[-1]
    assert 12 < killed < 18, "to be killed in the middle of the third epoch"

    # In this process, which has another thread pool and has trained before.
    assert main(broken) == 0
    assert steps_saved(broken.run_dir) == [22, 24]
    one_go, resumed = everything(tmp_path / "one_go"), everything(broken.run_dir)
    assert set(one_go) == set(resumed)
    assert any("pool_b/number_0/images" in name for name in one_go)
    for name, value in one_go.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    rows = [read_losses(tmp_path / run / "losses.csv") for run in ("one_go", "broken")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_workers_train_as_one_process_with_both_batches(photos, tmp_path):
    changes = {"max_steps": 2, "pool_size": 0, "sample_every": 0, "blocks": 0}
    one = settings(photos, tmp_path / "one", batch_size=2, **changes)
    assert main(one) == 0
    both = settings(photos, tmp_path / "both", strategy="multiworker", **changes)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        workers.append(start(both, TF_CONFIG=json.dumps(cluster)))
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    rows = [read_losses(tmp_path / name / "losses.csv") for name in ("one", "both")]
    assert len(rows[0]) == len(rows[1]) == 2
    for first, second in zip(*rows, strict=True):
        assert first == pytest.approx(second, rel=1e-3)
    kept = sorted(path.name for path in (tmp_path / "both" / "checkpoints").iterdir())
    assert kept == ["worker_0", "worker_1"]


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "trained"
    assert main(settings(photos, run_dir, max_steps=3, sample_every=0, blocks=1)) == 0
    return run_dir


def test_the_run_folder_holds_what_it_says(trained):
    found = {path.name for path in trained.iterdir()}
    assert found == {
        "config.json", "run.json", "checkpoints", "logs", "samples",
        "losses.csv", "losses.png", "a2b.keras", "b2a.keras",
    }  # fmt: skip
    assert [path.name for path in (trained / "samples").iterdir()] == ["step_0000003.png"]
    assert load_generator(trained / "a2b.keras").filters == 4
    assert list((trained / "logs").iterdir())


def test_the_first_losses_are_what_they_were(trained):
    """Golden numbers: if they change, training has changed, which must be intended."""
    rows = read_losses(trained / "losses.csv")
    names = "g_adv_a2b cycle_a identity_b d_a".split()
    expected = [
        [1.06447, 4.25822, 2.4777, 0.542984],
        [1.02013, 4.16379, 2.62666, 0.522296],
        [1.02808, 4.04173, 2.50552, 0.491785],
    ]
    np.testing.assert_allclose([[row[n] for n in names] for row in rows], expected, rtol=2e-3)


def test_resume_with_other_settings_is_refused(photos, trained):
    before = (trained / "config.json").read_text()
    with pytest.raises(ValueError, match="other settings .--filters=4, now 8.: use the same"):
        main(settings(photos, trained, blocks=1, max_steps=3, filters=8))
    with pytest.raises(ValueError, match="remove --no_resume"):
        main(settings(photos, trained, blocks=1, max_steps=3, resume=False))
    assert (trained / "config.json").read_text() == before


def test_a_training_can_be_continued_for_longer(photos, trained):
    assert main(settings(photos, trained, blocks=1, max_steps=4, sample_every=0)) == 0
    assert steps_saved(trained)[-1] == 4


def test_a_finished_training_has_nothing_left_to_do(photos, trained):
    done = steps_saved(trained)
    assert main(settings(photos, trained, blocks=1, max_steps=done[-1], sample_every=0)) == 0
    assert steps_saved(trained) == done


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "nowhere"}, "nowhere is not a folder: give one that holds trainA and trainB"),
        ({"dataset": "horses", "data_dir": None}, "unknown dataset 'horses': use"),
        ({"dataset": "cycle_gan/horses", "data_dir": None}, "TFDS has no 'cycle_gan/horses'"),
        ({"crop_size": 24}, "larger than load_size 20: use --load_size=24 or more"),
        ({"batch_size": 0}, "batch_size is 0: use 1 or more"),
        ({"crop_size": 18}, "not a multiple of 4, as the generator needs: use --crop_size=16"),
        ({"preprocess": "crop", "crop_size": 28}, "cannot be cropped to 28"),
    ],
)
def test_settings_that_cannot_work_leave_nothing_behind(photos, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        main(settings(photos, tmp_path / "run", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_one_folder_for_both_domains_is_refused(photos, tmp_path):
    both = {name: str(photos / "trainA") for name in ("data_a", "data_b")}
    with pytest.raises(ValueError, match="data_a and data_b are the same folder, .*: name two"):
        main(settings(None, tmp_path / "run", data_dir=None, **both))
    assert not (tmp_path / "run").exists()


def test_a_callback_that_fails_lets_the_run_save(photos, tmp_path, monkeypatch):
    def draw(grid):
        raise ImageError("step_0000003.png: cannot be written")

    monkeypatch.setattr("tf_cyclegan.training.callbacks.SampleGrid.draw", draw)
    with pytest.raises(ValueError, match="cannot be written .training stopped at step 3, which is"):
        main(settings(photos, tmp_path / "run", sample_every=3, watch_every=0, save_every=0))
    assert steps_saved(tmp_path / "run") == [3]


def huge(path):
    from PIL import Image

    Image.new("1", (10_000, 6_000)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("cut.jpg", lambda path: path.write_bytes(jpeg()[:-200]), "cut.jpg: cannot be decoded"),
        ("text.jpg", lambda path: path.write_text("not an image"), "text.jpg: not a JPEG"),
        ("empty.png", lambda path: path.write_bytes(b""), "empty.png: the file is empty"),
        ("huge.png", huge, "huge.png: 10000 x 6000 is more than 50000000 pixels"),
    ],
)
def test_a_bad_image_is_named_before_anything_is_written(tmp_path, name, write, message):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "good.png", landscape(0, "summer", 24, 24))
    write(tmp_path / "b" / name)
    folders = {"data_a": str(tmp_path / "a"), "data_b": str(tmp_path / "b")}
    with pytest.raises(ValueError, match=message):
        main(settings(None, tmp_path / "run", data_dir=None, **folders))
    assert not (tmp_path / "run").exists()


def jpeg():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(landscape(0, "summer", 64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_empty_folder_is_named(tmp_path):
    for folder in ("trainA", "trainB"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="trainA contains no images"):
        main(settings(tmp_path, tmp_path / "run"))


@pytest.mark.slow
def test_one_pixel_images_train_on_two_replicas(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("dot.png", "other.png"):
            write_image(tmp_path / folder / name, np.full((1, 1, 3), 200, np.uint8))
    folders = {"data_a": str(tmp_path / "a"), "data_b": str(tmp_path / "b")}
    less = {"blocks": 0, "sample_every": 0, "watch_every": 0}
    two = settings(None, tmp_path / "run", data_dir=None, strategy="mirrored", **folders, **less)
    assert main(dataclasses.replace(two, max_steps=1)) == 0
    assert main(dataclasses.replace(two, max_steps=2)) == 0, "resumed, with a pool each"
    assert steps_saved(tmp_path / "run") == [1, 2]
    assert evaluate.main(evaluate.Options(str(tmp_path / "run"))) == 0
    result = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert (result["protocol"]["step"], result["protocol"]["epoch"]) == (2, 2)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(photos, tmp_path):
    with pytest.raises(FloatingPointError, match=r"\w+ is (nan|inf) at step \d+: try a lower"):
        main(settings(photos, tmp_path / "run", learning_rate=1e30, save_every=0))
    assert steps_saved(tmp_path / "run") == []


def test_domains_of_two_fixed_sizes_share_a_model(tmp_path):
    """With image pools, each as large as the images that its fakes are made of."""
    for folder, side in (("trainA", 16), ("trainB", 24)):
        (tmp_path / folder).mkdir()
        for i in range(2):
            write_image(tmp_path / folder / f"{i}.png", landscape(i, "summer", side, 16))
    config = settings(tmp_path, tmp_path / "run", preprocess="none", max_steps=2, watch_every=0)
    with pytest.raises(ValueError, match="needs both domains in one size: use a --preprocess"):
        main(dataclasses.replace(config, gradient_penalty=0.1, gradient_center=1.0))
    assert main(config) == 0
    shapes = {value.shape for value in everything(tmp_path / "run").values()}
    assert {(3, 16, 16, 3), (3, 24, 16, 3)} <= shapes


def test_a_run_whose_translations_cannot_be_measured_still_ends(tmp_path, capsys):
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        side = 24 if folder == "testB" else 20  # pairs of two sizes
        write_image(tmp_path / folder / "1.png", landscape(0, "summer", side, side))
    assert main(settings(tmp_path, tmp_path / "run", paired=True, max_steps=1)) == 0
    printed = capsys.readouterr().out
    assert "a2b: not compared with the ground truth: " in printed and "Done." in printed


def test_an_image_that_vanishes_saves_the_run_first(photos, tmp_path, monkeypatch):
    images = shutil.copytree(photos, tmp_path / "images")
    config = settings(images, tmp_path / "run", cache="none", sample_every=0, watch_every=0)
    save = RunFolder.save

    def lose_images(run):
        save(run)
        shutil.rmtree(images / "trainB", ignore_errors=True)

    monkeypatch.setattr(RunFolder, "save", lose_images)
    message = r"trainB.\d.png: no such file.* stopped at step (\d+), which is saved"
    with pytest.raises(ValueError, match=message) as error:
        main(config)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    stopped = int(re.search(message, str(error.value))[1])
    assert 2 <= stopped == steps_saved(tmp_path / "run")[-1] < STEPS
    counters = {k: int(v) for k, v in everything(tmp_path / "run").items() if v.dtype.kind == "i"}
    assert set(counters.values()) == {stopped} and len(counters) >= 5, counters
    shutil.copytree(photos / "trainB", images / "trainB")
    assert main(config) == 0
    rows = read_losses(tmp_path / "run" / "losses.csv")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("tf_config", [None, "", "{", "[]", '{"cluster": {"worker": ["a:1"]}}'])
def test_a_cluster_that_nothing_describes_is_one_line(photos, tmp_path, monkeypatch, tf_config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(
        ValueError, match="needs the environment variable TF_CONFIG .*tf-cyclegan workers"
    ):
        main(settings(photos, tmp_path / "run", strategy="multiworker"))
    assert not (tmp_path / "run").exists()


def test_running_out_of_memory_is_one_line(photos, tmp_path, monkeypatch):
    def fit(self, *arguments, **settings):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmany lines")

    monkeypatch.setattr(CycleGAN, "fit", fit)
    with pytest.raises(MemoryError, match="smaller --crop_size") as error:
        main(settings(photos, tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_the_command_line_gives_one_line_and_an_exit_code(tmp_path):
    """The real command prints no traceback and exits with 1; --help shows every setting."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    bad = subprocess.run(
        [sys.executable, str(SCRIPT), f"--data_dir={tmp_path}/none", f"--run_dir={tmp_path}/run"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert bad.returncode == 1
    assert bad.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in bad.stderr
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0
    for field in dataclasses.fields(Config):
        assert field.name in shown.stdout
