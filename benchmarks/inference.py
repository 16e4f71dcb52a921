"""Time a generator's forward pass in a `tf.function` and in plain PyTorch, on the CPU.

    python benchmarks/inference.py --json=inference.json
    python benchmarks/inference.py --precisions=float32 --no_peer

The generator is the paper's, with random weights, which do not affect the time. The peer is
benchmarks/peer.py in float32. They run in turns; `ratio_to_peer` in the JSON is our time divided
by the peer's, the median over the rounds.
The first command takes half a minute on 2 cores.
"""

import report
import work
from report import Options


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
    report.run(main, Options, __doc__)
