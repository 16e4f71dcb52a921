"""Describes exported files: sizes, channels, range, direction."""

from pathlib import Path
from typing import Any

from tf_cyclegan.data.image_files import MAX_PIXELS

Size = int | tuple[int, int]  # the side of a square image, or its height and width


def parse_size(text: str) -> tuple[int, int]:
    """Parses a flag to height and width: "256" is a square, "320x240" is 320 wide and 240 high.

    Raises:
        ValueError: the text has another form, or the size is too large.
    """
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(
            f"size is {text}: use a number of pixels such as 256, or WIDTHxHEIGHT such as 320x240."
        )
    width, height = int(numbers[0]), int(numbers[-1])
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"size is {text}: use 1 to {MAX_PIXELS} pixels.")
    return height, width


def sides(size: Size) -> tuple[int, int]:
    """Returns height and width."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """Formats a size for `parse_size`: "256" for a square, otherwise "WIDTHxHEIGHT"."""
    height, width = sides(size)
    return str(width) if height == width else f"{width}x{height}"


def model_name(run_dir: str) -> str:
    """Returns the default name of a model: that of its run folder, or of its file."""
    path = Path(run_dir).resolve()
    return path.name if path.is_dir() else path.stem


def describe_generator(generator, name: str, direction: str | None) -> dict[str, Any]:
    """Returns the description that every exported file needs, as JSON values.

    Args:
        generator: one of `tf_cyclegan.generators`, built.
        name: the model's name.
        direction: "a2b" or "b2a"; None if it is not known.
    """
    return {
        "format": 1,
        "name": name,
        "direction": direction,
        "input_channels": generator.input_channels,
        "output_channels": generator.channels,
        "layout": "NHWC",
        "color": "RGB" if generator.input_channels == 3 else "gray",
        "range": [-1, 1],
        "mean": 127.5,  # (level - mean) / std is the network's input
        "std": 127.5,
        "multiple": generator.multiple,
    }
