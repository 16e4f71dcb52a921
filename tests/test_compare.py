"""Tests differences, latencies and example images."""

import numpy as np
import pytest

from tf_cyclegan.data.image_files import ImageSet, write_image
from tf_cyclegan.data.synthetic import landscape
from tf_cyclegan.export.compare import (
    comparison_sheet,
    difference,
    example_images,
    find_sets,
    latencies,
)
from tf_cyclegan.training.config import Config


def test_difference_of_known_images():
    zero = np.zeros((1, 2, 2, 1), np.float32)
    apart = difference([zero + 0.2, zero - 0.02], [zero, zero])
    assert apart["max"] == pytest.approx(0.2)
    assert apart["mean"] == pytest.approx(0.11)
    assert apart["psnr"] == pytest.approx((20 + 40) / 2)  # 2 / 0.2 and 2 / 0.02


def test_equal_images_and_nan_are_told_apart():
    one = np.ones((1, 2, 2, 1), np.float32)
    assert difference([one], [one]) == {"max": 0, "mean": 0, "psnr": 200}
    assert np.isnan(difference([one * np.nan, one], [one, one])["psnr"])
    with pytest.raises(ValueError):
        difference([one], [one, one])


def test_latencies_take_turns():
    calls = []
    runners = {name: lambda image, name=name: calls.append((name, image)) for name in "ab"}
    times = latencies(runners, "image", rounds=3)
    assert calls == [("a", "image"), ("a", "image"), ("b", "image"), ("b", "image")] * 3
    assert set(times) == {"a", "b"} and all(ms > 0 for ms in times.values())


def test_examples_are_the_middle_squares_spread_over_the_set():
    def read(i):
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, 2:6] = 255
        pixels[:, 2:6, 0] = i
        return pixels

    images = example_images(ImageSet(tuple(map(str, range(101))), read), 4, 3, 5)
    assert [image.shape for image in images] == [(1, 4, 4, 3)] * 5
    levels = [(image[0, 0, 0, 0] + 1) * 127.5 for image in images]
    np.testing.assert_allclose(levels, [0, 25, 50, 75, 100], atol=1e-4)
    assert all((image[..., 1:] == 1).all() for image in images)
    assert example_images(ImageSet(("0",), read), 8, 1, 5)[0].shape == (1, 8, 8, 1)
    assert example_images(ImageSet(("0",), read), 8, 1, 0) == []


@pytest.mark.parametrize("height, width", [(4, 6), (6, 4), (2, 20), (20, 2)])
def test_examples_have_the_aspect_that_is_asked_for(height, width):
    """Stores the row as red and the column as green, so that the crop can be computed."""
    rows, columns = np.mgrid[:40, :60].astype(np.uint8)
    pixels = np.stack([rows, columns, rows], axis=-1)
    (image,) = example_images(ImageSet(("0",), lambda i: pixels), (height, width), 3, 1)
    assert image.shape == (1, height, width, 3)
    levels = (image[0] + 1) * 127.5
    scale = min(40 / height, 60 / width)  # source pixels per pixel, equal in both directions
    assert np.ptp(levels[..., 0]) == pytest.approx(scale * (height - 1), abs=2)
    assert np.ptp(levels[..., 1]) == pytest.approx(scale * (width - 1), abs=2)
    assert levels[..., 0].mean() == pytest.approx(19.5, abs=1)
    assert levels[..., 1].mean() == pytest.approx(29.5, abs=1)


def test_sets_of_a_run_and_of_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(Config().to_json())
    training, test = find_sets((), tmp_path, "b2a")
    assert len(training) > len(test) > 0
    assert not set(training.names) & set(test.names)
    write_image(tmp_path / "one.png", landscape(0, "summer", 8, 8, 0))
    training, test = find_sets((str(tmp_path / "one.png"),), tmp_path, "b2a")
    assert training.names == test.names == ("one.png",)


def test_no_images_are_named(tmp_path):
    with pytest.raises(ValueError, match="not a run folder.* Give images with --images"):
        find_sets((), tmp_path, "a2b")


def test_sheet_shows_differences_magnified():
    image = np.full((1, 64, 64, 3), -1, np.float32)
    sheet = comparison_sheet([image], [image], {"near": [image], "far": [image + 0.1]})
    near, far = sheet[-30, 2 * 132 + 64], sheet[-30, 3 * 132 + 64]
    assert (near == 0).all()
    np.testing.assert_allclose(far.astype(int), 8 * 0.1 * 127.5, atol=1)
