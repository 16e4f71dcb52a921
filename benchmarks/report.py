"""What the scripts of benchmarks/ share: checks of their flags, tables, and the comparison with the
peer."""

import dataclasses
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import measure
import work


@dataclass(frozen=True)
class Options:
    """The flags of scripts that measure our networks beside the peer's."""

    size: int = 256
    """Side of the images in pixels, a multiple of 4 and at least 24."""
    filters: int = 64
    """Channels of the networks' first layers."""
    blocks: int = 9
    """Residual blocks of a generator."""
    batch: int = 1
    """Images of each domain at a time."""
    rounds: int = 5
    """Counted turns of each, after two that are not."""
    precisions: str = "float32,mixed_bfloat16"
    """Of our networks: either or both."""
    peer: bool = True
    """Whether to measure the peer, which needs PyTorch."""
    threads: int = 0
    """Threads; 0 leaves their number to TensorFlow and PyTorch."""
    json: str | None = None
    """File for the result."""


def check(options, sizes, precisions="float32", peer=False, **positive):
    """Raises a ValueError, before any work, for what could not be measured or written.

    Args:
        options: a script's, with `rounds`, `threads` and `json`.
        sizes: sides of images.
        precisions: names with commas between them.
        peer: whether PyTorch is needed.
        positive: flags that must be 1 or more.

    Returns:
        The precisions, a tuple.
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
            'the peer is written in PyTorch: pip install "tf_cyclegan[torch]", or use --no_peer.'
        )
    if options.json is not None and not Path(options.json).resolve().parent.is_dir():
        raise ValueError(f"{options.json}: its folder does not exist; make it, or change --json.")
    return chosen


def against_peer(rounds, *makes):
    """Times our precisions, the peer if it is among them, and matrix products, in turns.

    Args:
        rounds: counted calls of each.
        makes: for `measure.run_in_turns`. Callables are named by a precision, "peer", or "matrix"
            and a dtype; the facts hold `multiply_adds`, of which `total` is what one call takes.

    Returns:
        A dict for JSON: machine, multiply_adds, floor, and one entry for each precision and for
        the peer: seconds and cpu_seconds (median, min, max), multiply_adds_per_second,
        share_of_floor (None where the CPU lacks the dtype), and, beside a peer, its ratios.
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
    """Prints what `against_peer` returns as a table."""
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
    """Two texts for a table from a `summary`: seconds by the wall clock, and cpu seconds."""
    wall, cpu = entry["seconds"], entry["cpu_seconds"]
    return [
        f"{wall['median']:.3g} ({wall['min']:.3g} to {wall['max']:.3g})",
        f"{cpu['median']:.3g}",
    ]


def print_machine(described):
    """Prints what was measured on, and a warning where others were busy there."""
    versions = ", ".join(f"{name} {v}" for name, v in described["versions"].items() if v)
    print(f"{described['cpu']}, {described['cores']} cores, {versions}, {described['date']}")
    others = described.get("cores_busy_elsewhere") or 0.0
    if others > 0.2:
        # PyTorch's OpenMP threads spin while they wait for one that is not let onto a core.
        print(
            f"Others kept {others:.1f} cores busy meanwhile: measure again on an idle machine. "
            "With --threads=1 ratios of cpu seconds hold even so; with more they flatter us."
        )


def print_table(head, rows):
    """Prints rows of texts under a head, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def write_json(options, result):
    """Writes the script's options and its result to `options.json`, if that is given, whole or not
    at all."""
    if options.json is None:
        return
    settings = dataclasses.asdict(options)
    path = settings.pop("json")
    text = json.dumps({"settings": settings} | result, indent=2, allow_nan=False) + "\n"
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    print(f"written to {path}")
