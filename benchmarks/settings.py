"""Time a training step with each variant of an experiment, in turns.

    python benchmarks/settings.py --json=settings.json
    python benchmarks/settings.py --experiment=adversarial --variants lsgan wgan-gp

The networks and the image size are those of the demo, unless --train has other flags. A ratio is
the time of a variant divided by that of the first one, the median over the rounds. With several
updates of the discriminators in a step, the step takes more images. The first command takes 5
minutes on 2 cores.
"""

import shlex
from dataclasses import dataclass

import measure
import report
import work

from tf_cyclegan.cli import train
from tf_cyclegan.cli.experiments import EXPERIMENTS


@dataclass(frozen=True)
class Options:
    """The flags."""

    experiment: str = "settings"
    """Name of an experiment, as in `tf-cyclegan experiments`."""
    variants: tuple[str, ...] = ()
    """Time only these variants, by name; by default, all."""
    train: str = "--preset=demo"
    """Flags of tf-cyclegan train for all variants."""
    rounds: int = 15
    """Measured turns of each, after two warm-up turns."""
    threads: int = 0
    """Number of threads; 0 lets TensorFlow choose."""
    json: str | None = None
    """File for the result."""


def main(options: Options) -> int:
    """Measures, prints, writes, and returns the exit code."""
    if options.experiment not in EXPERIMENTS:
        raise ValueError(
            f"no experiment {options.experiment}: use one of {', '.join(EXPERIMENTS)}."
        )
    flags = EXPERIMENTS[options.experiment][1]
    if unknown := set(options.variants) - set(flags):
        raise ValueError(f"no variant {', '.join(unknown)}: choose from {', '.join(flags)}.")
    configs = {
        name: train.parse(shlex.split(options.train) + shlex.split(flags[name]))[1]
        for name in options.variants or flags
    }
    report.check(options, [config.crop_size for config in configs.values()])
    described = measure.machine()
    make = (work.configured_steps, configs, options.threads)
    times, _ = measure.run_in_turns(described, options.rounds, make)
    first = next(iter(times.values()))
    result = {
        name: measure.summary(own) | measure.ratios(own, first) for name, own in times.items()
    }
    report.print_machine(described)
    rows = [
        [name, *report.seconds_cells(entry), f"{entry['ratio_to_peer']:.2f}"]
        + [f"{entry['cpu_ratio_to_peer']:.2f}"]
        for name, entry in result.items()
    ]
    head = ["", "seconds (min to max)", "cpu seconds", "/ first", "cpu / first"]
    report.print_table(head, rows)
    report.write_json(options, {"machine": described, "steps": result})
    return 0


if __name__ == "__main__":
    report.run(main, Options, __doc__)
