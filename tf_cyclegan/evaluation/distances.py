"""Measures the distance between sets of images, and the diversity of one, on feature vectors.

The numbers depend on the feature network and on its resizing: see `features.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# On 80 photos and SqueezeNet features, good and merely weak translations (unchanged, negative,
# gray, blurred) had 0.6 to 1.2 of the inputs' or targets' diversity. Collapsed ones had at most
# 0.2: one to ten different outputs, with noise of up to 15 levels or 15 % of the input blended in.
COLLAPSED_BELOW = 0.25
BLOCK = 2048  # rows whose distances to all others are computed at a time


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Computes the Frechet distance of two Gaussians fitted to the sets (Heusel et al. 2017).

    With few rows it is biased upwards: compare only sets of the same sizes, and prefer `kid` below
    a few thousand images.

    Args:
        real, fake: `[n, d]` and `[m, d]`, 2 or more rows each; computed in float64.

    Raises:
        ValueError: there are fewer rows, d differs, or values are not finite.
    """
    real, fake = _checked(real, fake)
    offset = real.mean(0) - fake.mean(0)
    # F'F is the covariance. The trace of sqrt(C1 C2) is the sum of singular values of F1 F2',
    # which stays exact for singular covariances, unlike a matrix root.
    f1, f2 = (np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R for x in (real, fake))
    variances = np.square(f1).sum() + np.square(f2).sum()
    return float(offset @ offset + variances - 2 * np.linalg.norm(f1 @ f2.T, "nuc"))


