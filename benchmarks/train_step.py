"""Time a whole training step, ours and in plain PyTorch, on the CPU.

    python benchmarks/train_step.py --json=train_step.json
    python benchmarks/train_step.py --size=128 --filters=32 --blocks=6 --json=train_step_128.json
    python benchmarks/train_step.py --precisions=float32 --no_peer

Our step is `CycleGAN.train_step` in the `tf.function` of `fit`: all passes, losses, gradients, both
Adams, pools. The peer is benchmarks/peer.py in float32. They run in turns; `ratio_to_peer` in the
JSON is our time divided by the peer's, the median over the rounds.
The first command takes 3 minutes on 2 cores.
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
        (work.tensorflow_steps, networks, options.batch, precisions, options.threads),
        (work.torch_step, networks, options.batch, options.threads),
    ]
    result = report.against_peer(options.rounds, *makes[: 1 + options.peer])
    report.print_against_peer(result)
    report.write_json(options, result)
    return 0


if __name__ == "__main__":
    report.run(main, Options, __doc__)
