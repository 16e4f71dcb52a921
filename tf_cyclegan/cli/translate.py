"""Translate images with a trained generator, each at its own size.

    tf-cyclegan translate --run_dir=runs/mine --direction=a2b --input=photos --output=out
    tf-cyclegan translate --run_dir=runs/mine --direction=both --output=out  # its test images
    tf-cyclegan translate --run_dir=a2b.keras --input holiday.jpg more/ --output=out
    tf-cyclegan translate --run_dir=runs/mine --input=poster.png --output=out --tile=1024

Writes each translation under the name of its image, and index.html, which shows both side by side
(with small copies in index_files/). An image that cannot be read is reported and left out; the exit
code is then 1.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder from import-weights, or a generator file: .keras or .pth."""
    output: str
    """Folder for the translations; for both directions, they go to its sub-folders a2b and b2a."""
    direction: Literal["a2b", "b2a", "both"] = "a2b"
    """Which generator of the folder to use, or both, one after the other."""
    input: tuple[str, ...] = ()
    """Images or folders of images. If a folder holds testA and testB, the one for the direction
    is used. By default, the run's own test images."""
    recursive: bool = False
    """Search the sub-folders of --input too; translations go into the same sub-folders."""
    resize: int | None = None
    """Scale the images first so that their longer side has this many pixels."""
    tile: int | None = None
    """Translate in tiles of this side in pixels, for images too large for memory: slower, but
    without seams. Scratch files go to TMPDIR if it is set, otherwise to the output folder."""


def main(options: Options) -> int:
    """Translates, and returns the exit code: 0, or 1 if an image was left out."""
    from tqdm import tqdm  # imported here to keep --help fast

    from tf_cyclegan.data.image_files import MAX_PIXELS, ImageError, write_image
    from tf_cyclegan.data.resizing import resize_longer_side
    from tf_cyclegan.evaluation.contact_sheets import Page, thumbnail
    from tf_cyclegan.files import check_output, write_text
    from tf_cyclegan.inference.tiles import MAX_TILED_PIXELS, check_tile, tiled_translator
    from tf_cyclegan.inference.translator import (
        find_generator,
        find_images,
        is_single_generator,
        translator,
    )
    from tf_cyclegan.training.run_folder import load_test_images

    # === Check all flags before any work ===
    both = options.direction == "both"
    if options.resize is not None and options.resize < 1:
        raise ValueError(f"resize is {options.resize}: use 1 or more.")
    if both and is_single_generator(options.run_dir):
        raise ValueError(f"{options.run_dir} is a single generator: use --direction=a2b or b2a.")
    if options.tile is not None:
        check_tile(options.tile)
    outputs = {options.direction: Path(options.output)}
    if both:
        outputs = {direction: Path(options.output) / direction for direction in ("a2b", "b2a")}
    for output in outputs.values():
        check_output(output)
    jobs = []
    for direction, output in outputs.items():
        generator = find_generator(options.run_dir, direction)
        if options.tile is None:
            translate, max_pixels = translator(generator), MAX_PIXELS
        else:
            scratch = os.environ.get("TMPDIR") or output
            translate = tiled_translator(generator, options.tile, scratch)
            max_pixels = MAX_TILED_PIXELS
        if options.input:
            images = find_images(options.input, direction, output, max_pixels, options.recursive)
        else:
            images = load_test_images(options.run_dir, direction, output)
        jobs.append((direction, output, translate, images, max_pixels))

    # === Translate image by image ===
    failed = 0
    for direction, output, translate, images, max_pixels in jobs:
        output.mkdir(parents=True, exist_ok=True)
        page = Page(f"{direction}: {options.run_dir}", output)
        for index, name in enumerate(tqdm(images.names, desc=direction, unit="image")):
            try:
                real = images.read(index)
                if options.resize:
                    real = resize_longer_side(real, options.resize, max_pixels)
                shown = thumbnail(real)
                fake = translate(real)
                del real  # frees memory for encoding the translation
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                write_image(output / name, fake)
                page.add(name, shown, fake)
            except ImageError as error:
                tqdm.write(f"left out {name}: {error}", file=sys.stderr)
                failed += 1
        write_text(output / "index.html", page.text())
        done = command.counted(len(page.figures), "image")
        print(f"{direction}: {done} in {output}, see {output}/index.html")
    if failed:
        print(f"{command.counted(failed, 'image')} could not be translated", file=sys.stderr)
    return 1 if failed else 0


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
