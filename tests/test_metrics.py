import math

import numpy as np
import pytest

from tf_cyclegan.data.image_files import ImageSet
from tf_cyclegan.evaluation.metrics import (
    PALETTES,
    color_shift,
    cycle_scores,
    label_scores,
    read_palette,
    score_translations,
    truth_scores,
)


def noise(seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 246, (16, 20, channels), np.uint8)


def as_set(images):
    return ImageSet(tuple(map(str, range(len(images)))), images.__getitem__)


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_images(channels):
    scores = truth_scores([noise(channels=channels)], [noise(channels=channels)])
    assert scores["l1"] == 0
    assert scores["ssim"] == pytest.approx(1)
    assert scores["psnr"] == math.inf


def test_a_constant_offset_by_hand():
    scores = truth_scores([noise() + np.uint8(10)], [noise()])
    assert scores["l1"] == pytest.approx(10 / 127.5)
    assert scores["psnr"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert 0.9 < scores["ssim"] < 1


def test_black_against_white_is_the_largest_distance():
    black = np.zeros((16, 16, 3), np.uint8)
    scores = truth_scores([black], [black + np.uint8(255)])
    assert scores["l1"] == 2
    assert scores["psnr"] == pytest.approx(0, abs=1e-5)
    # The structural similarity of two flat images is (2 m n + C1) / (m^2 + n^2 + C1).
    assert scores["ssim"] == pytest.approx(2.55**2 / (255**2 + 2.55**2), rel=1e-3)


def test_scores_are_means_over_pairs_and_symmetric():
    pairs = [noise(1), noise(2)], [noise(3), noise(4)]
    scores = truth_scores(*pairs)
    each = [truth_scores([a], [b]) for a, b in zip(*pairs, strict=True)]
    for name in ("l1", "psnr", "ssim"):
        assert scores[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
    assert truth_scores(*reversed(pairs)) == pytest.approx(scores)
    assert scores["l1"] > 0.3 and scores["ssim"] < 0.3


def test_as_many_of_each():
    with pytest.raises(ValueError, match="zip"):
        truth_scores([noise()], [noise(), noise()])


def test_translations_beside_the_untranslated():
    real, truth = as_set([noise(1), noise(2)]), as_set([noise(1) + np.uint8(5), noise(2)])
    after, before = score_translations(lambda image: image + np.uint8(5), real, truth)
    assert after["l1"] == pytest.approx(2.5 / 127.5)  # the first is exact, the second is off by 5
    assert before == truth_scores([noise(1), noise(2)], [truth.read(0), truth.read(1)])


def test_gray_to_rgb_is_compared_as_gray_in_three_channels():
    gray, truth = noise(1, 1), noise(2)
    after, before = score_translations(lambda p: truth, as_set([gray]), as_set([truth]))
    assert after["l1"] == 0
    assert before == truth_scores([gray.repeat(3, axis=2)], [truth])


def test_cycles_are_scored_like_the_truth():
    pairs = [noise(1), noise(2)], [noise(3), noise(4)]
    scores = truth_scores(*pairs)
    assert cycle_scores(*pairs) == {name: scores[name] for name in ("l1", "psnr")}
    small = np.zeros((2, 2, 3), np.uint8)  # smaller than SSIM's window, which is not needed
    assert cycle_scores([small], [small + np.uint8(255)])["l1"] == 2


def flat(*color):
    return np.full((4, 5, len(color)), color, np.uint8)


def test_color_shifts_of_known_colors():
    # In L*a*b*, sRGB's red is (53.24, 80.09, 67.20) and its blue is (32.30, 79.19, -107.86).
    red, blue = flat(255, 0, 0), flat(0, 0, 255)
    expected = np.linalg.norm([53.24 - 32.30, 80.09 - 79.19, 67.20 + 107.86])
    assert color_shift([red], [blue]) == pytest.approx(expected, abs=0.05)
    assert color_shift([flat(0)], [flat(255, 255, 255)]) == pytest.approx(100, abs=0.05)
    assert color_shift([red, red], [red, blue]) == pytest.approx(expected / 2, abs=0.05)
    with pytest.raises(ValueError):
        color_shift([red], [red, blue])


# === Label maps ===

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)


def labels(*rows):
    return PALETTE[np.array(rows)]


def test_palettes(tmp_path):
    assert len(read_palette("cityscapes")) == 20 and len(read_palette("facades")) == 12
    for name in PALETTES:
        assert len(np.unique(read_palette(name), axis=0)) == len(read_palette(name))
    assert read_palette("cityscapes")[0].tolist() == [128, 64, 128]  # road
    path = tmp_path / "colours.txt"
    path.write_text("#ff0000\n00ff80 000000\n")
    assert read_palette(str(path)).tolist() == [[255, 0, 0], [0, 255, 128], [0, 0, 0]]
    path.write_text("ff0000 red")
    with pytest.raises(ValueError, match="'red' is not a color: write red as ff0000"):
        read_palette(str(path))
    with pytest.raises(ValueError, match="nowhere is not a palette: use cityscapes, facades"):
        read_palette("nowhere")


def test_pairs_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="resize pairs to one size"):
        truth_scores([np.zeros((12, 12, 3), np.uint8)], [np.zeros((12, 16, 3), np.uint8)])


def test_label_scores_by_hand():
    truth, image = labels([0, 0, 0, 1], [0, 0, 0, 1]), labels([0, 0, 0, 1], [0, 0, 2, 0])
    scores = label_scores([image], [truth], PALETTE)
    assert scores["pixel_accuracy"] == pytest.approx(6 / 8)
    assert scores["class_accuracy"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    # Class 2 is only in the image and counts as 0. Class 3 is in neither and does not count.
    assert scores["iou"] == pytest.approx((5 / 7 + 1 / 2 + 0) / 3)


def test_label_counts_are_of_all_images_together():
    maps = [labels([0, 0], [0, 1]), labels([1, 1], [1, 1])]
    scores = label_scores([maps[0], labels([0, 1], [1, 1])], maps, PALETTE)
    assert scores["class_accuracy"] == pytest.approx((3 / 3 + 4 / 5) / 2)
    assert label_scores(maps, maps, PALETTE) == dict.fromkeys(scores, 1.0)


def test_labels_are_of_the_nearest_colour():
    truth = labels([0, 1, 2, 3])
    near = np.array([[[200, 60, 60], [90, 250, 90], [30, 0, 190], [40, 30, 20]]], np.uint8)
    assert label_scores([near], [truth], PALETTE)["pixel_accuracy"] == 1
    assert label_scores([near[:, ::-1]], [truth], PALETTE)["pixel_accuracy"] == 0


def test_what_are_no_label_maps():
    one, other = labels([0, 1]), labels([0, 1, 2])
    cases = {
        "use RGB pairs of one size": ([one], [other], PALETTE),
        "RGB pairs": ([one[:, :, :1]], [one[:, :, :1]], PALETTE),
        "no label maps": ([], [], PALETTE),
        "needs 2 or more RGB": ([one], [one], PALETTE[:, :2]),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            label_scores(*arguments)
