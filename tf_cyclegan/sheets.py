"""Pictures beside each other: as one picture, and as a page for the browser."""

import base64
import html
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
COLUMNS = "real_a fake_b cycle_a same_a real_b fake_a cycle_b same_b".split()


def picture_sheet(columns: dict[str, list[np.ndarray]], scale: int = 1) -> np.ndarray:
    """Lays pictures out side by side, each column under its name.

    Args:
        columns: name -> pictures, uint8 `[h, w, 1 or 3]`, all of one size; as many in each.
        scale: whole number that small pictures are enlarged by.

    Returns:
        uint8 `[height, width, 3]`, on white.
    """
    pictures = list(columns.values())
    height, width = (scale * side for side in pictures[0][0].shape[:2])
    font = ImageFont.load_default(size=max(10, min(16, width // 6)))
    top = 24
    sheet = Image.new(
        "RGB",
        (
            len(columns) * (width + GAP) + GAP,
            top + len(pictures[0]) * (height + GAP),
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for x, (name, column) in enumerate(columns.items()):
        left = GAP + x * (width + GAP)
        draw.text((left + width / 2, top / 2), name, fill="black", font=font, anchor="mm")
        for y, picture in enumerate(column):
            rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
            image = Image.fromarray(rgb).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + y * (height + GAP)))
    return np.asarray(sheet)


THUMBNAIL = 384  # pixels of the longer side on a page

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
figure {{ margin: 0 0 1.5rem; display: grid; grid-template-columns: 1fr 1fr; gap: .5rem }}
img {{ width: 100%; image-rendering: pixelated }}
figcaption {{ grid-column: 1 / 3; color: #555; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
<p>Left the real picture, right its translation.</p>
{figures}
</html>
"""
FIGURE = """<figure><img src="{real}" alt="real"><img src="{fake}" alt="translation">
<figcaption>{name}</figcaption></figure>"""


class Page:
    """A page of real pictures beside their translations, complete in one HTML file.

    Args:
        title: its heading.
    """

    def __init__(self, title: str):
        self.title = title
        self.figures: list[str] = []

    def add(self, name: str, real: np.ndarray, fake: np.ndarray):
        """Adds a row: uint8 `[h, w, 1 or 3]` each, shown at THUMBNAIL pixels at most."""
        self.figures.append(
            FIGURE.format(real=_inline(real), fake=_inline(fake), name=html.escape(name))
        )

    def text(self) -> str:
        """The HTML."""
        return PAGE.format(title=html.escape(self.title), figures="\n".join(self.figures))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """uint8 `[h, w, 1 or 3]` -> the same, scaled down to THUMBNAIL pixels where it has more."""
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image).reshape(image.height, image.width, -1)


def _inline(picture):
    picture = thumbnail(picture)
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
