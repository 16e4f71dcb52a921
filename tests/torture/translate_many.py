"""Kill translate_many.py at random moments, start it again, and compare its output.

    python tests/torture/translate_many.py --kills=20 --seed=0

After each kill, all translations in the output must have the bytes of an undisturbed run, and those
from before must be unchanged. When the output is complete, it is emptied and filled again. The exit
code is 1 if a file was lost or damaged. Takes 10 to 40 seconds per kill, most of it for imports.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds after which a run counts as hung


@dataclass(frozen=True)
class Options:
    """The flags."""

    kills: int = 20
    """How often the process is killed."""
    seed: int = 0
    """Random seed of the moments."""
    images: int = 60
    """How many images there are to translate; two more cannot be read."""


def main(options: Options) -> int:
    """Returns the exit code: 1 if anything was lost or damaged."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_inputs(base, options.images)
        working = seconds_of_work(start(base, "expected"), base / "expected")
        expected = files(base / "expected")
        print(f"undisturbed: {len(expected)} files in {working:.1f} s of work", flush=True)

        output, kills, rounds, faults = base / "output", 0, 0, 0
        while kills < options.kills:
            before = stamps(output)
            process = start(base, "output")
            wait_for_work(process, output)
            if kills % 3:  # while it writes, which takes only a short time
                enough = rng.randrange(len(before), len(expected))
                while process.poll() is None and len(stamps(output)) < enough:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.02))
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, working))
            killed = process.poll() is None
            if killed:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
            found = files(output)
            damaged = [name for name in found if found[name] != expected.get(name)]
            changed = [name for name, stamp in before.items() if stamps(output).get(name) != stamp]
            lost = [] if killed else sorted(expected.keys() - found.keys())
            faults += len(damaged) + len(changed) + len(lost)
            print(
                f"kill {kills}: {len(found)} of {len(expected)} files, {damaged=}, {changed=}, "
                f"{lost=}",
                flush=True,
            )
            if not killed:
                shutil.rmtree(output)
                rounds += 1
        start(base, "output").wait(LIMIT)
        found = files(output)
        lost = sorted(expected.keys() - found.keys())
        damaged = [name for name in found if found[name] != expected.get(name)]
        remains = [p.name for p in output.iterdir() if p.is_dir()]
        faults += len(lost) + len(damaged) + len(remains)
    print(f"kills {kills}, full rounds {rounds}, files {len(found)}, faults {faults}: ", end="")
    print(f"{lost=}, {damaged=}, {remains=}")
    return 1 if faults else 0


def make_inputs(base: Path, images: int) -> None:
    """Writes a generator with large weights, tiny images, and two files that are not images."""
    import keras  # imported here to keep --help fast
    import numpy as np

    from tf_cyclegan.data.image_files import write_image
    from tf_cyclegan.generators import ResNetGenerator
    from tf_cyclegan.training.run_folder import save_generator

    keras.utils.set_random_seed(0)
    network = ResNetGenerator(filters=4, blocks=1)
    network.build((None, None, None, 3))
    network.set_weights([10 * weight for weight in network.get_weights()])
    (base / "run").mkdir()
    save_generator(network, base / "run" / "a2b.keras")
    (base / "images").mkdir()
    for number in range(images):
        image = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        write_image(base / "images" / f"{number}.png", image)
    for name in ("empty.png", "text.jpg"):
        (base / "images" / name).write_text("no image" if name == "text.jpg" else "")


def start(base: Path, output: str) -> subprocess.Popen:
    """Starts the command, which is the same every time."""
    command = [sys.executable, ROOT / "scripts" / "translate_many.py", f"--run_dir={base}/run"]
    command += [f"--input={base}/images", f"--output={base / output}"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_work(process: subprocess.Popen, output: Path) -> None:
    """Waits until the process has begun to write, or has ended."""
    unfinished, deadline = output / ".unfinished", time.monotonic() + LIMIT
    old = unfinished.stat().st_ino if unfinished.exists() else None
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if unfinished.stat().st_ino != old:
                break
        time.sleep(0.002)


def seconds_of_work(process: subprocess.Popen, output: Path) -> float:
    """Waits for the end, and returns the seconds from the first file to the last."""
    wait_for_work(process, output)
    begun = last = time.monotonic()
    count = 0
    while process.poll() is None and time.monotonic() < begun + LIMIT:
        if (now := len(files(output))) != count:
            count, last = now, time.monotonic()
        time.sleep(0.01)
    return last - begun


def files(output: Path) -> dict[str, bytes]:
    """Returns the files in the output, without the folder of unfinished files."""
    return {path.name: path.read_bytes() for path in output.glob("*") if path.is_file()}


def stamps(output: Path) -> dict[str, tuple[int, int]]:
    """Returns the inode and the modification time of each translation."""
    paths = [path for path in output.glob("*.*g") if path.is_file()]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
