"""Export a generator to LiteRT (TensorFlow Lite) files, for phones, browsers and small computers.

    python export/tflite.py --run_dir=runs/mine --direction=a2b --size=256 --output=phone
    python export/tflite.py --run_dir=runs/mine --direction=a2b --modes=int8 --output=phone
    python export/tflite.py --run_dir=runs/mine --direction=a2b --resizable --output=laptop

Writes a2b_256_float32.tflite and so on, beside each a .json that describes it, a2b_256_report.json,
and a2b_256_report.png: pictures, Keras, each mode, its difference. Every file has run on the run's
test pictures, in LiteRT's interpreter, before it is written; if one is too far from Keras, none is.
Needs: pip install "tf_cyclegan[export]"
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder that import_weights.py wrote, or a generator: .keras or .pth."""
    output: str
    """Folder for the files."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder."""
    size: int | None = None
    """Height and width of the pictures; if not given, what the run was trained on, or 256."""
    modes: str = "float32,float16,dynamic"
    """Any of float32, float16, dynamic, int8, int16x8 and int8_convolutions."""
    resizable: bool = False
    """One file for pictures of any size, CPU only, instead of one that is bound to its size."""
    pictures: tuple[str, ...] = ()
    """Pictures or folders to calibrate and compare on; if not given, the run's own."""
    name: str | None = None
    """What users see; if not given, the run folder's name."""


def main(options: Options) -> int:
    """Writes the files and the report, and returns the exit code."""
    from tqdm import tqdm  # after --help, which needs none of it

    from tf_cyclegan.checkpoints import read_config
    from tf_cyclegan.data.pictures import write_picture
    from tf_cyclegan.export.compare import example_images, find_sets
    from tf_cyclegan.export.tflite import CALIBRATED, describe, export_files, start_of_name
    from tf_cyclegan.translate import find_generator

    generator = find_generator(options.run_dir, options.direction)
    size = options.size
    if size is None:
        is_run = (Path(options.run_dir) / "config.json").is_file()
        size = read_config(options.run_dir).crop_size if is_run else 256
    training, test = find_sets(options.pictures, options.run_dir, options.direction)
    modes = options.modes.split(",")
    count = 32 if CALIBRATED & set(modes) else 0  # calibration runs without XNNPACK: slow
    calibration = example_images(training, size, generator.input_channels, count)
    examples = example_images(test, size, generator.input_channels, 8)
    name = options.name or Path(options.run_dir).resolve().stem
    description = describe(generator, name, options.direction, size, options.resizable)
    progress = tqdm(modes, desc="converting", unit="mode")  # int8 takes minutes at 256x256
    files, report, sheet = export_files(generator, description, progress, calibration, examples)

    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    stem = start_of_name(description)
    files[f"{stem}_report.json"] = (json.dumps(report, indent=2) + "\n").encode()
    for file, content in files.items():
        part = output / f"{file}.part"
        part.write_bytes(content)
        os.replace(part, output / file)
    write_picture(output / f"{stem}_report.png", sheet)

    keras = report["keras_milliseconds"]
    print(f"{len(examples)} pictures of {size}x{size}, Keras {keras:.1f} ms a picture")
    print(f"{'file':<36}{'MB':>7}{'PSNR':>8}{'max diff':>10}{'time/Keras':>12}{'pieces':>8}")
    for mode in report["modes"].values():
        apart = mode["difference"]
        print(
            f"{mode['file']:<36}{mode['bytes'] / 1e6:>7.2f}{apart['psnr']:>8.1f}"
            f"{apart['max']:>10.1e}{mode['milliseconds'] / keras:>12.2f}{mode['partitions']:>8}"
        )
    print(f"written to {output}, see {stem}_report.png there")
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__, use_underscores=True)
    try:
        sys.exit(main(options))
    except ImportError as error:
        sys.exit(f'error: {error}: pip install "tf_cyclegan[export]"')
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
