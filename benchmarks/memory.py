"""Measure the peak memory of a training step, ours and in plain PyTorch, on the CPU.

    python benchmarks/memory.py --json=memory.json
    python benchmarks/memory.py --size=512 --precisions=mixed_bfloat16 --no_peer

Each runs alone, one after the other, in its own process: libraries, networks, Adam's slots, pools
and a few steps. Our pools have their full size from the start; the peer's grow by two images per
step, to 50 of each domain. Our step is measured with and without the flag --recompute of
`tf-cyclegan train`. Then both run in turns, to measure the cost of recomputing: the ratio of their
times, the median over the rounds.
The first command takes 8 minutes on 2 cores.
"""

from dataclasses import dataclass

import measure
import report
import work


@dataclass(frozen=True)
class Options(report.Options):
    """The flags."""

    rounds: int = 4
    """Steps of each; when they run in turns, after two warm-up steps."""
    recompute: bool = True
    """Whether to measure our step with --recompute too."""


def main(options: Options) -> int:
    """Measures, prints, writes, and returns the exit code."""
    positive = {"filters": options.filters, "blocks": options.blocks, "batch": options.batch}
    precisions = report.check(options, [options.size], options.precisions, options.peer, **positive)
    networks = (options.size, options.filters, options.blocks)
    makes = {
        precision + work.RECOMPUTED * recompute: (
            work.tensorflow_steps,
            *(networks, options.batch, (precision,), options.threads, False, recompute),
        )
        for precision in precisions
        for recompute in (False, True)[: 1 + options.recompute]
    }
    if options.peer:
        makes["peer"] = (work.torch_step, networks, options.batch, options.threads)

    result = {"machine": measure.machine()}
    for name, make in makes.items():
        with measure.Process(*make) as process:
            built = process.peak_memory()
            for _ in range(options.rounds):
                process.time(name)
            result["machine"]["threads"] |= process.facts["threads"]
            result[name] = {"built_bytes": built, "peak_bytes": process.peak_memory()}
    for precision in precisions if options.recompute else ():
        recomputed = precision + work.RECOMPUTED
        pair = makes[precision], makes[recomputed]
        times, _ = measure.run_in_turns(result["machine"], options.rounds, *pair)
        turns = zip(times[recomputed], times[precision], strict=True)
        ratios = measure.spread([ours[0] / plain[0] for ours, plain in turns])
        result[recomputed]["seconds_to_plain"] = ratios

    rows = []
    for name in makes:
        entry, ratio, price = result[name], "", ""
        if "seconds_to_plain" in entry:
            price = "{median:.2f} ({min:.2f} to {max:.2f})".format(**entry["seconds_to_plain"])
        if options.peer and name != "peer":
            entry["ratio_to_peer"] = entry["peak_bytes"] / result["peer"]["peak_bytes"]
            ratio = f"{entry['ratio_to_peer']:.2f}"
        numbers = (f"{entry[key] / 1e9:.2f}" for key in ("built_bytes", "peak_bytes"))
        rows.append([name, *numbers, ratio, price])
    report.print_machine(result["machine"])
    head = ["", "GB before the first step", "GB at most", "/ peer", "seconds / plain"]
    report.print_table(head, rows)
    report.write_json(options, result)
    return 0


if __name__ == "__main__":
    report.run(main, Options, __doc__)
