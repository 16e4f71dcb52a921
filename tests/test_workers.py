"""Tests scripts/workers.py with several real processes, one of which is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cases import write_landscapes

from tf_cyclegan.training.callbacks import read_losses
from tf_cyclegan.training.checkpoint_files import saved_steps

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "scripts" / "workers.py"
STEPS = 80  # two epochs and a half
TINY = (
    "--load_size=20 --crop_size=16 --filters=4 --blocks=0 --d_filters=4 --d_layers=1 --cache=none "
    f"--pool_size=3 --sample_every=0 --watch_every=0 --save_every=10 --max_steps={STEPS}"
).split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_landscapes(tmp_path_factory.mktemp("photos"), (64, 64), (20, 20))


def start(run_dir, data_dir):
    flags = (*TINY, f"--run_dir={run_dir}", f"--data_dir={data_dir}")
    return subprocess.Popen(
        [sys.executable, "-u", SCRIPT, "--workers=2", "--", *flags],
        stdout=open(f"{run_dir}.log", "w"),
        stderr=subprocess.STDOUT,
        # Under nohup, SIGHUP would stay ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        # An unreachable proxy: gRPC reads this variable.
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "http_proxy": "http://127.0.0.1:9"},
    )


def checkpoint_folders(run_dir):
    return [run_dir / "checkpoints" / f"worker_{i}" for i in range(2)]


def wait_for_step(process, run_dir, step):
    """Waits until both workers have saved a step, since they resume at one that both have."""
    while min(max(saved_steps(f), default=0) for f in checkpoint_folders(run_dir)) < step:
        assert process.poll() is None, Path(f"{run_dir}.log").read_text()
        time.sleep(0.05)


def trained(run_dir, worker):
    """Returns all tensors of a worker's last checkpoint, except TensorFlow's internal ones."""
    folder = checkpoint_folders(run_dir)[worker]
    reader = tf.train.load_checkpoint(str(folder / f"ckpt-{saved_steps(folder)[-1]}"))
    names = [n for n in reader.get_variable_to_shape_map() if not n.startswith("_CHECKPOINT")]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, photos):
    run_dir = tmp_path_factory.mktemp("workers") / "undisturbed"
    assert start(run_dir, photos).wait(300) == 0, Path(f"{run_dir}.log").read_text()
    return run_dir


def test_stopped_and_with_a_killed_worker_the_job_ends_as_undisturbed(
    undisturbed, photos, tmp_path
):
    run_dir = tmp_path / "disturbed"
    log = Path(f"{run_dir}.log")
    stopped = 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        job = start(run_dir, photos)
        wait_for_step(job, run_dir, stopped + 10)
        job.send_signal(number)
        assert job.wait(120) == 128 + number
        before = stopped
        saved = (set(saved_steps(folder)) for folder in checkpoint_folders(run_dir))
        stopped = max(set.intersection(*saved))
        assert before + 10 <= stopped < STEPS

    (run_dir / "b2a.keras").unlink()  # as if killed after the checkpoint was saved
    job = start(run_dir, photos)
    wait_for_step(job, run_dir, stopped + 10)
    second = int(re.search(r"^workers: \d+ (\d+)$", log.read_text(), re.MULTILINE)[1])
    os.kill(second, signal.SIGKILL)
    assert job.wait(300) == 0, log.read_text()
    text = log.read_text()
    assert "A worker was ended by signal 9: start 2 ..." in text
    resumed = [int(step) for step in re.findall(rf": step (\d+) of {STEPS}", text)]
    assert stopped == resumed[0] < resumed[1] < STEPS
    assert (run_dir / "b2a.keras").exists()
    for worker in (0, 1):
        expected, found = trained(undisturbed, worker), trained(run_dir, worker)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(value, found[name], err_msg=name)
    rows = [read_losses(path / "losses.csv") for path in (undisturbed, run_dir)]
    assert rows[0] == rows[1] and len(rows[0]) == STEPS


def test_workers_see_other_images_and_the_first_saves_what_they_share(undisturbed):
    first, second = trained(undisturbed, 0), trained(undisturbed, 1)
    assert second.keys() == {
        f"pool_{d}/number_0/{v}/.ATTRIBUTES/VARIABLE_VALUE"
        for d in "ab"
        for v in ("images", "seen")
    }
    for name, value in second.items():
        assert np.array_equal(first[name], value) != ("images" in name), name


def test_a_mistake_is_said_and_not_tried_again(tmp_path):
    job = start(tmp_path / "run", "nowhere")
    assert job.wait(120) == 1
    text = Path(f"{tmp_path / 'run'}.log").read_text()
    assert "error: nowhere is not a folder" in text and "start 2" not in text
    assert not (tmp_path / "run").exists()
