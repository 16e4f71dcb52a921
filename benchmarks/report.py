"""Checks flags, prints tables and compares with the peer, for all scripts in benchmarks/."""

import dataclasses
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import measure
import work

from tf_cyclegan.cli import command
from tf_cyclegan.files import write_text


@dataclass(frozen=True)
class Options:
    """The flags of scripts that compare our networks with the peer's."""

    size: int = 256
    """Side of the images in pixels, a multiple of 4 and at least 24."""
    filters: int = 64
    """Channels of the networks' first layers."""
    blocks: int = 9
    """Residual blocks of a generator."""
    batch: int = 1
    """Images of each domain in a batch."""
    rounds: int = 5
    """Measured turns of each, after two warm-up turns."""
    precisions: str = "float32,mixed_bfloat16"
    """Precisions of our networks: one or both."""
    peer: bool = True
    """Whether to measure the peer, which needs PyTorch."""
    threads: int = 0
    """Number of threads; 0 lets TensorFlow and PyTorch choose."""
    json: str | None = None
    """File for the result."""


def run(main, options, description):
    """Runs a script with the flags of the command line, and ends the process.

    Args:
        main: takes the options, and returns the exit code.
        options: their dataclass.
        description: the text of --help.
    """
    command.run(main, command.parse(options, description), '"tf_cyclegan[torch]"')


def check(options, sizes, precisions="float32", peer=False, **positive):
    """Raises a ValueError before any work if the options are invalid.

    Args:
        options: a script's options, with `rounds`, `threads` and `json`.
        sizes: sides of images.
        precisions: comma-separated names.
        peer: whether PyTorch is needed.
        positive: flags that must be 1 or more.

    Returns:
        A tuple of the precisions.
    """
    for name, value in {"rounds": options.rounds, **positive}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: use 1 or more.")
    if options.threads < 0:
        raise ValueError(f"threads is {options.threads}: use 0 or more.")
    for size in sizes:
        if size % 4 or size < 24:
            raise ValueError(f"size {size}: the networks need a multiple of 4, 24 or more.")
    chosen = tuple(precisions.split(","))
    if not set(chosen) <= set(work.COMPUTE) or len(set(chosen)) < len(chosen):
        raise ValueError(f"precisions={precisions}: use {','.join(work.COMPUTE)}, or one of them.")
    if peer and importlib.util.find_spec("torch") is None:
        raise ValueError(
            'the peer needs PyTorch: pip install "tf_cyclegan[torch]", or use --no_peer.'
        )
    if options.json is not None and not Path(options.json).resolve().parent.is_dir():
        raise ValueError(f"{options.json}: its folder does not exist: create it, or change --json.")
    return chosen


def against_peer(rounds, *makes):
    """Times our precisions, matrix products, and the peer if it is given, in turns.

    Args:
        rounds: measured calls of each.
        makes: for `measure.run_in_turns`. Callables are named by a precision, "peer", or "matrix"
            and a dtype; the facts hold `multiply_adds`, whose `total` is that of one call.

    Returns:
        A dict for JSON: machine, multiply_adds, floor, and one entry for each precision and for
        the peer: seconds and cpu_seconds (median, min, max), multiply_adds_per_second,
        share_of_floor (None if the CPU lacks the dtype), and, with a peer, ratios to it.
    """
    described = measure.machine()
    times, facts = measure.run_in_turns(described, rounds, *makes)
    result = {"machine": described, "multiply_adds": facts["multiply_adds"], "floor": {}}
    for label in [name for name in times if name.startswith("matrix ")]:
        timed = measure.summary(times.pop(label))
        rate = work.MATRIX**3 / timed["seconds"]["median"]
        result["floor"][label.removeprefix("matrix ")] = timed | {"multiply_adds_per_second": rate}
    for label, own in times.items():
        rate = result["multiply_adds"]["total"] / median(seconds for seconds, _ in own)
        floor = result["floor"].get(work.COMPUTE.get(label, "float32"))
        share = floor and rate / floor["multiply_adds_per_second"]
        result[label] = measure.summary(own) | {
            "multiply_adds_per_second": rate,
            "share_of_floor": share,
        }
        if "peer" in times and label != "peer":
            result[label] |= measure.ratios(own, times["peer"])
    return result


def print_against_peer(result):
    """Prints the result of `against_peer` as a table."""
    print_machine(result["machine"])
    counted = result["multiply_adds"]
    print("multiply-adds: " + ", ".join(f"{k} {v / 1e9:.4g} G" for k, v in counted.items()))
    rows = []
    for label in [name for name in (*work.COMPUTE, "peer") if name in result]:
        entry = result[label]
        share, ratio, cpu_ratio = entry["share_of_floor"], "", ""
        if "ratio_to_peer" in entry:
            low, high = entry["ratio_to_peer_min"], entry["ratio_to_peer_max"]
            ratio = f"{entry['ratio_to_peer']:.2f} ({low:.2f} to {high:.2f})"
            cpu_ratio = f"{entry['cpu_ratio_to_peer']:.2f}"
        rate = f"{entry['multiply_adds_per_second'] / 1e9:.3g}"
        of_floor = "" if share is None else f"{share:.0%}"
        rows.append([label, *seconds_cells(entry), ratio, cpu_ratio, rate, of_floor])
    for dtype, entry in result["floor"].items():
        rate = f"{entry['multiply_adds_per_second'] / 1e9:.3g}"
        rows.append([f"matrix product, {dtype}", *seconds_cells(entry), "", "", rate, ""])
    head = ["", "seconds (min to max)", "cpu seconds", "/ peer", "cpu / peer"]
    head += ["G multiply-adds/s", "of floor"]
    print_table(head, rows)


def seconds_cells(entry):
    """Formats a `summary` as two table cells: wall clock seconds, and cpu seconds."""
    wall, cpu = entry["seconds"], entry["cpu_seconds"]
    return [
        f"{wall['median']:.3g} ({wall['min']:.3g} to {wall['max']:.3g})",
        f"{cpu['median']:.3g}",
    ]


def print_machine(described):
    """Prints a description of the machine, and a warning if other programs kept it busy."""
    versions = ", ".join(f"{name} {v}" for name, v in described["versions"].items() if v)
    print(f"{described['cpu']}, {described['cores']} cores, {versions}, {described['date']}")
    others = described.get("cores_busy_elsewhere") or 0.0
    if others > 0.2:
        # PyTorch's OpenMP threads busy-wait for a thread that does not get a core.
        print(
            f"Others kept {others:.1f} cores busy meanwhile: measure again on an idle machine. "
            "Ratios of cpu seconds are still valid with --threads=1; with more they favor us."
        )


def print_table(head, rows):
    """Prints a table, with the first column left-aligned and the others right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def write_json(options, result):
    """Writes the script's options and its result to `options.json`, if given, atomically."""
    if options.json is None:
        return
    settings = dataclasses.asdict(options)
    path = settings.pop("json")
    text = json.dumps({"settings": settings} | result, indent=2, allow_nan=False) + "\n"
    write_text(path, text)
    print(f"written to {path}")
