"""Sheets of pictures: one labelled column for each kind, one row for each example."""

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
