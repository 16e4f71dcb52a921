import random

import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.data.synthetic import SEASONS, landscape


def as_floats(image):
    return image / 127.5 - 1


def edges(image):
    """Returns where neighbouring pixels in a row differ strongly, in any colour."""
    return np.abs(np.diff(image.astype(float), axis=1)).max(-1) > 24


@pytest.mark.parametrize("height, width", [(1, 1), (2, 7), (64, 64), (96, 160), (33, 20)])
def test_any_size(height, width):
    image = landscape(0, SEASONS["a"], height, width)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable


def test_same_arguments_give_same_bytes_whatever_the_global_generators():
    np.random.seed(0)
    first = landscape(3, "winter", 48, 48, seed=7)
    np.random.seed(1)
    before = np.random.get_state()[1].copy(), random.getstate()
    second = landscape(3, "winter", 48, 48, seed=7)
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


def test_index_and_seed_change_the_scene():
    images = [landscape(index, "summer", 32, 32, seed) for index in range(8) for seed in (0, 1)]
    assert len({image.tobytes() for image in images}) == 16


@pytest.mark.parametrize("season", ["summer", "winter"])
def test_every_size_shows_the_same_scene(season):
    small, other = (as_floats(landscape(index, season, 32, 32)) for index in (5, 6))
    large = Image.fromarray(landscape(5, season, 128, 128)).reduce(4)
    assert np.abs(small - as_floats(np.array(large))).mean() < 0.05
    assert np.abs(small - other).mean() > 0.1


@pytest.mark.parametrize("index", range(6))
def test_seasons_share_the_geometry(index):
    summer = edges(landscape(index, "summer", 64, 64))
    winter = edges(landscape(index, "winter", 64, 64))
    stranger = edges(landscape(index + 1, "winter", 64, 64))
    assert (summer & winter).sum() > 0.45 * (summer | winter).sum()
    assert (summer & stranger).sum() < 0.25 * (summer | stranger).sum()


@pytest.mark.parametrize("index", range(6))
def test_walls_windows_and_roofs_keep_their_colour(index):
    summer = landscape(index, "summer", 64, 64)
    kept = (summer == landscape(index, "winter", 64, 64)).all(-1)
    by_chance = (summer == landscape(index + 1, "winter", 64, 64)).all(-1)
    assert 0.01 < kept.mean() < 0.1
    assert by_chance.mean() < 0.002
    assert len(np.unique(summer[kept], axis=0)) >= 3


def test_seasons_differ_widely():
    for index in range(16):
        summer, winter = (landscape(index, season, 64, 64) for season in SEASONS.values())
        assert np.abs(as_floats(summer) - as_floats(winter)).mean() > 0.35


def test_a_table_of_colours_nearly_translates():
    """A season changes only colours, so a colour table from some scenes also fits others."""
    summer, winter = (
        np.stack([landscape(index, season, 64, 64) for index in range(40)])
        for season in SEASONS.values()
    )
    for source, target in ((summer, winter), (winter, summer)):
        color = (source // 8).astype(int) @ (1024, 32, 1)
        table = np.zeros((32768, 3))
        seen = np.bincount(color[:32].ravel(), minlength=32768)
        for channel in range(3):
            total = np.bincount(color[:32].ravel(), target[:32, ..., channel].ravel(), 32768)
            table[:, channel] = total / np.maximum(seen, 1)
        error = np.abs(table[color[32:]] - target[32:]).mean() / 127.5
        assert error < 0.08


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, "autumn", 8, 8), "season is 'autumn': use one of"),
        ((0, "summer", 0, 8), "size is 0x8"),
        ((0, "summer", 8, -1), "size is 8x-1"),
        ((-1, "summer", 8, 8), "non-negative"),
    ],
)
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        landscape(*arguments)
