"""Train in several processes of this machine, as a cluster would on several machines.

    tf-cyclegan workers --workers=2 -- --data_dir=my_photos --run_dir=runs/mine

What follows `--` are the flags of scripts/train.py. Each worker trains on its own share of the
images and has a batch of its own; the gradient is that of all batches. If one is killed, all are
started again and continue from the last checkpoint that all of them have. Ctrl-C and SIGTERM stop
them all; the same command continues. For real clusters see docs/cluster.md.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

from tf_cyclegan.cli import command

GRACE = 60  # seconds that stopped workers have to save before they are killed


@dataclass(frozen=True)
class Options:
    """The flags."""

    train: tyro.conf.Positional[tuple[str, ...]] = ()
    """After --: flags of scripts/train.py."""
    workers: int = 2
    """Processes, each with all the devices it sees: with GPUs, use one process with all instead."""
    restarts: int = 10
    """How often killed workers are started again, before the job is given up."""


def main(options: Options) -> int:
    """Trains to the end, and returns the exit code: of the workers, 0 if all is done."""
    if options.workers < 1 or options.restarts < 0:
        raise ValueError("use --workers=1 or more and --restarts=0 or more.")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, raise_stopped)
    code = run_once(options)
    for restart in range(options.restarts):
        if code >= 0:
            break
        print(f"A worker was ended by signal {-code}: start {restart + 2} ...", flush=True)
        code = run_once(options)
    return code if code >= 0 else 128 - code


def run_once(options: Options) -> int:
    """Runs all workers to their end, or to that of the first that fails, and returns its code."""
    addresses = free_addresses(options.workers)
    processes = []
    try:
        for index in range(options.workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = [sys.executable, "-m", "tf_cyclegan.cli", "train"]
            command += [*options.train, "--strategy=multiworker"]
            # Only the first one's words: all say the same.
            output = None if index == 0 else subprocess.DEVNULL
            environment = os.environ | {"TF_CONFIG": json.dumps(task)} | without_proxy()
            # In a session of its own: Ctrl-C reaches this process alone, which hands it on.
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, start_new_session=True)
            )
        print("workers:", *(process.pid for process in processes), flush=True)
        while None in (codes := [process.poll() for process in processes]):
            if any(codes):
                break
            time.sleep(0.2)
        # A signal's negative code first: it is why the others ended with an error.
        return min(code or 0 for code in codes) or max(code or 0 for code in codes)
    except Stopped as stop:
        # Together, so that all save the same step: none can go on without the others.
        for process in processes:
            process.send_signal(stop.number)
        deadline = time.monotonic() + GRACE
        for process in processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                break
        return 128 + stop.number
    finally:
        for process in processes:
            process.kill()
            process.wait()


def without_proxy() -> dict[str, str]:
    """Keeps what the workers say to each other away from a proxy, where it would wait for ever.

    gRPC reads http_proxy, and the first of no_grpc_proxy and no_proxy that is set.
    """
    names = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))
    return {"no_grpc_proxy": f"{names},127.0.0.1".lstrip(",")}


class Stopped(Exception):
    """This process was asked to stop by the signal `number`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def raise_stopped(number, frame):
    """A signal handler: what the process waits for ends, and the signal is handed on."""
    raise Stopped(number)


def free_addresses(count: int) -> list[str]:
    """Addresses on the loopback interface that nothing listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
