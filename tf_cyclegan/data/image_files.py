"""Decodes image files to uint8 arrays, and encodes them, with Pillow."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from tf_cyclegan.data.color import to_srgb
from tf_cyclegan.data.containers import read_container
from tf_cyclegan.files import one_line

MAX_PIXELS = 50_000_000
MAX_BYTES = 8 * MAX_PIXELS  # MAX_PIXELS at 16-bit RGBA, uncompressed

# The suffixes of image files -> the Pillow format to write.
SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
}
# Only these formats are opened: every parser is a risk with untrusted files.
_FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 95, "chroma": 420},  # phones support no other chroma
}
_STRIP = 256  # rows converted at a time, so that no intermediate result holds the whole image
# EXIF orientation -> the view of the upright array that has the layout of the stored image; for 1
# and unknown values, the array itself.
_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
# `warnings.catch_warnings` changes global state, and data pipelines use several threads.
_WARNINGS_LOCK = threading.Lock()


class ImageError(ValueError):
    """An image cannot be read or written; the message is one line with a remedy."""


class DatasetError(ValueError):
    """A dataset cannot be loaded; the message is one line with a remedy."""


@dataclass(frozen=True)
class ImageSet:
    """The images of one domain in one split, read on access.

    Attributes:
        names: one name per image, in a fixed order.
        read: index -> uint8 `[h, w, channels]`; raises `ImageError`.
        paths: the image files, if each image has its own.
    """

    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    paths: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Returns the images with these indices, in this order."""
        return ImageSet(
            tuple(self.names[i] for i in indices),
            lambda place: self.read(indices[place]),
            tuple(self.paths[i] for i in indices) if self.paths else None,
        )


def in_gray(images: ImageSet) -> ImageSet:
    """Returns the same images with one channel, uint8 `[h, w, 1]`."""
    return replace(images, read=lambda i: to_channels(images.read(i), 1))