def kid(
    real: np.ndarray, fake: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Computes the unbiased MMD^2 with kernel (x.y / d + 1)^3 (Binkowski et al. 2018).

    For sets of the same distribution it is 0 on average, and sometimes negative.

    Args:
        real, fake: `[n, d]` and `[m, d]`, 2 or more rows each; computed in float64.
        subsets: how many times to draw a subset of each, without replacement.
        subset_size: rows of a subset, limited to the size of the smaller set.
        seed: random seed of the subsets.

    Returns:
        Mean and standard deviation over the subsets. Subsets overlap, so the deviation understates
        the error; it is 0 if each subset is a whole set.

    Raises:
        ValueError: there are fewer rows, d differs, values are not finite, or no subset is drawn.
    """
    real, fake = _checked(real, fake)
    size = min(subset_size, len(real), len(fake))
    if size < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {size}: use 1 or more of 2 or more rows.")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x, y = (s[rng.choice(len(s), size, replace=False)] for s in (real, fake))
        within = sum(k.sum() - np.trace(k) for k in (_kernel(x, x), _kernel(y, y)))
        values.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return float(np.mean(values)), float(np.std(values))


def diversity(features: np.ndarray) -> float:
    """Computes the mean Euclidean distance over all pairs of rows of `[n, d]`, n at least 2."""
    (rows,) = _checked(features)
    total = sum(block.sum() for block in _distances(rows, rows))
    return float(total / (len(rows) * (len(rows) - 1)))


def recall(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Computes how much of the real diversity the fakes span (Kynkäänniemi et al. 2019).

    This is the share of real rows that are at least as near to a fake row as the k-th nearest
    neighbor of that row among the fakes.

    Args:
        real, fake: `[n, d]` and `[m, d]`, m above k.

    Raises:
        ValueError: there are too few rows, d differs, or values are not finite.
    """
    real, fake = _checked(real, fake)
    radii = _radii(fake, k)
    found = [(block <= radii).any(axis=1) for block in _distances(real, fake)]
    return float(np.concatenate(found).mean())


def coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Computes the share of real rows that have a fake row nearby (Naeem et al. 2020).

    Nearby means at most as far as the k-th nearest neighbor among the real rows. Unlike `recall`,
    it does not increase with outliers among the fakes.

    Args:
        real, fake: `[n, d]` and `[m, d]`, n above k.

    Raises:
        ValueError: there are too few rows, d differs, or values are not finite.
    """
    real, fake = _checked(real, fake)
    nearest = np.concatenate([block.min(axis=1) for block in _distances(real, fake)])
    return float((nearest <= _radii(real, k)).mean())


@dataclass(frozen=True)
class Collapse:
    """The result of `collapse`.

    Attributes:
        inputs, fakes, targets: the `diversity` of each set.
        twins: median distance of a fake to its nearest neighbor, as a share of the smaller such
            median of inputs and targets.
        recall, coverage: of the targets by the fakes.
        collapsed: whether the generator has only one or a few different outputs.
        verdict: one sentence with the numbers and the threshold.
    """

    inputs: float
    fakes: float
    targets: float
    twins: float
    recall: float
    coverage: float
    collapsed: bool
    verdict: str


def collapse(inputs: np.ndarray, fakes: np.ndarray, targets: np.ndarray) -> Collapse:
    """Detects whether a generator has only one or a few different outputs.

    Two numbers are compared with the smaller of those of inputs and targets: the diversity, which
    is low for one output, and the median distance to the nearest neighbor, which is also low for a
    few outputs far apart. The generator is collapsed if either is below `COLLAPSED_BELOW`. Recall
    and coverage are reported only: they are just as low for a generator that changes nothing, and a
    few well-placed outputs cover most targets.

    Args:
        inputs, fakes, targets: `[n, d]`, 6 or more rows each; inputs should be as diverse as
            targets. Fakes are the translations of inputs.

    Raises:
        ValueError: there are too few rows, d differs, values are not finite, or most inputs or
            targets are duplicates.
    """
    sets = _checked(inputs, fakes, targets)
    spread = [diversity(rows) for rows in sets]
    nearest = [float(np.median(_radii(rows, 1))) for rows in sets]
    if 0 in (spread[0], spread[2], nearest[0], nearest[2]):
        raise ValueError("most inputs or targets are identical: leave out the duplicates.")
    found, covered = recall(targets, fakes), coverage(targets, fakes)
    share, twins = (fakes / min(inputs, targets) for inputs, fakes, targets in (spread, nearest))
    collapsed = min(share, twins) < COLLAPSED_BELOW
    verdict = (
        f"{'Collapsed' if collapsed else 'Not collapsed'}: the translations are {share:.2f} times "
        f"as varied as the real images, and {twins:.2f} times as far from each other (below "
        f"{COLLAPSED_BELOW} in either, a generator counts as collapsed). Recall {found:.0%}, "
        f"coverage {covered:.0%} of the target images."
    )
    return Collapse(spread[0], spread[1], spread[2], twins, found, covered, collapsed, verdict)


def _checked(*sets: np.ndarray) -> list[np.ndarray]:
    """Returns the sets in float64, or raises a ValueError about the first invalid one."""
    arrays = [np.asarray(rows, np.float64) for rows in sets]
    for rows in arrays:
        if rows.ndim != 2 or rows.shape[1] < 1:
            raise ValueError(f"features have shape {rows.shape}: they must be [n, d].")
        if len(rows) < 2:
            raise ValueError(f"a set of {len(rows)} is too small: use 2 or more images.")
        if rows.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"features have shapes {arrays[0].shape} and {rows.shape}: use the same network."
            )
        if not np.isfinite(rows).all():
            raise ValueError("features hold NaN or infinity: check the network and its images.")
    return arrays


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yields Euclidean distances `[n, m]` in blocks of rows; exactly 0 from a row to itself."""
    same, centre = x is y, x.mean(0)  # centering reduces rounding in the difference of squares
    x, y = x - centre, y - centre
    for top in range(0, len(x), BLOCK):
        rows = x[top : top + BLOCK]
        squares = np.square(rows).sum(1)[:, None] + np.square(y).sum(1) - 2 * rows @ y.T
        if same:
            np.fill_diagonal(squares[:, top:], 0)
        yield np.sqrt(np.maximum(squares, 0))


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Returns the distance of each row to its k-th nearest neighbor, `[n]`."""
    if not 1 <= k < len(rows):
        raise ValueError(
            f"{len(rows)} images have no {k}-th nearest neighbor: use {k + 1} or more images."
        )
    nearest = [np.partition(block, k, axis=1)[:, k] for block in _distances(rows, rows)]
    return np.concatenate(nearest)
