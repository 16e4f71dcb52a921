"""Export a generator to LiteRT (TensorFlow Lite) files, for phones, browsers and small computers.

    tf-cyclegan export tflite --run_dir=runs/mine --direction=a2b --size=256 --output=phone
    tf-cyclegan export tflite --run_dir=runs/mine --direction=a2b --size=320x240 --output=phone
    tf-cyclegan export tflite --run_dir=runs/mine --direction=a2b --resizable --output=laptop

For each mode, writes a file such as a2b_256_float32.tflite and a .json that describes it. Also
writes a2b_256_report.json and a2b_256_report.png, which compare each mode with Keras. Every file is
tested on the run's test images in LiteRT's interpreter first. If one differs too much from Keras,
nothing is written. Sizes are WIDTHxHEIGHT: --size=320x240 gives a2b_320x240_float32.tflite.
This needs: pip install "tf_cyclegan[export]"
"""

import json
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
    """Folder for the files."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder to use."""
    size: str | None = None
    """Image size: a side, such as 256, or WIDTHxHEIGHT, such as 320x240; by default, the run's
    crop size, or 256."""
    modes: str = "float32,float16,dynamic"
    """Comma-separated: float32, float16, dynamic, int8, int16x8, int8_convolutions."""
    resizable: bool = False
    """Write files for images of any size, CPU only, instead of files for one fixed size."""
    images: tuple[str, ...] = ()
    """Images or folders for calibration and comparison; by default, the run's own images."""
    name: str | None = None
    """The model's name for its users; by default, the run folder's name."""
    overwrite: bool = False
    """Replace existing files; without this flag, the export stops if a file exists."""


def main(options: Options) -> int:
    """Writes the files and the report, and returns the exit code."""
    report = export(options)
    print(f"written to {options.output}, see {report} there")
    return 0


def export(options: Options) -> str:
    """Writes the files and the report, prints a table, and returns the name of its image."""
    from tqdm import tqdm  # imported here to keep --help fast

    from tf_cyclegan.data.image_files import encode_image
    from tf_cyclegan.export.compare import example_images, find_sets
    from tf_cyclegan.export.description import model_name, parse_size
    from tf_cyclegan.export.lite_form import check_size
    from tf_cyclegan.export.tflite import (
        CALIBRATED,
        describe,
        export_files,
        parse_modes,
        start_of_name,
    )
    from tf_cyclegan.files import check_output, write_files
    from tf_cyclegan.inference.translator import find_generator
    from tf_cyclegan.training.run_folder import read_config

    # === Check all flags before any work ===
    modes = parse_modes(options.modes, options.resizable)
    is_run = (Path(options.run_dir) / "config.json").is_file()
    default = read_config(options.run_dir).crop_size if is_run else 256
    size = parse_size(str(default) if options.size is None else options.size)
    stem = start_of_name(options.direction, size, options.resizable)
    names = [f"{stem}_{mode}.{kind}" for mode in modes for kind in ("tflite", "json")]
    names += [f"{stem}_report.json", f"{stem}_report.png"]
    check_output(options.output, names, options.overwrite)
    generator = find_generator(options.run_dir, options.direction)
    check_size(generator, size)

    # === Load the images, convert and compare ===
    training, test = find_sets(options.images, options.run_dir, options.direction)
    count = 32 if CALIBRATED & set(modes) else 0  # few: calibration is slow without XNNPACK
    calibration = example_images(training, size, generator.input_channels, count)
    examples = example_images(test, size, generator.input_channels, 8)
    name = options.name or model_name(options.run_dir)
    description = describe(generator, name, options.direction, size, options.resizable)
    progress = tqdm(modes, desc="converting", unit="mode")  # int8 takes minutes at 256x256
    files, report, sheet = export_files(generator, description, progress, calibration, examples)
    files[f"{stem}_report.json"] = (json.dumps(report, indent=2) + "\n").encode()
    files[f"{stem}_report.png"] = encode_image(sheet, f"{stem}_report.png")
    write_files(options.output, files)

    height, width = size
    keras = report["keras_milliseconds"]
    shown = command.counted(len(examples), "image")
    print(
        f"{report['multiply_adds'] / 1e6:,.1f} million multiply-adds for {width}x{height}, "
        f"{report['weights']:,} weights"
    )
    print(f"{shown} of {width}x{height}, Keras {keras:.1f} ms an image")
    print(f"{'file':<36}{'MB':>7}{'PSNR':>8}{'max diff':>10}{'time/Keras':>12}{'pieces':>8}")
    for mode in report["modes"].values():
        apart = mode["difference"]
        print(
            f"{mode['file']:<36}{mode['bytes'] / 1e6:>7.2f}{apart['psnr']:>8.1f}"
            f"{apart['max']:>10.1e}{mode['milliseconds'] / keras:>12.2f}{mode['partitions']:>8}"
        )
    return f"{stem}_report.png"


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__), needs='"tf_cyclegan[export]"')
