import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.sheets import GAP, THUMBNAIL, Page, picture_sheet, thumbnail


def plain(level, height=20, width=30, channels=3):
    return np.full((height, width, channels), level, np.uint8)


@pytest.mark.parametrize("scale", [1, 3])
def test_sheet_holds_every_picture_in_its_place(scale):
    columns = {"real_a": [plain(0), plain(50)], "fake_b": [plain(100), plain(150)]}
    sheet = picture_sheet(columns, scale)
    height, width = 20 * scale, 30 * scale
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (GAP + 2 * (width + GAP), 3)
    top = sheet.shape[0] - 2 * (height + GAP)
    assert 0 < top < 40  # the names
    for x, levels in enumerate([(0, 50), (100, 150)]):
        for y, level in enumerate(levels):
            left, upper = GAP + x * (width + GAP), top + y * (height + GAP)
            assert (sheet[upper : upper + height, left : left + width] == level).all()
    assert (sheet[top:, :GAP] == 255).all() and (sheet[-GAP:] == 255).all()
    for x in range(2):  # each column has a name above it
        left = GAP + x * (width + GAP)
        assert sheet[:top, left : left + width].min() < 128


def test_enlarging_repeats_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    sheet = picture_sheet({"real_a": [picture]}, scale=2)
    shown = sheet[-GAP - 10 : -GAP, GAP : GAP + 8]
    np.testing.assert_array_equal(shown, picture.repeat(2, 0).repeat(2, 1))


def test_gray_stands_beside_rgb():
    red = plain(0)
    red[..., 0] = 200
    sheet = picture_sheet({"real_a": [plain(70, channels=1)], "fake_b": [red]})
    assert (sheet[-GAP - 1, GAP] == 70).all()
    np.testing.assert_array_equal(sheet[-GAP - 1, -GAP - 1], (200, 0, 0))


def inlined(text):
    data = re.findall(r'src="data:image/webp;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(item))) for item in data]


def test_page_shows_real_beside_fake():
    page = Page("a2b: runs/x")
    page.add("one.png", plain(10, channels=1), plain(240))
    page.add("two.png", plain(20), plain(230, 2 * THUMBNAIL, 10))
    text = page.text()
    assert text.count("<figure>") == 2
    assert "<h1>a2b: runs/x</h1>" in text
    pictures = inlined(text)
    assert [p.size for p in pictures] == [(30, 20)] * 3 + [(5, THUMBNAIL)]
    levels = [np.asarray(p.convert("RGB")).mean() for p in pictures]
    np.testing.assert_allclose(levels, [10, 240, 20, 230], atol=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_scale_down_only(channels):
    small = plain(7, 20, THUMBNAIL, channels)
    np.testing.assert_array_equal(thumbnail(small), small)
    large = thumbnail(plain(7, 100, 2 * THUMBNAIL, channels))
    np.testing.assert_array_equal(large, plain(7, 50, THUMBNAIL, channels))


def test_page_needs_no_other_file_and_runs_nothing():
    page = Page("<script>alert(1)</script>")
    page.add('<img src=x onerror="alert(2)">.png', plain(0), plain(0))
    page.add("夏 & зима.png", plain(0), plain(0))
    text = page.text()
    assert "<script" not in text and "<img src=x" not in text
    assert "&lt;script&gt;" in text and "夏 &amp; зима.png" in text
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
