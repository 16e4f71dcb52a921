"""Translate a large collection of images with a trained generator and Apache Beam.

    tf-cyclegan translate-many --run_dir=runs/mine --direction=a2b \\
        --input='photos/**/*.jpg' --output=out
    tf-cyclegan translate-many --run_dir=runs/mine --input=photos --output=out \\
        --direct_num_workers=4 --direct_running_mode=multi_processing

Writes the same files as tf-cyclegan translate, in the sub-folders that the glob matches, but no
page. You can stop or kill it at any time: run the same command again to translate the rest. Images
that fail are listed in failed.jsonl in the output; the exit code is then 1. All other flags are
passed to Beam, such as its runner. This needs: pip install "tf_cyclegan[beam]"
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
    """A run folder, a folder from import-weights, or a generator file: .keras or .pth."""
    input: str
    """A folder of images, or a glob in quotes: * matches within a folder, ** across folders."""
    output: str
    """Folder for the translations. Existing ones are skipped, so use another folder for another
    generator."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder to use."""
    resize: int | None = None
    """Scale the images first so that their longer side has this many pixels."""


def main(options: Options, beam_flags: list[str]) -> int:
    """Translates, and returns the exit code: 0, or 1 if an image failed."""
    try:
        from tf_cyclegan.inference.beam import pipeline_options, translate_many
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise ValueError(
            'This needs Apache Beam: pip install "tf_cyclegan[beam]", or use tf-cyclegan translate.'
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
        print(f"see {options.output}/failed.jsonl; run this again to retry them", file=sys.stderr)
    return 1 if counts["failed"] else 0


def stop(number, frame) -> None:
    """Handles a signal: ends the process at once, without waiting for the runner's threads."""
    os.write(2, b"stopped: the same command translates the rest\n")
    os._exit(128 + number)


def parse(arguments: list[str]) -> tuple[Options, list[str]]:
    """Reads the flags; returns the options, and the flags for Beam."""
    options, beam_flags = tyro.cli(
        Options,
        description=__doc__,
        use_underscores=True,
        args=arguments,
        return_unknown_args=True,
    )
    return command.at_home(options), beam_flags


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    signal.signal(signal.SIGINT, stop)
    options, beam_flags = parse(sys.argv[1:])
    command.run(lambda options: main(options, beam_flags), options)
