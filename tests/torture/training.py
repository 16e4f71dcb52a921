"""Kill a training run many times: nothing may be lost, mixed up or changed.

    python tests/torture/training.py --kills=30 --seed=0

A run with a checkpoint after every step is killed by SIGKILL at random moments, also while it
starts and while it saves, and restarted with the same command until it is finished. Weights and
their averages, optimizers, image pools, steps, losses.csv, and the measurements on validation
images must then equal those of an undisturbed run, bit for bit. Finally, two processes start in
one run folder at once: one must train, and the other must be refused. Prints what was tried and
what was lost; the exit code is 1 if anything was lost.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_cyclegan.data.image_files import write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.training.checkpoint_files import saved_steps

ROOT = Path(__file__).resolve().parents[2]
STEPS = 120
FLAGS = (
    "--load_size=20 --crop_size=16 --filters=2 --blocks=0 --d_filters=2 --d_layers=1 --pool_size=3 "
    f"--sample_every=0 --watch_every=0 --save_every=1 --keep_checkpoints=2 --max_steps={STEPS} "
    "--strategy=one --ema=0.9 --d_norm=spectral --d_augment=translation,color,cutout "
    "--evaluate_every=1"
).split()


def make_images(folder: Path) -> Path:
    """Writes a small dataset."""
    for split, season, count in (("trainA", "summer", 5), ("trainB", "winter", 7)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            write_image(folder / split / f"{i}.png", landscape(i, season, 24, 30))
    return folder


def start(run_dir: Path, images: Path, *flags: str, log: Path | None = None) -> subprocess.Popen:
    """Starts training in a new process; its output goes to `log`, or next to the run folder."""
    flags = (*FLAGS, f"--run_dir={run_dir}", f"--data_dir={images}", *flags)
    with open(log or f"{run_dir}.log", "a") as file:
        return subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "train.py", *flags],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        )


def newest(run_dir: Path) -> int:
    return max(saved_steps(run_dir / "checkpoints" / "worker_0"), default=0)


def state(run_dir: Path) -> dict[str, np.ndarray]:
    """Returns all values of the newest checkpoint, and the text of the other records."""
    prefix = run_dir / "checkpoints" / "worker_0" / f"ckpt-{newest(run_dir)}"
    reader = tf.train.load_checkpoint(str(prefix))
    names = [n for n in reader.get_variable_to_shape_map() if not n.startswith("_CHECKPOINT")]
    values = {name: reader.get_tensor(name) for name in names}
    records = ("losses.csv", "validation.csv", "best/best.json")
    return values | {name: np.array((run_dir / name).read_text()) for name in records}


def differences(one: Path, other: Path) -> list[str]:
    """Returns the names of values that differ between two runs, compared bit for bit."""
    first, second = state(one), state(other)
    return sorted(first.keys() ^ second.keys()) + [
        name
        for name in first.keys() & second.keys()
        if not np.array_equal(first[name], second[name])
    ]


def kill_until_done(run_dir: Path, images: Path, kills: int, draws: random.Random) -> list[int]:
    """Trains to the end with this number of kills; returns the steps of the kills."""
    struck = []
    while len(struck) < kills:
        process = start(run_dir, images)
        if draws.random() < 0.1:  # during startup
            time.sleep(draws.uniform(0, 8))
        else:
            # Kills are spread over the run, and happen at any moment within a step.
            left = STEPS - newest(run_dir)
            target = newest(run_dir) + draws.randint(
                0, max(2 * left // (kills - len(struck)) - 1, 0)
            )
            while newest(run_dir) < min(target, STEPS - 1) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draws.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:
            break
        struck.append(newest(run_dir))
    process = start(run_dir, images)
    if process.wait() != 0:
        raise RuntimeError(f"the last start failed: see {run_dir}.log")
    return struck


def race(run_dir: Path, images: Path) -> bool:
    """Starts two processes in one folder; returns whether one trained and one was refused."""
    processes = [start(run_dir, images) for _ in range(2)]
    codes = sorted(process.wait() for process in processes)
    log = Path(f"{run_dir}.log").read_text()
    return codes == [0, 1] and "in use by another training process" in log


def main(kills: int, seed: int, folder: Path, with_race: bool = True) -> int:
    """Runs it all and returns the exit code."""
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    images = make_images(folder / "images")
    if start(undisturbed, images).wait() != 0:
        print(Path(f"{undisturbed}.log").read_text())
        return 1
    struck = kill_until_done(killed, images, kills, random.Random(seed))
    lost = differences(undisturbed, killed)
    print(f"training: {len(struck)} kills, at steps {' '.join(map(str, struck))} of {STEPS}")
    print(f"training: {len(lost)} values differ from the undisturbed run {lost[:5]}")
    raced = not with_race or race(folder / "raced", images)
    if with_race:
        print(f"training: two processes in one folder: {'one is refused' if raced else 'LOST'}")
        lost += differences(undisturbed, folder / "raced") if raced else ["race"]
    return 1 if lost or len(struck) < kills else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(arguments.kills, arguments.seed, Path(temporary)))
