"""Train in several processes on this machine, as a cluster does on several machines.

    tf-cyclegan workers --workers=2 -- --data_dir=my_photos --run_dir=runs/mine

After `--`, give the flags of tf-cyclegan train. Each worker trains on its own share of the images
with its own batches; gradients are averaged over all workers. If one is killed, all are restarted
from the last checkpoint that all of them have. Ctrl-C and SIGTERM stop them all; run the same
command again to continue. For real clusters, see docs/cluster.md.
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

GRACE = 60  # seconds for stopped workers to save a checkpoint before they are killed


@dataclass(frozen=True)
class Options:
    """The flags."""

    train: tyro.conf.Positional[tuple[str, ...]] = ()
    """After --: flags of tf-cyclegan train."""
    workers: int = 2
    """Number of processes. Each uses all devices: with GPUs, run tf-cyclegan train instead."""
    restarts: int = 10
    """How often to restart killed workers before giving up."""


def main(options: Options) -> int:
    """Trains to the end, and returns the workers' exit code, 0 on success."""
    if options.workers < 1 or options.restarts < 0:
        raise ValueError("use --workers=1 or more and --restarts=0 or more.")
    # Under nohup, SIGHUP stays ignored. Windows has none.
    names = ("SIGTERM", "SIGINT", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, raise_stopped)
    try:
        code = run_once(options, numbers)
        for restart in range(options.restarts):
            if code >= 0:
                break
            print(f"A worker was ended by signal {-code}: start {restart + 2} ...", flush=True)
            code = run_once(options, numbers)
    except Stopped as stop:
        return 128 + stop.number
    return code if code >= 0 else 128 - code


def run_once(options: Options, numbers: list[int]) -> int:
    """Runs all workers until all end or one fails, and returns the exit code.

    Args:
        options: the flags.
        numbers: the signals that raise `Stopped`.
    """
    addresses = free_addresses(options.workers)
    processes = []
    try:
        for index in range(options.workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            command = [sys.executable, "-m", "tf_cyclegan.cli", "train"]
            command += [*options.train, "--strategy=multiworker"]
            # Only the first one prints, since all print the same.
            output = None if index == 0 else subprocess.DEVNULL
            environment = os.environ | {"TF_CONFIG": json.dumps(task)} | without_proxy()
            # In a new session, so that Ctrl-C only reaches this process, which forwards it.
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, start_new_session=True)
            )
        print("workers:", *(process.pid for process in processes), flush=True)
        while None in (codes := [process.poll() for process in processes]):
            if any(codes):
                break
            time.sleep(0.2)
        # The negative code of a signal comes first: it caused the errors of the others.
        return min(code or 0 for code in codes) or max(code or 0 for code in codes)
    except Stopped as stop:
        for number in numbers:  # the workers are about to end: another signal changes nothing
            signal.signal(number, signal.SIG_IGN)
        # All at once, so that all save the same step: no worker can continue without the others.
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
    """Returns environment variables that exclude the workers' connections from a proxy.

    Through a proxy, they would hang. gRPC reads http_proxy, and no_grpc_proxy if it is set,
    otherwise no_proxy.
    """
    names = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))
    return {"no_grpc_proxy": f"{names},127.0.0.1".lstrip(",")}


class Stopped(Exception):
    """The signal `number` asked this process to stop."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def raise_stopped(number, frame):
    """Handles a signal: raises `Stopped`, which interrupts the wait and forwards the signal."""
    raise Stopped(number)


def free_addresses(count: int) -> list[str]:
    """Returns unused addresses on the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__))
