"""Translate a large collection of images with a trained generator, by Apache Beam.

    tf-cyclegan translate-many --run_dir=runs/mine --direction=a2b \\
        --input='photos/**/*.jpg' --output=out
    tf-cyclegan translate-many --run_dir=runs/mine --input=photos --output=out \\
        --direct_num_workers=4 --direct_running_mode=multi_processing

Writes the same files as translate.py, in the subfolders that the glob reaches into, but no page.
Stop or kill it whenever you like: the same command does the rest. Images that fail are listed in
failed.jsonl in the output; the exit code is then 1. All flags but those below are Beam's own: its
runners, on this machine and elsewhere. It needs: pip install "tf_cyclegan[beam]"
"""

import os
import signal
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder that import_weights.py wrote, or a generator: .keras or .pth."""
    input: str
    """A folder of images, or a glob in quotes: * stays within a folder, ** does not."""
    output: str
    """Folder for the translations. Those that are there already are not made again: use another
    one for another generator."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder."""
    resize: int | None = None
    """Scale the images first so that their longer side has this many pixels."""


def main(options: Options, beam_flags: list[str]) -> int:
    """Translates, and returns the exit code: 0, or 1 where an image failed."""
    try:
        from tf_cyclegan.inference.beam import pipeline_options, translate_many
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise ValueError(
            'This needs Apache Beam: pip install "tf_cyclegan[beam]", or use translate.py.'
        ) from None

    counts = translate_many(
        options.run_dir,
        options.direction,
        options.input,
        options.output,
        options.resize,
        pipeline_options(beam_flags),
    )
    line = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{options.direction}: {line}, in {options.output}")
    if counts["failed"]:
        print(f"see {options.output}/failed.jsonl; the next start tries again", file=sys.stderr)
    return 1 if counts["failed"] else 0


def stop(number, frame) -> None:
    """A signal handler: ends the process at once, whatever its runner's threads are waiting for."""
    os.write(2, b"stopped: the same command translates the rest\n")
    os._exit(128 + number)


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    signal.signal(signal.SIGINT, stop)
    options, beam_flags = tyro.cli(
        Options, description=__doc__, use_underscores=True, return_unknown_args=True
    )
    command.run(lambda options: main(options, beam_flags), options)
