"""Convert a generator that was trained with the authors' PyTorch code.

    tf-cyclegan import-weights --checkpoint=latest_net_G_A.pth --direction=a2b --output=theirs
    tf-cyclegan import-weights --checkpoint=latest_net_G_B.pth --direction=b2a --output=theirs
    tf-cyclegan translate --run_dir=theirs --direction=a2b --input=photos --output=translated

Writes a2b.keras or b2a.keras, and records the source of each in import.json. The architecture is
recognized from the file. This needs PyTorch: pip install "tf_cyclegan[torch]"
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command
from tf_cyclegan.files import one_line


@dataclass(frozen=True)
class Options:
    """The flags."""

    checkpoint: str
    """The state_dict of a generator, a .pth file. The authors' G_A is a2b, their G_B is b2a."""
    direction: Literal["a2b", "b2a"]
    """The direction in which the generator translates."""
    output: str
    """Folder to write to; use the same one for both directions."""


def main(options: Options) -> int:
    """Writes the generator and import.json, and returns the exit code."""
    from tf_cyclegan.files import check_output, write_text
    from tf_cyclegan.interop import load_generator
    from tf_cyclegan.training.run_folder import save_generator

    source, folder = Path(options.checkpoint), Path(options.output)
    target, record = folder / f"{options.direction}.keras", folder / "import.json"
    if (folder / "config.json").exists() or (folder / "checkpoints").exists():
        raise ValueError(
            f"{folder} holds a training run, whose next save would replace {target.name}: use "
            "another --output."
        )
    check_output(folder)
    if source.suffix.lower() == ".keras":
        raise ValueError(f"{source} needs no conversion: use it directly, as --run_dir.")
    origins = read_record(record)
    generator = load_generator(source)
    origin = {
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "network": type(generator).__name__,
        "input_channels": generator.input_channels,
    }
    config = generator.get_config()
    same = ("name", "trainable", "dtype", "separable", "kernel")  # for all of the authors' networks
    origin |= {k: v for k, v in config.items() if k not in same}
    if target.exists() and origins.get(options.direction) != origin:
        raise ValueError(f"{target} exists and is not from {source}: use another --output.")

    folder.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(origins | {options.direction: origin}, indent=2) + "\n")
    save_generator(generator, target)
    print(f"{target}: {origin['network']}, {generator.count_params():,} weights, from {source}")
    return 0


def read_record(path: Path) -> dict:
    """Reads import.json, a record for each direction; without that file, returns an empty dict."""
    try:
        origins = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if isinstance(origins, dict):
            return origins
        reason = "it is not a JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)
    raise ValueError(f"{path} cannot be read ({reason}): remove it, or use another --output.")


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