def decode_image(
    data: bytes, name: str = "image", channels: int = 3, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF, HEIF, AVIF, JPEG 2000 or PPM image.

    The contents determine the format, not the name; of several frames, the first is decoded. The
    image is rotated by its EXIF orientation, and an embedded ICC profile is converted to sRGB; a
    profile that is damaged or does not fit the image is ignored. Alpha is composited on white, and
    16-bit gray is divided by 257. Integer gray must be in [0, 65535] and float gray in [0, 1]:
    other ranges are rejected, since they do not define black and white.

    Untrusted files are safe to decode: `read_container` bounds the time and memory they take.

    Args:
        data: the encoded image.
        name: the image's name in error messages.
        channels: 1 for gray, 3 for RGB.
        max_pixels: larger images are rejected by their header, before their pixels are decoded.
            Pillow's own limit of about 179 million pixels applies too.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        ImageError: if the bytes are not a complete image of these formats, the image is too large,
            or its format needs a package that is not installed.
        ValueError: if `channels` is neither 1 nor 3.
    """
    return _decode(io.BytesIO(data), name, channels, max_pixels)


def read_image(
    path: str | os.PathLike[str], channels: int = 3, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads an image file of at most 8 bytes per allowed pixel; see `decode_image`.

    In addition to the result, Pillow's decoded image takes 4 bytes of memory per pixel.

    Args:
        path: the file.
        channels: 3 for RGB, or 1 for gray.
        max_pixels: a larger image is an error.

    Returns:
        uint8 `[h, w, channels]`, rotated by its EXIF orientation, in sRGB, on white.

    Raises:
        ImageError: the file is missing, damaged, no image, or too large.
    """
    with _open_file(path) as file:
        check_size(os.fstat(file.fileno()).st_size, str(path), max_pixels)
        return _decode(file, str(path), channels, max_pixels)


def read_size(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (height, width) of `read_image`'s result, from the file's header alone.

    Raises:
        ImageError: the file is missing, empty, not an image, or too large. Damage after the header
            is not detected.
    """
    with _open_file(path) as file:
        check_size(os.fstat(file.fileno()).st_size, str(path), max_pixels)
        with _open(file, str(path), max_pixels) as (image, orientation, _):
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{path}: {width} x {height} is more than {max_pixels} pixels: scale it down "
                    "first"
                )
            if image.format == "TIFF":
                image.load()  # the size of some TIFFs is only correct after this
                width, height = image.size
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def check_size(size: int, name: str, max_pixels: int | None = None) -> None:
    """Raises an ImageError if a file is too large to be read.

    The limit is `MAX_BYTES`, or 8 bytes per pixel if more than `MAX_PIXELS` are allowed.
    """
    limit = max(MAX_BYTES, 8 * max_pixels) if max_pixels else MAX_BYTES
    if size > limit:
        raise ImageError(f"{name}: {size} bytes are more than {limit}: scale the image down first")


def encode_image(image: np.ndarray, name: str | os.PathLike[str]) -> bytes:
    """Encodes an image in the format that a file name's suffix selects.

    PNG, BMP, TIFF, WebP, JPEG 2000 and PPM are lossless. JPEG has quality 95 and AVIF 90, both with
    full color resolution; HEIF has quality 95 and half the color resolution, which is all that
    phones support; GIF has at most 256 colors.

    Args:
        image: uint8 `[h, w, 1]` or `[h, w, 3]`.
        name: a file name or path; also the image's name in error messages.

    Raises:
        ImageError: if the suffix is unknown, or the format does not support such an image.
        ValueError: if `image` has another shape or dtype.
    """
    buffer = io.BytesIO()
    try:
        _encode(image, Path(name), buffer)
    except OSError as error:
        raise ImageError(f"{name}: cannot be encoded ({_with_type(error)})") from error
    return buffer.getvalue()


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes an image atomically, in the format of the path's suffix.

    Args:
        path: a file in an existing folder; an existing file is replaced.
        image: uint8 `[h, w, 1]` or `[h, w, 3]`; see `encode_image`.

    Raises:
        ImageError: if the suffix is unknown or the file cannot be written.
        ValueError: if `image` has another shape or dtype.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(partial, "w+b") as file:
            _encode(image, path, file)
        os.replace(partial, path)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({_with_type(error)}): check folder, permissions and disk "
            "space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # os.replace moved it, or it was never created
            partial.unlink()


def to_pil(image: np.ndarray) -> Image.Image:
    """Returns an image, uint8 `[h, w, 1 or 3]`, as a PIL image of mode L or RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _encode(image: np.ndarray, name: Path, file: BinaryIO) -> None:
    shape = image.shape
    if image.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"an image to write must be uint8 [h, w, 1 or 3], not {image.dtype} {list(shape)}: "
            "convert a float image with to_uint8"
        )
    if name.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{name}: unknown suffix: use one of {' '.join(SUFFIXES)}")
    kind = SUFFIXES[name.suffix.lower()]
    _need(kind, str(name))
    try:
        to_pil(image).save(file, kind, **_SAVE_OPTIONS.get(kind, {}))
    except ValueError as error:
        raise ImageError(
            f"{name}: cannot be encoded as {kind} ({_with_type(error)}): use another format"
        ) from error


def to_float(image: np.ndarray) -> np.ndarray:
    """Converts uint8 in [0, 255], of any shape, to float32 in [-1, 1]."""
    if image.dtype != np.uint8:
        raise ValueError(f"to_float takes uint8, not {image.dtype}")
    return image.astype(np.float32) / 127.5 - 1


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Converts floats in [-1, 1], of any shape, to uint8 in [0, 255], rounded and clipped.

    Rounding makes it the inverse of `to_float`. The authors' code truncates instead, which gives up
    to one level less.
    """
    levels = np.rint((np.asarray(image, np.float32) + 1) * 127.5)
    return np.clip(levels, 0, 255).astype(np.uint8)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts uint8 `[h, w, 1 or 3]` to `[h, w, channels]`; gray is the luma of ITU-R 601."""
    if channels == 1 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).convert("L"))[:, :, np.newaxis]
    return np.broadcast_to(image, (*image.shape[:2], channels))


