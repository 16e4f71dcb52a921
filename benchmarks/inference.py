"""Time a generator's forward pass, in a `tf.function` and in plain PyTorch, on the CPU.

    python benchmarks/inference.py --json=inference.json
    python benchmarks/inference.py --precisions=float32 --no_peer

The generator is the paper's, with random weights, which take as long as trained ones. The peer is
that of benchmarks/peer.py in float32. They take turns; `ratio_to_peer` in the JSON is our seconds
over the peer's, the median over the rounds.
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
    """Channels of the generator's first layer."""
    blocks: int = 9
    """Residual blocks of the generator."""
    batch: int = 1
    """Pictures at a time."""
    rounds: int = 10
    """Counted passes of each, after two that are not."""
    precisions: str = "float32,mixed_bfloat16"
    """Of our generator: either or both."""
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
        (work.tensorflow_generators, networks, options.batch, precisions, options.threads),
        (work.torch_generator, networks, options.batch, options.threads),
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
