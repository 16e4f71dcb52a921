"""Measure start time and memory of a training run on many small files.

    python benchmarks/many_files.py
    python benchmarks/many_files.py --count=2000 --caches none

Writes the files to a temporary folder, and starts twice with each kind of cache: the second start
finds what the first one left in the cache folder, which is temporary too. A start lists the files,
checks them, and reads ten batches. Each start has its own process.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import report

START = """
import resource, sys, time
from tf_cyclegan.training.config import Config
from tf_cyclegan.training.batches import TrainingData, load_dataset
config = Config(data_dir=sys.argv[1], cache=sys.argv[2], load_size=36, crop_size=32)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
before, start, cpu = peak(), time.perf_counter(), time.process_time()
data = TrainingData(load_dataset(config), config)
ready, cpu = time.perf_counter() - start, time.process_time() - cpu
for _ in data.batches(0, 10): pass
seconds = f"{ready:>10.1f} s{cpu:>10.1f} s"
print(f"{sys.argv[2]:<8}{seconds}{before:>10.2f} GB{peak():>10.2f} GB", flush=True)
"""


@dataclass(frozen=True)
class Options:
    """The flags."""

    count: int = 100_000
    """Number of PNG files of 32x32 pixels, half of them in each domain."""
    caches: tuple[Literal["memory", "disk", "none"], ...] = ("none", "disk", "memory")
    """Which kinds of cache to measure."""


def main(options: Options) -> int:
    """Measures and prints, and returns the exit code."""
    if options.count < 2:
        raise ValueError(f"count is {options.count}: use 2 or more.")
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as root:
        rng = np.random.default_rng(0)
        for domain in "AB":
            folder = Path(root, f"train{domain}")
            folder.mkdir()
            for i in range(options.count // 2):
                image = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(image).save(folder / f"{i:06d}.png", compress_level=1)
        print(f"{'cache':<8}{'start':>12}{'cpu':>12}{'before':>13}{'at most':>13}", flush=True)
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(root, "cache"))}
        for cache in options.caches:
            for _ in range(2):
                command = [sys.executable, "-c", START, root, cache]
                subprocess.run(command, env=environment, check=True)
    return 0


if __name__ == "__main__":
    report.run(main, Options, __doc__)
