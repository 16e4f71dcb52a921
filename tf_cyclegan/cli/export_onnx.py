"""Export a generator to ONNX, for ONNX Runtime and what reads its files.

    tf-cyclegan export onnx --run_dir=runs/mine --direction=a2b --output=models/a2b.onnx

The file takes images of any size that is a multiple of 4 (of 256 for a U-Net of depth 8), in
batches: `image` float32 [n, h, w, c] in [-1, 1] to `fake`; it fails at any other size. Its metadata
hold that multiple, the range, the channels and the direction. ONNX Runtime has run it against Keras
before it is written. Needs: pip install "tf_cyclegan[export]"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str
    """A run folder, a folder that import_weights.py wrote, or a generator: .keras or .pth."""
    output: str
    """The file, *.onnx."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder."""
    name: str | None = None
    """What users see; if not given, the run folder's name."""
    overwrite: bool = False
    """Replace a file of the same name; without it the file is kept, and the export is refused."""


def main(options: Options) -> int:
    """Writes the file, and returns the exit code."""
    import numpy as np  # after --help, which needs none of it

    from tf_cyclegan.export.onnx_file import export_onnx
    from tf_cyclegan.files import check_output
    from tf_cyclegan.inference.translator import find_generator, padded

    path = Path(options.output)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: name a file that ends in .onnx by --output.")
    check_output(path.parent, [path.name], options.overwrite)
    generator = find_generator(options.run_dir, options.direction)
    name = options.name or Path(options.run_dir).resolve().stem
    side = padded(64, generator.multiple)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side, generator.input_channels))
    apart = export_onnx(generator, path, noise.astype(np.float32), name, options.direction)
    print(f"{path}: {apart['max']:.1e} from Keras at most, on {side}x{side} of noise")
    return 0


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__), needs='"tf_cyclegan[export]"')
