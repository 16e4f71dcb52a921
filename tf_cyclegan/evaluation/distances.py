"""How far sets of images are apart, and how varied one is, on feature vectors.

The numbers depend on the network that made the features, and on its resizing: see `features.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# On 80 photos and SqueezeNet features, healthy and merely weak translations (unchanged, negative,
# gray, blurred) had 0.6 to 1.2 of the inputs' or targets' variety; one to ten outputs for all, with
# noise of up to 15 levels or 15 % of the input shining through, had at most 0.2.
COLLAPSED_BELOW = 0.25
BLOCK = 2048  # rows whose distances to all others are in memory at a time


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of two Gaussians fitted to the sets (Heusel et al. 2017).

    Biased upwards where rows are few: compare only sets of the same sizes, and prefer `kid` below
    some thousand images.

    Args:
        real, fake: `[n, d]` and `[m, d]`, 2 or more rows each; computed in float64.

    Raises:
        ValueError: fewer rows, another d, or values that are not finite.
    """
    real, fake = _checked(real, fake)
    offset = real.mean(0) - fake.mean(0)
    # F'F is the covariance. The trace of sqrt(C1 C2) is the sum of singular values of F1 F2',
    # which stays exact where a covariance is singular and a matrix root does not.
    f1, f2 = (np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R for x in (real, fake))
    variances = np.square(f1).sum() + np.square(f2).sum()
    return float(offset @ offset + variances - 2 * np.linalg.norm(f1 @ f2.T, "nuc"))


def kid(
    real: np.ndarray, fake: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with kernel (x.y / d + 1)^3.

    Unbiased, so 0 on average for sets of one distribution, and sometimes negative.

    Args:
        real, fake: `[n, d]` and `[m, d]`, 2 or more rows each; computed in float64.
        subsets: how many times a subset of each is drawn, without replacement.
        subset_size: rows of one, at most those of the smaller set.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets. Subsets overlap, so the deviation understates
        the error, and it is 0 where each is a whole set.

    Raises:
        ValueError: fewer rows, another d, values that are not finite, or no subset to draw.
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
    """Mean Euclidean distance over all pairs of rows of `[n, d]`, n at least 2."""
    (rows,) = _checked(features)
    total = sum(block.sum() for block in _distances(rows, rows))
    return float(total / (len(rows) * (len(rows) - 1)))


def recall(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Share of real rows in a ball around a fake row that reaches to its k-th nearest other fake
    (Kynkäänniemi et al. 2019): how much of the real variety the fakes span.

    Args:
        real, fake: `[n, d]` and `[m, d]`, m above k.

    Raises:
        ValueError: too few rows, another d, or values that are not finite.
    """
    real, fake = _checked(real, fake)
    radii = _radii(fake, k)
    found = [(block <= radii).any(axis=1) for block in _distances(real, fake)]
    return float(np.concatenate(found).mean())


def coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Share of real rows whose ball, up to its k-th nearest other real, holds a fake row (Naeem et
    al. 2020). Unlike `recall`, far-off fakes cannot raise it.

    Args:
        real, fake: `[n, d]` and `[m, d]`, n above k.

    Raises:
        ValueError: too few rows, another d, or values that are not finite.
    """
    real, fake = _checked(real, fake)
    nearest = np.concatenate([block.min(axis=1) for block in _distances(real, fake)])
    return float((nearest <= _radii(real, k)).mean())


@dataclass(frozen=True)
class Collapse:
    """What `collapse` found.

    Attributes:
        inputs, fakes, targets: the `diversity` of each set.
        twins: median distance of a fake to its nearest other, as a share of the smaller such
            median of inputs and targets.
        recall, coverage: of the targets by the fakes.
        collapsed: whether the generator gives one or a few outputs, whatever it is given.
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
    """Whether a generator gives one or a few outputs whatever it is given.

    It is collapsed where the fakes' diversity is below `COLLAPSED_BELOW` of the smaller one of
    inputs and targets (one output), or where the distance of a fake to its nearest other is, in the
    median (a few outputs far apart, which diversity alone would pass). Recall and coverage are
    reported, but decide nothing: they are as low for one that changes nothing, and well-placed few
    outputs cover most targets.

    Args:
        inputs, fakes, targets: `[n, d]`, 6 or more rows each, of inputs as different as targets;
            fakes are the translations of inputs.

    Raises:
        ValueError: too few rows, another d, values that are not finite, or inputs or targets of
            which most are duplicates.
    """
    sets = _checked(inputs, fakes, targets)
    spread = [diversity(rows) for rows in sets]
    nearest = [float(np.median(_radii(rows, 1))) for rows in sets]
    if 0 in (spread[0], spread[2], nearest[0], nearest[2]):
        raise ValueError("most inputs or targets are equal images: leave out the duplicates.")
    found, covered = recall(targets, fakes), coverage(targets, fakes)
    share, twins = (fakes / min(inputs, targets) for inputs, fakes, targets in (spread, nearest))
    collapsed = min(share, twins) < COLLAPSED_BELOW
    verdict = (
        f"{'Collapsed' if collapsed else 'Not collapsed'}: the translations' diversity is "
        f"{share:.2f} and the distance to their nearest other {twins:.2f} of the inputs' or "
        f"targets' own, whichever is smaller (collapsed below {COLLAPSED_BELOW}); they recall "
        f"{found:.0%} of the targets and cover {covered:.0%}."
    )
    return Collapse(spread[0], spread[1], spread[2], twins, found, covered, collapsed, verdict)


def _checked(*sets: np.ndarray) -> list[np.ndarray]:
    """The sets in float64, or a ValueError about the first that is wrong."""
    arrays = [np.asarray(rows, np.float64) for rows in sets]
    for rows in arrays:
        if rows.ndim != 2 or rows.shape[1] < 1:
            raise ValueError(f"features of {rows.shape}: they must be [n, d].")
        if len(rows) < 2:
            raise ValueError(f"a set of {len(rows)} is too small: use 2 or more images.")
        if rows.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"features of {arrays[0].shape} and {rows.shape}: take both by one network."
            )
        if not np.isfinite(rows).all():
            raise ValueError("features hold NaN or infinity: check the network and its images.")
    return arrays


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Euclidean, `[n, m]`, in blocks of rows; exactly 0 on the diagonal of a set with itself."""
    same, centre = x is y, x.mean(0)  # centred: less is lost in the difference of squares
    x, y = x - centre, y - centre
    for top in range(0, len(x), BLOCK):
        rows = x[top : top + BLOCK]
        squares = np.square(rows).sum(1)[:, None] + np.square(y).sum(1) - 2 * rows @ y.T
        if same:
            np.fill_diagonal(squares[:, top:], 0)
        yield np.sqrt(np.maximum(squares, 0))


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """The distance of each row to its k-th nearest other, `[n]`."""
    if not 1 <= k < len(rows):
        raise ValueError(
            f"{len(rows)} images have no {k}-th nearest other: use {k + 1} or more images."
        )
    nearest = [np.partition(block, k, axis=1)[:, k] for block in _distances(rows, rows)]
    return np.concatenate(nearest)
