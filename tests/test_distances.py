import sys
from unittest import mock

import numpy as np
import pytest

from tf_cyclegan.evaluation import distances
from tf_cyclegan.evaluation.distances import (
    COLLAPSED_BELOW,
    collapse,
    coverage,
    diversity,
    fid,
    kid,
    recall,
)


def gauss(n, d=8, seed=0, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


@pytest.fixture
def clean_fid(monkeypatch):
    """Imports clean-fid, with mocks for the packages that the tested functions do not need."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    pytest.importorskip("torch", reason="clean-fid needs PyTorch")
    return pytest.importorskip("cleanfid.fid", reason="the published numbers' library, clean-fid")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_is_clean_fids(clean_fid):
    real, fake = gauss(90), gauss(70, seed=1, scale=1.5, shift=0.3)
    theirs = clean_fid.frechet_distance(
        real.mean(0), np.cov(real, rowvar=False), fake.mean(0), np.cov(fake, rowvar=False)
    )
    assert fid(real, fake) == pytest.approx(theirs, rel=1e-6)


def test_kid_is_clean_fids(clean_fid, monkeypatch):
    real, fake = gauss(70), gauss(70, seed=1, scale=1.5, shift=0.3)
    theirs = clean_fid.kernel_distance(real, fake, num_subsets=2)
    mean, spread = kid(real, fake, subsets=2)
    assert mean == pytest.approx(theirs, rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-12)  # every subset is the complete set

    draws = np.random.default_rng(3)  # both use the same draws: clean-fid draws fakes first
    monkeypatch.setattr(clean_fid.np.random, "choice", draws.choice)
    theirs = clean_fid.kernel_distance(fake, real, num_subsets=5, max_subset_size=30)
    monkeypatch.undo()
    assert kid(real, fake, subsets=5, subset_size=30, seed=3)[0] == pytest.approx(theirs, rel=1e-9)


def test_fid_of_gaussians_is_known():
    whitened = gauss(60, d=3)
    whitened -= whitened.mean(0)
    whitened = whitened @ np.linalg.inv(np.linalg.cholesky(np.cov(whitened, rowvar=False))).T
    shift, scale = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    # |shift|^2 plus the squared differences of the deviations, as the covariances commute
    expected = np.square(shift).sum() + np.square(scale - 1).sum()
    assert fid(whitened, whitened[::-1] * scale + shift) == pytest.approx(expected)
    assert fid(whitened, whitened) == pytest.approx(0, abs=1e-10)


def test_fid_is_exact_with_fewer_rows_than_columns():
    # Deviations 1 and 2 along two orthogonal axes: the product of the covariances is 0.
    real, fake = np.zeros((3, 50)), np.zeros((3, 50))
    real[:, 0], fake[:, 1] = [-1, 0, 1], [-2, 0, 2]
    assert fid(real, fake) == pytest.approx(1 + 4)
    assert fid(real, 3 * real) == pytest.approx((3 - 1) ** 2)


def test_kid_by_hand():
    # d = 1, kernel (x y + 1)^3: it is 1 within {0, 1} and 27 within {1, 2};
    # between the sets, k(0, .) = 1 twice, k(1, 1) = 8 and k(1, 2) = 27.
    mean, _ = kid(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]), subsets=1)
    assert mean == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_kid_tells_equal_from_shifted():
    rows = gauss(400)
    same, _ = kid(rows, rows, subset_size=100)
    halves, spread = kid(rows[:200], rows[200:], subset_size=100)
    shifted, _ = kid(rows[:200], rows[200:] + 1, subset_size=100)
    assert abs(same) < 0.05 and abs(halves) < 0.05 and 0 < spread < 0.2
    assert shifted > 1


def test_kid_is_seeded():
    sets = gauss(50), gauss(60, seed=1)
    scores = [kid(*sets, subsets=3, subset_size=20, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
    assert kid(*sets, subsets=2, subset_size=10**9) == pytest.approx(
        kid(*sets, subsets=2, subset_size=50)
    )


def test_float32_features_are_computed_in_float64():
    real, fake = gauss(40).astype(np.float32) + 1000, gauss(40, seed=1).astype(np.float32) + 1000
    for distance in (fid, lambda a, b: kid(a, b, subsets=1)[0], recall, coverage):
        assert distance(real, fake) == distance(real.astype(float), fake.astype(float))


@pytest.mark.parametrize("distance", [fid, kid, recall, coverage])
def test_features_that_are_refused(distance):
    rows = gauss(9)
    holed = rows.copy()
    holed[3, 3] = np.nan
    cases = {
        "a set of 1 is too small: use 2 or more": rows[:1],
        "use the same network": rows[:, :7],
        "hold NaN": holed,
    }
    for message, wrong in cases.items():
        with pytest.raises(ValueError, match=message):
            distance(rows, wrong)
    for k, message in ((0, "0-th"), (9, "9 images have no 9-th nearest neighbor")):
        if distance in (recall, coverage):
            with pytest.raises(ValueError, match=message):
                distance(rows, rows, k=k)
    with pytest.raises(ValueError, match="0 subsets of 9: use 1 or more"):
        kid(rows, rows, subsets=0)
    with pytest.raises(ValueError, match="5 subsets of 1: .* of 2 or more rows"):
        kid(rows, rows, subsets=5, subset_size=1)


# === Diversity ===


def line(*points):
    return np.array(points, float)[:, np.newaxis]


def test_diversity_by_hand():
    assert diversity(line(0, 1, 3)) == pytest.approx((1 + 3 + 2) / 3)
    assert diversity(np.array([[0, 0], [3, 4]])) == pytest.approx(5)
    assert diversity(np.ones((4, 3))) == 0


def test_recall_and_coverage_by_hand():
    real, fake = line(0, 1, 2, 10), line(0.5, 1.5, 30)
    # k = 1: the balls of the fakes are 0.5 +- 1, 1.5 +- 1 and 30 +- 28.5, which contains 10.
    assert recall(real, fake, k=1) == 1
    assert recall(real, fake[:2], k=1) == pytest.approx(3 / 4)
    # The balls of the reals are 0 +- 1, 1 +- 1, 2 +- 1 and 10 +- 8, which contains no fake.
    assert coverage(real, fake, k=1) == pytest.approx(3 / 4)
    assert coverage(real, line(9, 9.5), k=1) == pytest.approx(1 / 4)
    # k = 2: the last ball is 10 +- 9, which contains the fake 1.5.
    assert coverage(real, fake, k=2) == 1
    for share in (recall, coverage):
        assert share(real, real, k=1) == 1
        assert share(real, real + 100, k=1) == 0


def test_a_healthy_generator_is_no_collapse():
    inputs, targets = gauss(60, 32), gauss(50, 32, seed=1, shift=2)
    for fakes in (inputs, inputs + 2, gauss(60, 32, seed=2, shift=2, scale=0.6), -inputs):
        found = collapse(inputs, fakes, targets)
        assert not found.collapsed
        assert found.verdict.startswith("Not collapsed: ")
    assert found.inputs == found.fakes == diversity(inputs)
    assert found.targets == diversity(targets)
    assert found.recall == recall(targets, -inputs)
    assert found.coverage == coverage(targets, -inputs)


@pytest.mark.parametrize("outputs", [1, 3, 10])
@pytest.mark.parametrize("noise", [0, 0.15])
def test_one_or_a_few_outputs_are_named(outputs, noise):
    inputs, targets = gauss(60, 32), gauss(50, 32, seed=1, shift=2)
    fakes = np.resize(targets[:outputs], (60, 32)) + noise * gauss(60, 32, seed=2)
    found = collapse(inputs, fakes, targets)
    assert found.collapsed
    assert found.verdict.startswith("Collapsed: ") and str(COLLAPSED_BELOW) in found.verdict
    assert f"{found.twins:.2f}" in found.verdict and "\n" not in found.verdict
    # A single output also lowers the diversity. A few different outputs only lower `twins`.
    assert (found.fakes < COLLAPSED_BELOW * found.inputs) == (outputs == 1)


def test_blocks_of_rows_change_nothing(monkeypatch):
    real, fake = gauss(50), gauss(41, seed=1)
    whole = [measure(real, fake) for measure in (recall, coverage)] + [diversity(real)]
    monkeypatch.setattr(distances, "BLOCK", 7)
    blocks = [measure(real, fake) for measure in (recall, coverage)] + [diversity(real)]
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)


def test_duplicates_and_too_few_leave_nothing_to_judge_by():
    rows = gauss(12)
    with pytest.raises(ValueError, match="leave out the duplicates"):
        collapse(np.repeat(rows[:6], 2, axis=0), rows, rows)
    with pytest.raises(ValueError, match="5 images have no 5-th nearest neighbor: use 6 or more"):
        collapse(rows, rows[:5], rows)
