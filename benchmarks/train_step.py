"""Time one whole training step, ours beside a plain PyTorch one, on the CPU.

    python benchmarks/train_step.py --json=train_step.json
    python benchmarks/train_step.py --size=128 --filters=32 --blocks=6 --json=train_step_128.json
    python benchmarks/train_step.py --precisions=float32 --no_peer

Our step is `CycleGAN.train_step` in the `tf.function` that `fit` makes of it: all passes, losses,
gradients, both Adams, pools. The peer is benchmarks/peer.py in float32. They take turns;
`ratio_to_peer` in the JSON is our seconds over the peer's, the median over the rounds.
The first command takes an estimated 3 minutes on 2 cores.
"""

import sys
from dataclasses import dataclass

import report
import tyro
import work


@dataclass(frozen=True)
class Options:
    """The flags."""

    size: int = 256
    """Side of the pictures in pixels, a multiple of 4 and at least 24."""
    filters: int = 64
    """Channels of the first layers of generators and discriminators."""
    blocks: int = 9
    """Residual blocks of the generators."""
    batch: int = 1
    """Pictures of each domain."""
    rounds: int = 5
    """Counted steps of each, after two that are not."""
    precisions: str = "float32,mixed_bfloat16"
    """Of our step: either or both."""
    peer: bool = True
    """Whether to measure the peer, which needs PyTorch."""
    threads: int = 0
    """Threads; 0 leaves their number to TensorFlow and PyTorch."""
    json: str | None = None
    """File for the result."""


def main(options: Options) -> int:
    """Measures, prints, writes, and returns the exit code."""
    positive = {"filters": options.filters, "blocks": options.blocks, "batch": options.batch}
    precisions = report.check(options, [options.size], options.precisions, options.peer, **positive)
    networks = (options.size, options.filters, options.blocks)
    makes = [
        (work.tensorflow_steps, networks, options.batch, precisions, options.threads),
        (work.torch_step, networks, options.batch, options.threads),
    ]
    result = report.against_peer(options.rounds, *makes[: 1 + options.peer])
    report.print_against_peer(result)
    report.write_json(options, result)
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__, use_underscores=True)
    try:
        sys.exit(main(options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
