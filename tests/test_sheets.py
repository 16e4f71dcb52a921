import html
import os
import re
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.evaluation.contact_sheets import GAP, THUMBNAIL, Page, contact_sheet, thumbnail


def plain(level, height=20, width=30, channels=3):
    return np.full((height, width, channels), level, np.uint8)


@pytest.mark.parametrize("scale", [1, 3])
def test_sheet_holds_every_image_in_its_place(scale):
    columns = {"real_a": [plain(0), plain(50)], "fake_b": [plain(100), plain(150)]}
    sheet = contact_sheet(columns, scale)
    height, width = 20 * scale, 30 * scale
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (GAP + 2 * (width + GAP), 3)
    top = sheet.shape[0] - 2 * (height + GAP)
    assert 0 < top < 40  # the row of names
    for x, levels in enumerate([(0, 50), (100, 150)]):
        for y, level in enumerate(levels):
            left, upper = GAP + x * (width + GAP), top + y * (height + GAP)
            assert (sheet[upper : upper + height, left : left + width] == level).all()
    assert (sheet[top:, :GAP] == 255).all() and (sheet[-GAP:] == 255).all()
    for x in range(2):  # there is a name above each column
        left = GAP + x * (width + GAP)
        assert sheet[:top, left : left + width].min() < 128


def test_enlarging_repeats_pixels():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    sheet = contact_sheet({"real_a": [image]}, scale=2)
    shown = sheet[-GAP - 10 : -GAP, GAP : GAP + 8]
    np.testing.assert_array_equal(shown, image.repeat(2, 0).repeat(2, 1))


def test_gray_stands_beside_rgb():
    red = plain(0)
    red[..., 0] = 200
    sheet = contact_sheet({"real_a": [plain(70, channels=1)], "fake_b": [red]})
    assert (sheet[-GAP - 1, GAP] == 70).all()
    np.testing.assert_array_equal(sheet[-GAP - 1, -GAP - 1], (200, 0, 0))


def shown(text, folder):
    """Returns the images that a page shows, and the files that it links to."""
    sources = [folder / unquote(item) for item in re.findall(r'src="([^"]+)"', text)]
    links = [folder / unquote(html.unescape(item)) for item in re.findall(r'href="([^"]+)"', text)]
    return [Image.open(path) for path in sources], links


def test_page_shows_real_beside_fake(tmp_path):
    page = Page("a2b: runs/x", tmp_path)
    page.add("one.png", plain(10, channels=1), plain(240))
    page.add("two.png", plain(20), plain(230, 2 * THUMBNAIL, 10))
    text = page.text()
    assert text.count("<figure>") == 2
    assert "<h1>a2b: runs/x</h1>" in text
    images, links = shown(text, tmp_path)
    assert [p.size for p in images] == [(30, 20)] * 3 + [(5, THUMBNAIL)]
    levels = [np.asarray(p.convert("RGB")).mean() for p in images]
    np.testing.assert_allclose(levels, [10, 240, 20, 230], atol=3)
    assert links == [tmp_path / "one.png", tmp_path / "two.png"]


def test_page_is_small_however_many_images(tmp_path):
    page = Page("many", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for i in range(10):
        page.add(f"{i}.png", noise, noise)
    assert len(page.text()) < 2000 + 10 * 500
    assert len(list((tmp_path / Page.FILES).iterdir())) == 20


NAMES = ["a b#1?.png", "100%25.jpg", "夏 & зима.png", '<img src=x onerror="alert(2)">.png']
NAMES += ["javascript:alert(1).png", "sub/it's.png", "x" * 251 + ".png", os.fsdecode(b"\xe9.png")]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_of_any_name(tmp_path, name):
    page = Page("names", tmp_path)
    page.add(name, plain(0), plain(0))
    (link,) = re.findall(r'<a href="([^"]+)"', page.text())
    assert os.fsdecode(unquote_to_bytes(link)) == name
    assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", link)
    assert len(shown(page.text(), tmp_path)[0]) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_scale_down_only(channels):
    small = plain(7, 20, THUMBNAIL, channels)
    np.testing.assert_array_equal(thumbnail(small), small)
    large = thumbnail(plain(7, 100, 2 * THUMBNAIL, channels))
    np.testing.assert_array_equal(large, plain(7, 50, THUMBNAIL, channels))


def test_page_fetches_from_nowhere_else_and_runs_nothing(tmp_path):
    page = Page("<script>alert(1)</script>", tmp_path)
    for name in NAMES[:4]:
        page.add(name, plain(0), plain(0))
    text = page.text()
    assert "<script" not in text and "<img src=x" not in text
    assert "&lt;script&gt;" in text and "夏 &amp; зима.png" in text
    sources = re.findall(r'src="([^"]*)"', re.sub("<figcaption>.*?</figcaption>", "", text))
    assert len(sources) == 8 and all(source.startswith("index_files/") for source in sources)
