"""How everything in benchmarks/ is measured: child processes that take turns, medians, the machine.

What is compared runs in processes of its own, since TensorFlow's and PyTorch's threads and memory
would get in each other's way. The parent asks one after the other for one call, ABAB..., so that a
change in the machine's load meets all of them; a ratio is the median over the rounds of the ratios
within a round. The parent itself loads neither framework, and waits while a child computes.

Times are seconds by the wall clock, and "cpu seconds", which all threads of the process spent:
computing, or spinning while they wait for one another. Memory is in bytes.
Everything runs on the CPU: GPUs are hidden from the children.
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

WARMUP = 2  # calls that are not counted: the first traces, allocates and makes Adam's slots


class Process:
    """A child process that makes callables, and times one call when asked.

    Args:
        make: a function at the top of a module. Called in the child as `make(*args)` it returns the
            callables by name, and a dict of facts for the parent. A callable takes nothing and
            returns a finite number that depends on all it computed.
        args: picklable.

    Attributes:
        names: of the callables.
        facts: what `make` told of them.

    Raises:
        ValueError: what the child raises, in one line, or that it died.
    """

    def __init__(self, make, *args):
        context = multiprocessing.get_context("spawn")  # a fork would share our pages and threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()
        self.names, self.facts = self._answer()

    def time(self, name):
        """Seconds and cpu seconds of one call."""
        self._pipe.send(name)
        return self._answer()

    def peak_memory(self):
        """The most bytes of physical memory that the process has held so far."""
        self._pipe.send(None)
        return self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()  # the child ends when it finds that
        self._process.join()

    def _answer(self):
        try:
            error, answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise ValueError(
                "a measured process was killed, most likely for want of memory: use a smaller "
                "--size, --filters or --batch."
            ) from None
        if error:
            raise ValueError(error)
        return answer


def _serve(pipe, make, args):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or it complains that there is no GPU
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
        raise ValueError(f"{name} computed {result}: its time means nothing.")
    return seconds, cpu_seconds


def peak_memory():
    """The most bytes of physical memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux' ru_maxrss would count what the parent held when it started this process.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def alternate(contestants, rounds):
    """Lets contestants take turns: one call each, in their order, `rounds` times after warm-up.

    Args:
        contestants: `{label: (process, name of its callable)}`.
        rounds: counted calls of each.

    Returns:
        `({label: [(seconds, cpu seconds), ...]}, others)`: entry i of each label is from the same
        round; others is how many cores all else on the machine kept busy meanwhile, on average,
        None where there is no /proc.
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
    """Seconds since the start of the machine in which its cores computed, summed over them."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    # user nice system idle iowait irq softirq steal; what a hypervisor steals is busy elsewhere
    ticks = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def summary(times):
    """Median, min and max of a contestant's times, as JSON."""
    seconds, cpu_seconds = zip(*times, strict=True)
    return {"seconds": spread(seconds), "cpu_seconds": spread(cpu_seconds)}


def spread(values):
    """Median, min and max."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(times, others):
    """How one contestant's times compare with another's, round by round, as JSON."""
    pairs = list(zip(times, others, strict=True))
    wall = spread([ours[0] / theirs[0] for ours, theirs in pairs])
    return {
        "ratio_to_peer": wall["median"],
        "ratio_to_peer_min": wall["min"],
        "ratio_to_peer_max": wall["max"],
        "cpu_ratio_to_peer": median(ours[1] / theirs[1] for ours, theirs in pairs),
    }


def run_in_turns(described, rounds, *makes):
    """Runs each `(make, *args)` in a process of its own, and all that they make in turns.

    Args:
        described: from `machine`; gets the threads, and the cores that were busy elsewhere.
        rounds: counted calls of each callable.

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
    """What the numbers are measured on, as JSON."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": {},  # by framework, once it is known
        "bfloat16": has_bfloat16(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("tensorflow", "keras", "torch", "numpy")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "niceness": os.nice(0),
    }


def has_bfloat16():
    """Whether the CPU multiplies in bfloat16; unknown, and so False, where there is no /proc."""
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
