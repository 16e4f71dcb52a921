"""Export a trained generator as a SavedModel for TensorFlow Serving.

    tf-cyclegan export saved-model --run_dir=runs/demo --direction=a2b --output=models/summer2winter

Writes models/summer2winter/1. To serve it, see docs/server.md. This needs
tensorflow-serving-api: pip install "tf_cyclegan[export]"
"""

from dataclasses import dataclass
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder from import-weights, or a generator file: .keras or .pth."""
    output: str
    """The model's folder; its name is the model's name."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder to use."""
    version: int = 1
    """The version's sub-folder, which must not exist; servers load the highest version."""
    max_pixels: int = 2048 * 2048
    """Reject larger images by their headers; 4 million pixels take gigabytes of memory."""


def main(options: Options) -> int:
    """Writes the version's folder, and returns the exit code."""
    from tf_cyclegan.export.saved_model import check_version, export_saved_model
    from tf_cyclegan.inference.translator import find_generator

    check_version(options.output, options.version, options.max_pixels)
    generator = find_generator(options.run_dir, options.direction)
    target = export_saved_model(generator, options.output, options.version, options.max_pixels)
    print(f"{target}: {generator.count_params():,} weights, from {options.run_dir}")
    return 0


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
