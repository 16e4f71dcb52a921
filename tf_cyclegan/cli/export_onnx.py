"""Export a generator to ONNX, for ONNX Runtime and compatible tools.

    tf-cyclegan export onnx --run_dir=runs/mine --direction=a2b --output=models/a2b.onnx

The model maps batches `image`, float32 [n, h, w, c] in [-1, 1], to `fake`. Height and width must be
multiples of 4 (of 256 for a U-Net of depth 8); other sizes fail. The file's metadata hold that
multiple, the range, the channels and the direction. Its output in ONNX Runtime is compared with
Keras before it is written. This needs: pip install "tf_cyclegan[export]"
"""

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
    """The .onnx file to write."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder to use."""
    name: str | None = None
    """The model's name for its users; by default, the run folder's name."""
    overwrite: bool = False
    """Replace an existing file; without this flag, the export stops if the file exists."""


def main(options: Options) -> int:
    """Writes the file, and returns the exit code."""
    import numpy as np  # imported here to keep --help fast

    from tf_cyclegan.export.description import model_name
    from tf_cyclegan.export.onnx_file import export_onnx
    from tf_cyclegan.files import check_output
    from tf_cyclegan.inference.translator import find_generator, padded

    path = Path(options.output)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: use an --output that ends in .onnx.")
    check_output(path.parent, [path.name], options.overwrite)
    generator = find_generator(options.run_dir, options.direction)
    name = options.name or model_name(options.run_dir)
    side = padded(64, generator.multiple)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side, generator.input_channels))
    apart = export_onnx(generator, path, noise.astype(np.float32), name, options.direction)
    print(f"{path}: {apart['max']:.1e} from Keras at most, on {side}x{side} of noise")
    return 0


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__), needs='"tf_cyclegan[export]"')
