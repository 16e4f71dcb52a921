"""Converts images from their embedded color profile to sRGB, with LittleCMS."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

_SRGB = ImageCms.createProfile("sRGB")
_GRAY_MODES = ("1", "L", "LA", "La")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts an 8-bit image from its color profile to sRGB, with the perceptual intent.

    As in browsers, a profile is ignored if it cannot be read or is for another kind of image (such
    as an RGB profile in a CMYK image). A profile that equals sRGB within one level changes nothing.

    Args:
        image: an image in any of Pillow's 8-bit modes.
        profile: an ICC profile for RGB, gray or CMYK.

    Returns:
        An RGB or RGBA image if colors were converted; otherwise the unchanged image.
    """
    if image.mode in ("LAB", "YCbCr", "HSV"):
        return image
    kind = "CMYK" if image.mode == "CMYK" else "L" if image.mode in _GRAY_MODES else "RGB"
    mode, transform = _transform(profile, kind)
    if transform is None:
        return image
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    converted = transform.apply(image.convert(mode))
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@functools.lru_cache(maxsize=8)  # the images of a dataset mostly share one profile
def _transform(profile: bytes, kind: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Returns a profile's image mode and its transform to sRGB; None if nothing has to be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space, "")
        if mode != kind and (mode, kind) != ("RGB", "L"):
            return mode, None
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "", None
    if mode == "CMYK":
        return mode, transform
    levels = np.moveaxis(np.indices((9, 9, 9)), 0, -1).reshape(1, -1, 3) * 255 // 8  # [1, 729, 3]
    probe = Image.fromarray(levels.astype(np.uint8)).convert(mode)
    moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return mode, transform if np.abs(moved).max() > 1 else None