def _decode(file: BinaryIO, name: str, channels: int, max_pixels: int) -> np.ndarray:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (RGB), not {channels}")
    with _open(file, name, max_pixels) as (pil, orientation, profile):
        width, height = pil.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} is more than {max_pixels} pixels: scale it down first"
            )
        pil.load()
        width, height = pil.size
        sides = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
        image = np.empty((*sides, channels), np.uint8)
        stored = _STORED.get(orientation, np.asarray)(image)
        for top in range(0, height, _STRIP):
            strip = pil.crop((0, top, width, min(top + _STRIP, height)))
            strip = _to_eight_bits(strip, name, profile).convert("L" if channels == 1 else "RGB")
            stored[top : top + _STRIP] = np.asarray(strip).reshape(-1, width, channels)
        return image


@contextlib.contextmanager
def _open_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file for reading, and raises an ImageError if it does not exist."""
    try:
        if not Path(path).is_file():
            raise ImageError(f"{path}: no such file: check the path")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({_with_type(error)}): check the file") from error


@contextlib.contextmanager
def _open(
    file: BinaryIO, name: str, max_pixels: int
) -> Iterator[tuple[Image.Image, int, bytes | None]]:
    """Yields an image with only its header read, its EXIF orientation and its color profile.

    The caller applies the orientation. Anything that Pillow raises, now or when it decodes the
    pixels, becomes an ImageError.
    """
    try:
        if not file.read(1):
            raise ImageError(f"{name}: the file is empty: remove or replace it")
        contents = read_container(file, max_pixels)
        if contents is None:
            raise UnidentifiedImageError
        _need(contents.kind, name)
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about decompression bombs: max_pixels is lower
            image = Image.open(contents.file, formats=(contents.kind,))
        info = image.info | contents.info
        yield image, _orientation(contents.kind, info), info.get("icc_profile")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not a {', '.join(_FORMATS)} image, or its header is damaged: "
            "remove it or convert it to PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large ({error}): scale it down first") from error
    except Exception as error:  # Pillow's parsers raise many kinds on damaged bytes
        raise ImageError(
            f"{name}: cannot be decoded ({_with_type(error)}): remove it or save it again as PNG"
        ) from error


def _need(kind: str, name: str) -> None:
    """Registers Pillow's plugin for a format, or raises an error that names the package."""
    if kind == "HEIF":
        try:
            import pillow_heif
        except ImportError as error:
            raise ImageError(
                f'{name}: HEIF needs pillow-heif: pip install "tf_cyclegan[heif]", or convert it '
                "to PNG"
            ) from error
        pillow_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )
    if kind == "AVIF" and not features.check("avif"):
        raise ImageError(
            f'{name}: this Pillow was built without AVIF: pip install --upgrade "pillow>=11.3", or '
            "convert it to PNG"
        )


def _orientation(kind: str, info: dict[Any, Any]) -> int:
    """Returns the EXIF orientation, otherwise that of XMP, otherwise 1 (upright)."""
    if kind in ("TIFF", "HEIF"):
        return 1  # Pillow and libheif apply the orientation of these when they decode them
    exif = (info.get("exif") or b"").removeprefix(b"Exif\0\0")
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == 0x0112:
                return value
    except struct.error:  # no EXIF data, or damaged
        pass
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', info.get("xmp") or b"")
    return int(match[1]) if match else 1


def _to_eight_bits(image: Image.Image, name: str, profile: bytes | None) -> Image.Image:
    """Converts an image of any mode to opaque L, or to RGB in sRGB."""
    if image.mode.startswith(("I", "F")):  # Pillow's convert would clip these at 255
        white = 1 if image.mode == "F" else 65535
        values = np.asarray(image).astype(np.float32)
        if not (values.min() >= 0 and values.max() <= white):  # NaN fails both
            raise ImageError(
                f"{name}: values from {values.min():g} to {values.max():g} are not within "
                f"0 to {white}: save it again as 8 or 16 bit"
            )
        image = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
    if profile:
        image = to_srgb(image, profile)
    return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """Returns an image in mode L or RGB, composited on white if it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _with_type(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
