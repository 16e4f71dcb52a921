"""Fill the disk during a training run and a translation: no complete file may be lost.

    python tests/torture/full_disk.py

Needs Linux and root, to mount small file systems in memory. A training run gets a disk of a few
kilobytes, and then of more and more, so that each kind of file that it writes is once the one that
does not fit. Each time, the run must end by itself with one line and exit code 1, and leave only
complete checkpoints. Once there is space, it must continue to the same result as an undisturbed
run. Translations must be complete or absent. Prints what was tried and what was lost; the exit code
is 1 if anything was lost, and 77 if file systems cannot be mounted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from training import ROOT, differences, make_images, start

from tf_cyclegan.data.image_files import ImageError, read_image, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.training.checkpoint_files import find_damage, saved_steps

STEPS = "--max_steps=6"


def mount(folder: Path, kilobytes: int, *options: str) -> bool:
    """Mounts a file system of this size, or changes its size with "remount"."""
    folder.mkdir(parents=True, exist_ok=True)
    size = ",".join((f"size={kilobytes}k", *options))
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def one_line(code: int, text: str) -> list[str]:
    """Returns what is wrong with the exit code and output of a command that had no space."""
    last = (text.splitlines() or [""])[-1]
    good = code == 1 and last.startswith("error: ") and "Traceback" not in text
    return [] if good else [f"exit code {code}, {last!r}"]


def train(disk: Path, images: Path, undisturbed: Path) -> list[str]:
    """Returns what goes wrong in a training run on a small disk that then grows."""
    run_dir, log = disk / "run", Path(f"{disk}.log")
    wrong = one_line(start(run_dir, images, STEPS, log=log).wait(), log.read_text())
    folder = run_dir / "checkpoints" / "worker_0"
    wrong += [f"ckpt-{s} is damaged" for s in saved_steps(folder) if find_damage(folder, s)]
    mount(disk, 100_000, "remount")
    if start(run_dir, images, STEPS, log=log).wait() != 0:
        return [*wrong, f"it does not continue: {log.read_text().splitlines()[-1]}"]
    return wrong + differences(undisturbed, run_dir)


def translate(disk: Path, generator: Path, photos: Path) -> list[str]:
    """Returns what goes wrong in a translation on a small disk."""
    command = [sys.executable, ROOT / "scripts" / "translate.py", f"--run_dir={generator}"]
    command += [f"--input={photos}", f"--output={disk / 'out'}"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    wrong = [] if done.returncode == 1 and "Traceback" not in done.stderr else [done.stderr[-200:]]
    for path in disk.rglob("*.*"):
        try:
            if path.suffix == ".png":
                read_image(path)
            elif "part" in path.name or path.suffix == ".tmp":
                wrong.append(f"{path.name} is left over")
        except ImageError as error:
            wrong.append(str(error))
    return wrong


def main(sizes: list[int], folder: Path) -> int:
    """Runs it all and returns the exit code."""
    if not mount(folder / "probe", 100):
        print("full disk: skipped, since file systems cannot be mounted here")
        return 77
    mounted, faults = [folder / "probe"], []
    try:
        images = make_images(folder / "images")
        if start(folder / "undisturbed", images, STEPS).wait() != 0:
            raise RuntimeError(Path(f"{folder}/undisturbed.log").read_text())
        for kilobytes in sizes:
            mounted.append(disk := folder / f"disk_{kilobytes}")
            mount(disk, kilobytes)
            faults += [
                f"{kilobytes} kB: {wrong}" for wrong in train(disk, images, folder / "undisturbed")
            ]
        (folder / "photos").mkdir()
        for i in range(8):
            write_image(folder / "photos" / f"{i}.png", landscape(i, "summer", 64, 64))
        for kilobytes in (8, 40):
            mounted.append(disk := folder / f"translated_{kilobytes}")
            mount(disk, kilobytes)
            wrong = translate(disk, folder / "undisturbed" / "a2b.keras", folder / "photos")
            faults += [f"translation, {kilobytes} kB: {text}" for text in wrong]
    finally:
        for disk in mounted:
            subprocess.run(["umount", str(disk)], stderr=subprocess.DEVNULL)
    print(f"full disk: {len(sizes)} sizes in training, 2 in translation; {len(faults)} faults")
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kilobytes", type=int, nargs="*", default=[4, 16, 40, 100, 200, 300])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(arguments.kilobytes, Path(temporary)))
