"""Measure how time and memory of a training step grow with pixels, filters and batch, on the CPU.

    python benchmarks/growth.py --plots=growth --json=growth.json
    python benchmarks/growth.py --sizes 256 512 --filters 64 --blocks=9 --batches 1 --plots=growth

While one of the three varies, the others stay at `size` and the first of `filters` and `batches`.
The points of an axis run in turns, each in its own process; an axis with one value is left out.
Writes a plot for each axis: seconds and memory, with a dashed line proportional to the
multiply-adds. The JSON contains the cost of a doubled side, such as ratio_512_to_256.
The commands take 3 and 4 minutes on 2 cores.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import measure
import report
import work


@dataclass(frozen=True)
class Options:
    """The flags."""

    plots: str
    """Folder for the plots; it is created if needed."""
    sizes: tuple[int, ...] = (64, 128, 256, 512)
    """Sides of the images in pixels, multiples of 4 and at least 24."""
    filters: tuple[int, ...] = (16, 32, 64)
    """Channels of the first layers of generators and discriminators."""
    batches: tuple[int, ...] = (1, 2, 4)
    """Batch sizes: images of each domain."""
    size: int = 128
    """Side of the images along the axes of filters and batches."""
    blocks: int = 3
    """Residual blocks of the generators."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the training step."""
    rounds: int = 5
    """Measured steps for each point, after two warm-up steps."""
    threads: int = 0
    """Number of threads; 0 lets TensorFlow choose."""
    json: str | None = None
    """File for the result."""


def main(options: Options) -> int:
    """Measures, prints, draws and writes, and returns the exit code."""
    smallest = {name: min(getattr(options, name), default=0) for name in ("filters", "batches")}
    report.check(options, [*options.sizes, options.size], blocks=options.blocks, **smallest)
    folder = Path(options.plots)
    folder.mkdir(parents=True, exist_ok=True)

    # === Measure each axis: (size, filters, batch) of its points ===
    filters, batch = options.filters[0], options.batches[0]
    axes = {
        "size": [(size, filters, batch) for size in options.sizes],
        "filters": [(options.size, filters, batch) for filters in options.filters],
        "batch": [(options.size, filters, batch) for batch in options.batches],
    }
    result: dict = {"machine": measure.machine()}
    for axis, points in axes.items():
        if len(points) > 1:
            result[axis] = measure_points(points, options, result["machine"])

    # === Print, draw and write the results ===
    report.print_machine(result["machine"])
    head = ["size", "filters", "batch", "seconds (min to max)", "cpu seconds", "GB at most"]
    for axis in [axis for axis in axes if axis in result]:
        rows = []
        for entry in result[axis]:
            names = [str(entry[name]) for name in ("size", "filters", "batch")]
            rows.append([*names, *report.seconds_cells(entry), f"{entry['peak_bytes'] / 1e9:.2f}"])
        print(f"along {axis}:")
        report.print_table(head, rows)
        draw(folder / f"{axis}.png", axis, result[axis])
    result |= doubled_sides(result.get("size", []))
    report.write_json(options, result)
    print(f"plots in {folder}")
    return 0


def measure_points(points, options, described):
    """Measures the step at each `(size, filters, batch)`; `described` is `measure.machine()`."""
    with ExitStack() as stack:
        contestants = {}
        for size, filters, batch in points:
            networks, precisions = (size, filters, options.blocks), (options.precision,)
            process = stack.enter_context(
                measure.Process(
                    work.tensorflow_steps, networks, batch, precisions, options.threads, False
                )
            )
            contestants[size, filters, batch] = process, options.precision
        times, described["cores_busy_elsewhere"] = measure.alternate(contestants, options.rounds)
        described["threads"] |= process.facts["threads"]
        return [
            {
                **dict(zip(("size", "filters", "batch"), point, strict=True)),
                **measure.summary(times[point]),
                "rounds": [seconds for seconds, _ in times[point]],
                "peak_bytes": process.peak_memory(),
                "multiply_adds": process.facts["multiply_adds"]["total"],
            }
            for point, (process, _) in contestants.items()
        ]


def doubled_sides(entries):
    """Returns `{"ratio_512_to_256": ...}` and so on: times, peak bytes and multiply-adds."""
    by_size = {entry["size"]: entry for entry in entries}
    ratios = {}
    for size, small in by_size.items():
        large = by_size.get(2 * size)
        if large:
            pairs = zip(large["rounds"], small["rounds"], strict=True)
            ratios[f"ratio_{2 * size}_to_{size}"] = {
                "seconds": median(a / b for a, b in pairs),
                "cpu_seconds": large["cpu_seconds"]["median"] / small["cpu_seconds"]["median"],
                "peak_bytes": large["peak_bytes"] / small["peak_bytes"],
                "multiply_adds": large["multiply_adds"] / small["multiply_adds"],
            }
    return ratios


def draw(path, axis, entries):
    """Plots seconds and memory along an axis to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    x = [entry[axis] for entry in entries]
    work_done = [entry["multiply_adds"] for entry in entries]
    seconds = [entry["seconds"]["median"] for entry in entries]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    low, high = ([entry["seconds"][end] for entry in entries] for end in ("min", "max"))
    left.fill_between(x, low, high, alpha=0.3)
    left.plot(x, seconds, marker="o", label="median, and from min to max")
    scaled = [seconds[-1] * w / work_done[-1] for w in work_done]
    left.plot(x, scaled, "k--", linewidth=1, label="as the multiply-adds")
    left.set(xscale="log", yscale="log", ylabel="seconds a step")
    left.legend()
    gigabytes = [entry["peak_bytes"] / 1e9 for entry in entries]
    right.plot(x, gigabytes, marker="o")
    right.set(xscale="log", ylabel="GB at most", ylim=(0, 1.1 * max(gigabytes)))
    label = "pixels a side" if axis == "size" else axis
    for panel in (left, right):
        panel.set_xticks(x, [str(value) for value in x])
        panel.minorticks_off()
        panel.set_xlabel(label)
    left.set_yticks(seconds, [f"{value:.2g}" for value in seconds])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    report.run(main, Options, __doc__)
