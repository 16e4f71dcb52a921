"""Measure the cost of `tf-cyclegan translate --tile`, or its difference from the untiled result.

    python benchmarks/tiles.py --megapixels=100 --filters=64 --blocks=9 --tile=1024
    python benchmarks/tiles.py --megapixels=0.5 --filters=16 --blocks=3 --tile=256 --check

The image is a drawn landscape, and the generator has random weights. The first form runs the whole
command, from file to file, and prints its seconds, its peak of resident memory and the size of its
scratch files. With --check, an image that fits into memory is translated untiled, tiled, and
with each tile alone. All are compared with the untiled translation in float64, in gray levels from
0 to 255, and check.png shows the differences.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """The flags."""

    megapixels: float = 100
    """Size of the square image in millions of pixels."""
    filters: int = 64
    """Channels of the generator's first layer."""
    blocks: int = 9
    """Residual blocks of the generator."""
    upsampling: str = "transpose"
    """Upsampling of the generator: transpose or resize."""
    tile: int = 1024
    """As for tf-cyclegan translate."""
    check: bool = False
    """Compare with the untiled result instead."""
    output: str = "runs/tiles"
    """Folder for the images, and for the scratch files unless TMPDIR is set."""
    json: str | None = None
    """File for the results."""


def main(options: Options) -> int:
    """Measures or compares, prints, writes, and returns the exit code."""
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    # In its own process, because a child's peak memory includes that of its parent.
    with multiprocessing.get_context("spawn").Pool(1) as other:
        result = other.apply(check if options.check else prepare, (options, folder))
    if not options.check:
        command = [sys.executable, str(ROOT / "scripts" / "translate.py")]
        command += [f"--run_dir={folder / 'a2b.keras'}", f"--tile={options.tile}"]
        command += [f"--input={folder / 'large.png'}", f"--output={folder / 'translated'}"]
        start = time.monotonic()
        child = subprocess.Popen(command)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            return 1
        result["seconds"] = round(time.monotonic() - start, 1)
        result["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
        result["peak_resident_bytes"] = usage.ru_maxrss * 1024
    result = {"options": asdict(options)} | result
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")
    return 0


def prepare(options: Options, folder: Path) -> dict:
    """Writes the generator and the image."""
    from tf_cyclegan.data.image_files import write_image
    from tf_cyclegan.inference.tiles import scratch_bytes
    from tf_cyclegan.training.run_folder import save_generator

    generator = random_generator(options)
    save_generator(generator, folder / "a2b.keras")
    real = image(options)
    write_image(folder / "large.png", real)
    height, width = real.shape[:2]
    scratch = scratch_bytes(generator, height, width)
    return {"height": height, "width": width, "scratch_bytes": scratch}


def check(options: Options, folder: Path) -> dict:
    """Compares all three translations with the exact one."""
    import numpy as np

    from tf_cyclegan.data.image_files import write_image
    from tf_cyclegan.evaluation.contact_sheets import contact_sheet
    from tf_cyclegan.inference.tiles import tiled_translator
    from tf_cyclegan.inference.translator import translator

    generator, real = random_generator(options), image(options)
    alone = translator(generator)
    exact = translator(random_generator(options, "float64"))(real).astype(int)
    tiled = tiled_translator(generator, options.tile, folder)(real)
    naive = np.empty_like(tiled)
    for top in range(0, real.shape[0], options.tile):
        for left in range(0, real.shape[1], options.tile):
            part = (slice(top, top + options.tile), slice(left, left + options.tile))
            naive[part] = alone(real[part])
    fakes = {"untiled": alone(real), "tiled": tiled, "tiles alone": naive}
    columns = {"real": [real]} | {name: [fake] for name, fake in fakes.items()}
    result = {"tiled to untiled": distance(tiled, fakes["untiled"].astype(int))}
    for name, times in (("untiled", 64), ("tiled", 64), ("tiles alone", 4)):
        result[f"{name} to float64"] = distance(fakes[name], exact)
        error = np.minimum(np.abs(fakes[name] - exact) * times, 255).astype(np.uint8)
        columns[f"error of {name}, x {times}"] = [error]
    write_image(folder / "check.png", contact_sheet(columns))
    return result


def distance(fake, other) -> dict:
    """Returns the largest and the mean difference, in gray levels."""
    levels = abs(fake - other)
    return {"max": int(levels.max()), "mean": float(levels.mean())}


def image(options: Options):
    """Draws the landscape, uint8 `[h, w, 3]`."""
    from tf_cyclegan.data.synthetic import landscape

    side = round((options.megapixels * 1e6) ** 0.5)
    return landscape(0, "summer", side, side)


def random_generator(options: Options, dtype: str = "float32"):
    """Returns a generator with larger random weights than the initial ones, for more contrast."""
    import numpy as np

    from tf_cyclegan.generators import ResNetGenerator

    sizes = {"filters": options.filters, "blocks": options.blocks}
    generator = ResNetGenerator(**sizes, upsampling=options.upsampling, dtype=dtype)
    generator.build((None, None, None, 3))
    rng = np.random.default_rng(0)
    for variable in generator.variables:
        fan_in = np.prod(variable.shape[:-1])
        values = rng.normal(0, (1 / max(fan_in, 1)) ** 0.5, variable.shape)
        variable.assign(values.astype(np.float32))  # the same values in any dtype
    return generator


if __name__ == "__main__":
    report.run(main, Options, __doc__)
