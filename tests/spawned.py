"""Functions that test_benchmarks.py runs in child processes. A small module starts faster."""

import math
import os


def fails():
    raise RuntimeError("no\nluck")


def dies():
    os._exit(1)


def computes():
    big = bytearray(64 << 20)
    return {"good": lambda: float(big[0]), "nan": lambda: math.nan}, {"fact": 1}
