"""Measures calls in child processes that take turns, for all scripts in benchmarks/.

Everything that is compared has its own process, since the threads and memory of TensorFlow and
PyTorch would interfere. The parent requests one call from each child in turn, ABAB..., so that
changes in the machine's load affect all of them; a ratio is the median over the rounds of the
ratios within a round. The parent loads neither framework, and waits while a child computes.

Times are wall clock seconds, and "cpu seconds" summed over all threads of the process, including
busy waiting. Memory is in bytes. Everything runs on the CPU: GPUs are hidden from the children.
"""

import math
import multiprocessing
import os
import platform
import resource
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

WARMUP = 2  # calls that are not measured: the first traces, allocates and creates Adam's slots


class Process:
    """A child process that creates callables, and times one call on request.

    Args:
        make: a function at the top level of a module. The child calls `make(*args)`, which returns
            a dict of callables by name, and a dict of facts for the parent. A callable takes no
            arguments and returns a finite number that depends on everything it computed.
        args: picklable arguments.

    Attributes:
        names: names of the callables.
        facts: facts that `make` returned.

    Raises:
        ValueError: the child raised an error, given in one line, or died.
    """

    def __init__(self, make, *args):
        context = multiprocessing.get_context("spawn")  # a fork would share memory and threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()
        self.names, self.facts = self._answer()

    def time(self, name):
        """Returns seconds and cpu seconds of one call."""
        self._pipe.send(name)
        return self._answer()

    def peak_memory(self):
        """Returns the child's peak of physical memory so far, in bytes."""
        self._pipe.send(None)
        return self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()  # the child then ends
        self._process.join()

    def _answer(self):
        try:
            error, answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise ValueError(
                "a measured process was killed, probably for lack of memory: use a smaller "
                "--size, --filters or --batch."
            ) from None
        if error:
            raise ValueError(error)
        return answer


def _serve(pipe, make, args):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no warnings about a missing GPU
    try:
        callables, facts = make(*args)
        pipe.send((None, (list(callables), facts)))
        while True:
            name = pipe.recv()
            pipe.send((None, peak_memory() if name is None else _timed(name, callables[name])))
    except EOFError:
        return
    except Exception as error:  # the parent prints it
        pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", None))


def _timed(name, call):
    start, cpu_start = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if not math.isfinite(result):
        raise ValueError(f"{name} computed {result}: its time is meaningless.")
    return seconds, cpu_seconds


def peak_memory():
    """Returns this process's peak of physical memory, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, ru_maxrss includes the parent's memory at the start of this process.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def alternate(contestants, rounds):
    """Times contestants in turns: one call each, in their order, `rounds` times after warm-up.

    Args:
        contestants: `{label: (process, name of its callable)}`.
        rounds: measured calls of each.

    Returns:
        `({label: [(seconds, cpu seconds), ...]}, others)`: entry i of each label is from the same
        round; `others` is the mean number of cores that other programs kept busy meanwhile, None
        without /proc.
    """
    times = {label: [] for label in contestants}
    start, busy, own = time.perf_counter(), _busy_seconds(), 0.0
    for number in range(WARMUP + rounds):
        for label, (process, name) in contestants.items():
            seconds, cpu_seconds = process.time(name)
            own += cpu_seconds
            if number >= WARMUP:
                times[label].append((seconds, cpu_seconds))
    if busy is None:
        return times, None
    others = (_busy_seconds() - busy - own) / (time.perf_counter() - start)
    return times, max(others, 0.0)


def _busy_seconds():
    """Returns the seconds that all cores together were busy since the machine started."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    # user nice system idle iowait irq softirq steal; time stolen by a hypervisor counts as busy
    ticks = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def summary(times):
    """Returns median, min and max of a contestant's times, for JSON."""
    seconds, cpu_seconds = zip(*times, strict=True)
    return {"seconds": spread(seconds), "cpu_seconds": spread(cpu_seconds)}


def spread(values):
    """Returns median, min and max."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(times, others):
    """Returns the ratios of one contestant's times to another's, by round, for JSON."""
    pairs = list(zip(times, others, strict=True))
    wall = spread([ours[0] / theirs[0] for ours, theirs in pairs])
    return {
        "ratio_to_peer": wall["median"],
        "ratio_to_peer_min": wall["min"],
        "ratio_to_peer_max": wall["max"],
        "cpu_ratio_to_peer": median(ours[1] / theirs[1] for ours, theirs in pairs),
    }


def run_in_turns(described, rounds, *makes):
    """Runs each `(make, *args)` in its own process, and times all their callables in turns.

    Args:
        described: from `machine`; gets the threads, and the cores that other programs kept busy.
        rounds: measured calls of each callable.

    Returns:
        `({callable's name: [(seconds, cpu seconds), ...]}, facts of all processes)`.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(*make)) for make in makes]
        contestants = {name: (process, name) for process in processes for name in process.names}
        times, described["cores_busy_elsewhere"] = alternate(contestants, rounds)
    facts: dict = {}
    for process in processes:
        described["threads"] |= process.facts["threads"]
        facts |= process.facts
    return times, facts


def machine():
    """Describes this machine and its software, for JSON."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": {},  # by framework, filled in later
        "bfloat16": has_bfloat16(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("tensorflow", "keras", "torch", "numpy")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "niceness": os.nice(0),
    }


def has_bfloat16():
    """Returns whether the CPU multiplies in bfloat16; without /proc, returns False."""
    flags = _cpu_field("flags") or _cpu_field("Features")
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def _cpu_field(name):
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
