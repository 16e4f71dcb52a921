"""Shows images side by side, as a contact sheet and as an HTML page."""

import hashlib
import html
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tf_cyclegan.data.image_files import to_pil

GAP = 4  # pixels between images
COLUMNS = "real_a fake_b cycle_a same_a real_b fake_a cycle_b same_b".split()


def contact_sheet(columns: dict[str, list[np.ndarray]], scale: int = 1) -> np.ndarray:
    """Draws a contact sheet, with a name above each column of images.

    Args:
        columns: name -> images, uint8 `[h, w, 1 or 3]`, all of one size; the same number in each.
        scale: integer factor to enlarge small images by.

    Returns:
        uint8 `[height, width, 3]`, on white.
    """
    images = list(columns.values())
    height, width = (scale * side for side in images[0][0].shape[:2])
    font = ImageFont.load_default(size=max(10, min(16, width // 6)))
    top = 24
    sheet = Image.new(
        "RGB",
        (
            len(columns) * (width + GAP) + GAP,
            top + len(images[0]) * (height + GAP),
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for x, (name, column) in enumerate(columns.items()):
        left = GAP + x * (width + GAP)
        draw.text((left + width / 2, top / 2), name, fill="black", font=font, anchor="mm")
        for y, image in enumerate(column):
            rgb = np.broadcast_to(image, (*image.shape[:2], 3))
            pil = Image.fromarray(rgb).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(pil, (left, top + y * (height + GAP)))
    return np.asarray(sheet)


THUMBNAIL = 384  # pixels, the maximum longer side on a page

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
figure {{ margin: 0 0 1.5rem; display: grid; grid-template-columns: 1fr 1fr; gap: .5rem }}
img {{ width: 100%; height: auto; image-rendering: pixelated }}
figcaption {{ grid-column: 1 / 3; color: #555; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
<p>The real image is on the left, its translation on the right.</p>
{figures}
</html>
"""
FIGURE = """<figure>{real}<a href="{link}">{fake}</a>
<figcaption>{name}</figcaption></figure>"""
IMAGE = """<img src="{source}" alt="{alt}" width="{width}" height="{height}" loading="lazy">"""


class Page:
    """An HTML page of real images next to their translations, with links to the translations.

    It shows small copies of both from the folder FILES next to it, which a browser loads when you
    scroll to them: each image takes only some hundred bytes of HTML.

    Args:
        title: the heading of the page.
        folder: the folder of the page and of the translations.
    """

    FILES = "index_files"

    def __init__(self, title: str, folder: Path):
        self.title = title
        self.folder = Path(folder)
        self.figures: list[str] = []

    def add(self, name: str, real: np.ndarray, fake: np.ndarray):
        """Adds a row of two images, shown at THUMBNAIL pixels at most.

        Args:
            name: the translation's file name in the folder.
            real, fake: the images, uint8 `[h, w, 1 or 3]`.
        """
        # A hash, since the name itself may have the maximum length and any characters.
        stem = hashlib.sha256(os.fsencode(name)).hexdigest()[:20]
        self.figures.append(
            FIGURE.format(
                real=self._image(real, f"{stem}_real.webp", "real"),
                fake=self._image(fake, f"{stem}_fake.webp", "translation"),
                link=quote(os.fsencode(name)),
                name=html.escape(name),
            )
        )

    def text(self) -> str:
        """Returns the HTML of the page."""
        return PAGE.format(title=html.escape(self.title), figures="\n".join(self.figures))

    def _image(self, image, file_name, alt):
        image = thumbnail(image)
        pil = to_pil(image)
        files = self.folder / self.FILES
        files.mkdir(exist_ok=True)
        pil.save(files / file_name, "WEBP", quality=90)
        source = f"{self.FILES}/{file_name}"
        return IMAGE.format(source=source, alt=alt, width=pil.width, height=pil.height)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Scales an image, uint8 `[h, w, 1 or 3]`, down to THUMBNAIL pixels if it is larger."""
    pil = to_pil(image)
    pil.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(pil).reshape(pil.height, pil.width, -1)
