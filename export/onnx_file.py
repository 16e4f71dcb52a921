"""Export a generator to ONNX, for ONNX Runtime and what reads its files.

    python export/onnx_file.py --run_dir=runs/mine --direction=a2b --output=models/a2b.onnx

The file takes pictures of any size that is a multiple of 4 (of 256 for a U-Net of depth 8), in
batches: `image` float32 [n, h, w, c] in [-1, 1] to `fake`. ONNX Runtime has run it against Keras
before it is written. Needs: pip install "tf_cyclegan[export]"
"""

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
    """The file, *.onnx."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Which generator of the folder."""


def main(options: Options) -> int:
    """Writes the file, and returns the exit code."""
    import numpy as np  # after --help, which needs none of it

    from tf_cyclegan.export.onnx_file import export_onnx
    from tf_cyclegan.translate import find_generator, padded

    if not options.output.endswith(".onnx"):
        raise ValueError(f"{options.output}: name a file that ends in .onnx by --output.")
    generator = find_generator(options.run_dir, options.direction)
    side = padded(64, generator.multiple)
    noise = np.random.default_rng(0).uniform(-1, 1, (1, side, side, generator.input_channels))
    apart = export_onnx(generator, Path(options.output), noise.astype(np.float32))
    print(f"{options.output}: {apart['max']:.1e} from Keras at most, on {side}x{side} of noise")
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__, use_underscores=True)
    try:
        sys.exit(main(options))
    except ImportError as error:
        sys.exit(f'error: {error}: pip install "tf_cyclegan[export]"')
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
