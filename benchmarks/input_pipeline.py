"""Time the input pipeline: images per second from JPEG files, and what a training run needs.

    python benchmarks/input_pipeline.py --json=input_pipeline.json
    python benchmarks/input_pipeline.py --step_seconds=7 --gpu_step_seconds=0.1

Writes synthetic landscapes to JPEG files in a temporary folder, and reads them with
`TrainingData.batches`, resized by 286/256, cropped and flipped: once with the resized images cached
in memory (the default of `tf-cyclegan train`), and once decoded at each use. For comparison, it
measures a float32 training step on this CPU, and assumes the time of one on a GPU.
The first command takes 3 minutes on 2 cores.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import measure
import report
import work


@dataclass(frozen=True)
class Options:
    """The flags."""

    size: int = 256
    """Side of the crops in pixels, a multiple of 4 and at least 24."""
    file_size: int = 256
    """Side of the images in the files; the paper's datasets have 256."""
    files: int = 50
    """JPEG files of each domain."""
    draws: int = 1000
    """Batches to read in each turn, with a newly started pipeline."""
    batch: int = 1
    """Images of each domain in a batch."""
    rounds: int = 5
    """Measured turns of each, after two warm-up turns."""
    filters: int = 64
    """Filters of the networks in the measured step."""
    blocks: int = 9
    """Residual blocks of the generators in the measured step."""
    step_seconds: float | None = None
    """Seconds of a step on the CPU; by default, it is measured."""
    gpu_step_seconds: float = 0.05
    """Assumed seconds of a step on a fast GPU; this is not measured."""
    threads: int = 0
    """Number of threads; 0 lets TensorFlow choose."""
    json: str | None = None
    """File for the result."""


def main(options: Options) -> int:
    """Measures, prints, writes, and returns the exit code."""
    counts = {name: getattr(options, name) for name in ("file_size", "files", "draws", "batch")}
    counts |= {"filters": options.filters, "blocks": options.blocks}
    report.check(options, [options.size], **counts)
    for seconds in (options.gpu_step_seconds, options.step_seconds):
        if seconds is not None and seconds <= 0:
            raise ValueError(f"a step of {seconds} seconds: use more than 0.")

    # === Write the files, time pipelines and step in turns ===
    described = measure.machine()
    networks = (options.size, options.filters, options.blocks)
    with tempfile.TemporaryDirectory() as folder:
        write_landscapes(Path(folder), options.files, options.file_size)
        args = folder, options.draws, networks, options.batch, options.threads
        make = work.input_pipelines, *args, options.step_seconds is None
        times, _ = measure.run_in_turns(described, options.rounds, make)

    # === Images per second, of both domains together ===
    step = options.step_seconds
    if step is None:
        step = measure.summary(times["step"])["seconds"]["median"]
    seconds = {"cpu": step, "gpu": options.gpu_step_seconds}
    needed = {device: 2 * options.batch / s for device, s in seconds.items()}
    result = {"machine": described, "step_seconds": seconds}
    result["needed_images_per_second"] = needed
    rows = []
    for name in ("cached", "not_cached"):
        drawn = 2 * options.batch * options.draws
        rate = measure.spread([drawn / seconds for seconds, _ in times[name]])
        over = {device: rate["median"] / need for device, need in needed.items()}
        cpu = measure.summary(times[name])["cpu_seconds"]["median"] / drawn
        result[name] = {
            "images_per_second": rate,
            "cpu_seconds_per_image": cpu,
            "times_needed": over,
        }
        spread = f"{rate['median']:.0f} ({rate['min']:.0f} to {rate['max']:.0f})"
        rows.append([name, spread, f"{1e3 * cpu:.2g}", *(f"{x:.1f}" for x in over.values())])
    report.print_machine(result["machine"])
    print(
        ", ".join(
            f"{d}: {s:.3g} s a step, {needed[d]:.3g} images a second" for d, s in seconds.items()
        )
    )
    head = ["", "images a second", "cpu ms an image", "/ CPU's need", "/ GPU's need"]
    report.print_table(head, rows)
    report.write_json(options, result)
    return 0


def write_landscapes(folder: Path, count: int, side: int) -> None:
    """Writes JPEG files of summer to trainA and of winter to trainB, with different scenes."""
    from PIL import Image

    from tf_cyclegan.data.synthetic import landscape

    for domain, season in (("trainA", "summer"), ("trainB", "winter")):
        (folder / domain).mkdir()
        for i in range(count):
            index = 2 * i + (season == "winter")
            image = Image.fromarray(landscape(index, season, side, side))
            image.save(folder / domain / f"{i:04d}.jpg", quality=90)


if __name__ == "__main__":
    report.run(main, Options, __doc__)
