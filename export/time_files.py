"""Time .tflite files in turns, for example those of a student and of its teacher.

    python export/time_files.py --chromium --files teacher/a2b_64_*.tflite student/*.tflite

All files take images of the same size, from `tf-cyclegan export tflite`. LiteRT runs them on this
machine's CPU, and with --chromium, also on the web page in headless Chromium, where the float32
files run on WebAssembly. The speedup is the time of the first file of the same mode divided by the
time of a file.
This needs: pip install "tf_cyclegan[export]"; for --chromium, also playwright, npm and chromium
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tf_cyclegan.cli import command

IN_CHROMIUM = "LiteRT in Chromium, float32"


@dataclass(frozen=True)
class Options:
    """The flags."""

    files: tuple[str, ...]
    """The .tflite files, all for one fixed image size."""
    rounds: int = 15
    """How often to time each file."""
    threads: int = 0
    """Number of threads of LiteRT; 0 for one for each CPU core. Chromium chooses its own."""
    chromium: bool = False
    """Also time the float32 files in Chromium."""


def main(options: Options) -> int:
    """Measures, prints, and returns the exit code."""
    import numpy as np
    import runtimes

    from tf_cyclegan.export.compare import latencies
    from tf_cyclegan.export.model_file import read_description
    from tf_cyclegan.export.tflite import LiteModel

    files = [Path(name) for name in options.files]
    about = [read_description(file.read_bytes()) for file in files]
    shapes = {(d["height"], d["width"], d["input_channels"]) for d in about}
    if len(shapes) != 1 or any(d["resizable"] for d in about):
        raise ValueError("the files take different sizes: give files for one fixed size.")
    if options.rounds < 1 or options.threads < 0:
        raise ValueError("use 1 or more --rounds, and 0 or more --threads.")
    image = np.random.default_rng(0).uniform(-1, 1, (1, *shapes.pop())).astype(np.float32)

    runners = {}
    for file, description in zip(files, about, strict=True):
        name = f"LiteRT, {description['mode']}", file
        runners[name] = LiteModel(file.read_bytes(), options.threads)
    in_page: dict[Path, list[float]] = {}
    with ExitStack() as stack:
        if options.chromium:
            floats = [file for kind, file in runners if kind == "LiteRT, float32"]
            pages = stack.enter_context(runtimes.in_chromium(floats, in_page))
            runners |= {(IN_CHROMIUM, file): page for file, page in pages.items()}
        milliseconds = latencies(runners, image, options.rounds)
    for file, own in in_page.items():  # the page's own times, without transfers
        milliseconds[IN_CHROMIUM, file] = runtimes.median_in_page(own, options.rounds)
    first: dict[str, float] = {}
    print("| file | runtime | MB | ms | speedup |\n|---|---|---|---|---|")
    for (kind, file), ms in sorted(milliseconds.items(), key=lambda item: item[0][0]):
        ratio = first.setdefault(kind, ms) / ms
        print(f"| {file} | {kind} | {file.stat().st_size / 1e6:.2f} | {ms:.3g} | {ratio:.1f} |")
    return 0


if __name__ == "__main__":
    command.run(main, command.parse(Options, __doc__), '"tf_cyclegan[export]" playwright')
