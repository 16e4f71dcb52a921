"""Runs exported .tflite files on an emulated 64-bit Arm processor, and compares with this machine.

    make arm                                 # once: downloads an emulated machine to .venv-arm
    python tests/arm/compare.py --run_dirs runs/demo runs/demo_student --size=64

LiteRT has other kernels for Arm than for x86, and phones use those. For each generator and each
mode of tf-cyclegan export tflite, prints the PSNR between the images of both processors, and of
each to Keras. Emulation says nothing about the speed of a phone.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from tf_cyclegan.cli import command

MACHINE = Path(__file__).resolve().parents[2] / ".venv-arm"
# Cortex-A76: phones of 2018. "max": everything that QEMU emulates, such as the int8 matrix products
# of phones of 2022, but not SME, whose int8 products are wrong in QEMU 7.2 (and right in 10.0).
PROCESSORS = ("cortex-a76", "max,sme=off")


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dirs: tuple[str, ...]
    """Run folders or generator files."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folders to use."""
    size: int = 64
    """Side of the images in pixels."""


def compare(
    network: keras.Model, images: Sequence[np.ndarray], calibration: Sequence[np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Compares the exported files of a generator in every mode.

    Args:
        network: a built generator.
        images: what to translate, `[1, h, w, c]`, all of one size.
        calibration: for the modes that need it, likewise.

    Returns:
        Mode -> pair -> "max", "mean" and "psnr" as from `tf_cyclegan.export.compare.difference`. A
        pair is "x86, Keras", or for each processor "PROCESSOR, x86" and "PROCESSOR, Keras".
    """
    from tf_cyclegan.export.compare import difference, keras_runner
    from tf_cyclegan.export.tflite import MODES, LiteModel, convert

    size = images[0].shape[1:3]
    run_keras = keras_runner(network)
    references = [run_keras(image) for image in images]
    results: dict[str, dict[str, dict[str, float]]] = {}
    here = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.concatenate(images))
        for mode in MODES:
            content = convert(network, mode, size, calibration)
            (Path(folder) / f"{mode}.tflite").write_bytes(content)
            run = LiteModel(content)
            here[mode] = [run(image) for image in images]
            results[mode] = {"x86, Keras": difference(here[mode], references)}
        for processor in PROCESSORS:
            run_on_arm(folder, processor)
            for mode in MODES:
                file = Path(folder) / f"{mode}.npy"
                there = np.split(np.load(file), len(images))
                file.unlink()  # so that the next processor must write it again
                results[mode][f"{processor}, x86"] = difference(there, here[mode])
                results[mode][f"{processor}, Keras"] = difference(there, references)
    return results


def run_on_arm(folder: str, processor: str) -> None:
    """Runs all .tflite files of a folder on an emulated processor: see run_files.py.

    Raises:
        ValueError: the emulated machine is missing, or it fails.
    """
    if not (MACHINE / "ready").exists():
        raise ValueError(f"there is no emulated machine in {MACHINE}: run make arm.")
    root, script = MACHINE / "root", Path(__file__).with_name("run_files.py")
    program = ["qemu-aarch64-static", "-cpu", processor, "-L", str(root)]
    program += ["-E", f"PYTHONPATH={MACHINE}/packages", "-E", f"PYTHONHOME={root}/usr"]
    command = [*program, f"{root}/usr/bin/python3", str(script), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode or done.stdout.split() != ["aarch64"]:
        raise ValueError(f"the emulated machine failed: {done.stdout} {done.stderr[-500:]}")


def main(options: Options) -> int:
    """Compares, prints a table, and returns the exit code."""
    from tf_cyclegan.export.compare import example_images, find_sets
    from tf_cyclegan.inference.translator import find_generator

    pairs = [f"{processor}, x86" for processor in PROCESSORS]
    print("| file | " + " | ".join(pairs) + " | Arm, Keras | x86, Keras |")
    print("|---" * (len(pairs) + 3) + "|")
    for run_dir in options.run_dirs:
        network = find_generator(run_dir, options.direction)
        training, test = find_sets((), run_dir, options.direction)
        calibration = example_images(training, options.size, network.input_channels, 32)
        images = example_images(test, options.size, network.input_channels, 4)
        for mode, found in compare(network, images, calibration).items():
            arm = min(found[f"{processor}, Keras"]["psnr"] for processor in PROCESSORS)
            values = [found[pair]["psnr"] for pair in pairs] + [arm, found["x86, Keras"]["psnr"]]
            print(
                f"| {Path(run_dir).name}, {mode} | " + " | ".join(f"{v:.1f}" for v in values) + " |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, command.parse(Options, __doc__)))
