"""Identifies image files, and passes only the parts that pixels need to the decoder.

Pillow's parsers read metadata in Python, item by item and without limits, and reject a valid image
because of a damaged or large comment. This module scans a file once, in bounded time and memory. It
extracts the metadata that is needed, drops the rest, and rejects files whose headers claim much
more time or memory than the image itself takes.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import BinaryIO

import numpy as np

MAX_METADATA = 16 << 20  # bytes of one color profile, EXIF or XMP block
_MAX_PARTS = 1 << 17  # PNG chunks, GIF blocks, TIFF strips: 400 MB if they have the usual 4 KB
_MAX_SEGMENTS = 1 << 12  # JPEG and JPEG 2000 segments, JPEG 2000 boxes, TIFF tags of a directory
_MAX_SCANNED = 1 << 31  # pixels in all scans of a JPEG; encoders scan each pixel about 10 times
_MAX_RUN_PIXELS = 1 << 20  # of a run-length encoded BMP, which Pillow decodes slowly, in Python
_MAX_PLAIN_PIXELS = 1 << 22  # of a plain text PPM


@dataclass(frozen=True)
class Contents:
    """The part of an image file that is passed to the decoder.

    Attributes:
        kind: Pillow's name of the format.
        file: the file that Pillow reads.
        info: metadata that was found here because Pillow does not see it: "icc_profile", "exif",
            "xmp".
    """

    kind: str
    file: BinaryIO
    info: dict[str, bytes] = field(default_factory=dict)


def read_container(file: BinaryIO, max_pixels: int) -> Contents | None:
    """Recognizes an image file by its first bytes and scans it.

    Args:
        file: a seekable file that stays open while the result is used.
        max_pixels: larger GIFs are rejected, since Pillow allocates memory before it reports
            their size. The caller checks the sizes of the other formats.

    Returns:
        The contents, or None for any other kind of file.

    Raises:
        ValueError: decoding the file could take unbounded time or memory.
    """
    file.seek(0)
    head = file.read(32)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(file)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(file)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _gif(file, max_pixels)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff(file)
    if head.startswith(b"BM"):
        return _bmp(file, head)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Contents("WEBP", file)
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return _jpeg2000(file)
    if head[4:8] == b"ftyp":
        return _isobmff(file, head)
    if re.match(rb"P[2356][\s#]", head):
        return _ppm(file)
    return None


class _Parts(io.RawIOBase):
    """A file object that concatenates parts of another file.

    Args:
        file: the whole file.
        parts: start and end of each part in the file.
    """

    def __init__(self, file: BinaryIO, parts: list[tuple[int, int]]):
        self._file = file
        self._stops = [stop for _, stop in parts]
        self._ends = list(accumulate(stop - start for start, stop in parts))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._ends[-1])[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer) -> int:
        part = bisect_right(self._ends, self._position)
        if part == len(self._ends):
            return 0
        left = self._ends[part] - self._position
        self._file.seek(self._stops[part] - left)
        count = self._file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]
        self._position += count
        return count


def _parts(file: BinaryIO, parts: list[tuple[int, int]]) -> BinaryIO:
    """Returns a buffered `_Parts`, with adjacent parts merged."""
    joined = parts[:1]
    for start, stop in parts[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return io.BufferedReader(_Parts(file, joined))  # type: ignore[return-value, type-var]


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


# === JPEG ===

# The marker of a segment, but not fill bytes or the codes inside a scan (stuffed zeros, restarts).
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def _jpeg(file: BinaryIO) -> Contents:
    """Drops comments, metadata, and whatever follows the image, such as a phone's video."""
    parts, position, pixels, scanned = [(0, 2)], 2, 0, 0
    info: dict[str, bytes] = {}
    profile: dict[int, bytes] = {}
    for _ in range(_MAX_SEGMENTS):
        start = _next_marker(file, position)
        if start is None:
            break
        head = _at(file, start, 9)
        code = head[1]
        position = start + 2 + (0 if code in (0xD8, 0xD9) else int.from_bytes(head[2:4], "big"))
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):  # a frame
            pixels = int.from_bytes(head[5:7], "big") * int.from_bytes(head[7:], "big")
        elif code == 0xDA:  # a scan, whose pixels end at the next marker
            scanned += pixels
            if scanned > _MAX_SCANNED:
                raise ValueError("it has too many scans for its size")
            after = _next_marker(file, position)
            position = _size(file) if after is None else after
        if 0xE1 <= code <= 0xED or code in (0xEF, 0xFE):
            data = _at(file, start + 4, position - start - 4) if code in (0xE1, 0xE2) else b""
            if data.startswith(b"Exif\0\0"):
                info.setdefault("exif", data[6:])
            elif data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                info.setdefault("xmp", data[29:])
            elif data.startswith(b"ICC_PROFILE\0") and len(data) >= 14:
                profile[data[12]] = data[13:]
        else:
            parts.append((start, position))
        if code == 0xD9:
            break
    else:
        raise ValueError(f"it has more than {_MAX_SEGMENTS} segments")
    if profile and sorted(profile) == list(range(1, len(profile) + 1)):
        if profile[1][0] == len(profile):
            info["icc_profile"] = b"".join(profile[i][1:] for i in sorted(profile))
    return Contents("JPEG", _parts(file, parts), info)


def _next_marker(file: BinaryIO, position: int) -> int | None:
    file.seek(position)
    while len(block := file.read(1 << 16)) > 1:
        if match := _MARKER.search(block):
            return position + match.start()
        position += len(block) - 1  # a marker may cross the end of the block
        file.seek(position)
    return None


# === PNG ===

_XMP = b"XML:com.adobe.xmp\0"
_RAW_EXIF = b"Raw profile type exif\0"


def _png(file: BinaryIO) -> Contents:
    """Drops all ancillary chunks except transparency; a damaged one is ignored, as in browsers.

    EXIF may follow the pixels. An animation is reduced to its still image.
    """
    parts, position = [(0, 8)], 8
    info: dict[str, bytes] = {}
    for _ in range(_MAX_PARTS):
        head = _at(file, position, 8)
        if len(head) < 8:
            break
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        stop = position + 12 + length
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            parts.append((position, stop))
        elif kind in (b"tRNS", b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            data = file.read(length) if length <= MAX_METADATA else b""
            if zlib.crc32(data, zlib.crc32(kind)) == int.from_bytes(file.read(4), "big"):
                if kind == b"tRNS":
                    parts.append((position, stop))
                else:
                    _png_metadata(kind, data, info)
        position = stop
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"it has more than {_MAX_PARTS} chunks")
    return Contents("PNG", _parts(file, parts), info)


def _png_metadata(kind: bytes, data: bytes, info: dict[str, bytes]) -> None:
    """Adds the metadata of one chunk; the first chunk of each kind wins."""
    if kind == b"eXIf":
        info.setdefault("exif", data)
    elif kind == b"iCCP" and "icc_profile" not in info:
        info["icc_profile"] = _inflate(data.partition(b"\0")[2][1:])
    elif kind == b"iTXt" and data.startswith(_XMP) and "xmp" not in info:
        flags, text = data[len(_XMP) :][:2], data[len(_XMP) + 2 :].split(b"\0", 2)[-1]
        info["xmp"] = _inflate(text) if flags[:1] == b"\1" else text
    elif kind in (b"tEXt", b"zTXt") and data.startswith(_RAW_EXIF) and "exif" not in info:
        text = data[len(_RAW_EXIF) :]  # from ImageMagick: a name, a length, and the EXIF in hex
        text = _inflate(text[1:]) if kind == b"zTXt" else text
        try:
            raw = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
        except ValueError:
            raw = b""
        info["exif"] = raw.removeprefix(b"Exif\0\0")


def _inflate(data: bytes) -> bytes:
    """Returns the decompressed data, or b"" if it is damaged or too large."""
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, MAX_METADATA)
    except zlib.error:
        return b""
    return result if inflater.eof else b""


# === GIF ===


def _gif(file: BinaryIO, max_pixels: int) -> Contents:
    """Drops everything before the first image, such as comments."""
    head = _at(file, 0, 13)
    position = 13 + (3 << (head[10] & 7) + 1 if len(head) == 13 and head[10] & 128 else 0)
    parts = [(0, position)]
    control: list[tuple[int, int]] = []
    blocks = 0
    while (kind := _at(file, position, 2))[:1] == b"!":
        start = position
        position += 2
        while size := file.read(1):
            position += 1 + size[0]
            blocks += 1
            if blocks > _MAX_PARTS:
                raise ValueError(f"it has more than {_MAX_PARTS} blocks before its first image")
            if not size[0]:
                break
            file.seek(position)
        if kind == b"!\xf9":
            control = [(start, position)]  # the first image's transparency
    left, top, width, height = struct.unpack("<4H", _at(file, position + 1, 8).ljust(8, b"\0"))
    if (left + width) * (top + height) > max_pixels:
        raise ValueError(f"its first image, {width} x {height}, has more than {max_pixels} pixels")
    return Contents("GIF", _parts(file, [*parts, *control, (position, _size(file))]))


# === TIFF ===

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES |= {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}


def _tiff(file: BinaryIO) -> Contents:
    """Checks the sizes that the first image's tags claim; the file itself is unchanged."""
    size = _size(file)
    head = _at(file, 0, 16)
    order = "<" if head.startswith(b"I") else ">"
    number, entry_size, inline = ("Q", 20, 8) if 43 in head[2:4] else ("I", 12, 4)
    room = size

    def directory(offset: int) -> dict[int, list[int]]:
        """Returns the integer tags; like Pillow, it skips entries that cannot be read."""
        nonlocal room
        counter = "Q" if inline == 8 else "H"
        data = _at(file, min(offset, size), struct.calcsize(counter))
        count = struct.unpack(order + counter, data)[0] if data else 0
        if count > _MAX_SEGMENTS:
            raise ValueError(f"one of its tag directories has {count} entries")
        entries = file.read(count * entry_size)
        tags = {}
        for start in range(0, len(entries) - entry_size + 1, entry_size):
            entry = entries[start : start + entry_size]
            tag, kind, items = struct.unpack(f"{order}HH{number}", entry[:-inline])
            length = items * _BYTES.get(kind, 0)
            room -= length if length > inline else 0
            if room < 0:
                raise ValueError("its tags claim more bytes than the file has")
            if kind in _INTEGERS or length > 8 and kind not in (1, 2, 6, 7):
                if items > _MAX_PARTS:
                    if kind == 1:
                        continue
                    raise ValueError(f"its tag {tag} has {items} values")
            if kind in _INTEGERS:
                value = entry[-inline:]
                if length > inline:
                    (place,) = struct.unpack(order + number, value)
                    value = _at(file, min(place, size), length)
                value = value[: min(length, len(value)) // _BYTES[kind] * _BYTES[kind]]
                tags[tag] = np.frombuffer(value, order + _INTEGERS[kind]).tolist()
        return tags

    (first,) = struct.unpack(order + number, head[inline : 2 * inline].ljust(inline, b"\0"))
    tags = directory(first)
    for name in (34665, 34853, 40965):  # EXIF, GPS, interoperability: Pillow reads them too
        for offset in tags.get(name, [])[:1]:
            tags = directory(offset) | tags

    def claim(tag: int, default: int) -> int:
        return max(tags.get(tag) or [default])

    width, height = claim(256, 0), claim(257, 0)
    sample = claim(277, 1) * claim(258, 1)  # bits of a pixel
    block_width, block_height = claim(322, width), claim(323, min(claim(278, height), height))
    block, image = block_width * block_height * sample // 8, width * height * sample // 8
    if block > max(2 * image, 1 << 24):
        raise ValueError(f"its tiles of {block_width} x {block_height} are larger than the image")
    if sum(tags.get(279, [])) > 4 * size or sum(tags.get(325, [])) > 4 * size:
        raise ValueError("its strips claim more bytes than the file has")
    file.seek(0)
    return Contents("TIFF", file)


# === BMP and PPM, which Pillow decodes partly in Python ===


def _bmp(file: BinaryIO, head: bytes) -> Contents:
    """Limits run-length encoded images, where a single run can stand for 255 rows."""
    if len(head) == 32 and int.from_bytes(head[14:18], "little") >= 40:
        width, height, _, _, coding = struct.unpack("<iiHHH", head[18:32])
        pixels = abs(width * height)
        most = 2 * pixels + 65536  # maximum bytes of such an image
        if coding in (1, 2) and (pixels > _MAX_RUN_PIXELS or _size(file) > most):
            raise ValueError(f"run-length encoded BMPs may have at most {_MAX_RUN_PIXELS} pixels")
        if coding in (1, 2) and width > 1 << 15:
            raise ValueError(f"run-length encoded BMPs may be at most {1 << 15} pixels wide")
    return Contents("BMP", file)


_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM_HEAD = re.compile(rb"P([2356])" + 3 * (_SPACE + rb"([0-9]{1,9})") + rb"\s")


def _ppm(file: BinaryIO) -> Contents:
    """Converts plain text and bit depths other than 8 to a form that Pillow decodes quickly.

    Like Pillow, it scales values from [0, maxval] to [0, 255] and rounds them.
    """
    match = _PPM_HEAD.match(_at(file, 0, 4096))
    if not match:
        raise ValueError("it does not have the header of a gray or RGB PPM")
    kind, (width, height, highest) = match[1], map(int, match.groups()[1:])
    count = width * height * (3 if kind in b"36" else 1)
    if not 0 < highest < 65536:
        raise ValueError(f"its maximum value is {highest}")
    if kind in b"56" and highest == 255:
        return Contents("PPM", file)
    if kind in b"23":
        if width * height > _MAX_PLAIN_PIXELS or _size(file) > 16 * count + 65536:
            raise ValueError(f"plain PPMs may have at most {_MAX_PLAIN_PIXELS} pixels")
        text = _at(file, match.end(), _size(file)).decode("latin-1")
        values = np.fromstring(text, np.int64, count, sep=" ")
    else:
        depth = np.dtype(">u2" if highest > 255 else "u1")
        data = _at(file, match.end(), min(count * depth.itemsize, _size(file)))
        values = np.frombuffer(data[: len(data) // depth.itemsize * depth.itemsize], depth)
    if len(values) < count:
        raise ValueError(f"it has {len(values)} of {count} values")
    levels = np.rint(np.arange(highest + 1) * (255 / highest)).astype(np.uint8)
    header = b"P%d %d %d 255\n" % (6 if kind in b"36" else 5, width, height)
    result = io.BytesIO(header)
    result.seek(0, io.SEEK_END)
    for start in range(0, count, 1 << 20):  # in blocks: indices take eight times the memory
        result.write(levels.take(values[start : start + (1 << 20)], mode="clip"))
    return Contents("PPM", result)


# === JPEG 2000 ===


def _jpeg2000(file: BinaryIO) -> Contents:
    """Finds the color profile, and checks the sizes for which the decoder allocates memory."""
    info: dict[str, bytes] = {}
    codestream = 0
    if _at(file, 0, 2) != b"\xff\x4f":
        for kind, start, stop in _boxes(file, 0, _size(file)):
            if kind == b"jp2h":
                for inner, begin, end in _boxes(file, start, stop):
                    data = _at(file, begin, min(end - begin, MAX_METADATA))
                    if inner == b"colr" and data[:1] == b"\2":
                        info.setdefault("icc_profile", data[3:])
            if kind == b"jp2c":
                codestream = start
                break
        else:
            raise ValueError("it has no codestream")
    position, tile_part, pixels = codestream + 2, 0, 0
    for _ in range(_MAX_PARTS):
        head = _at(file, position, 4)
        code, length = head[:2], int.from_bytes(head[2:], "big")
        data = file.read(length - 2) if length >= 2 else b""
        if code == b"\xff\x51" and len(data) >= 36:  # size
            _, right, bottom, left, top, *tile, _ = struct.unpack(">H8IH", data[:36])
            width, height, tile_left, tile_top = tile
            if not width or not height:
                raise ValueError("its tiles have no size")
            pixels = max(right - left, 0) * max(bottom - top, 0)
            tiles = -((tile_left - right) // width) * -((tile_top - bottom) // height)
            if tiles > max(64, pixels >> 12):
                raise ValueError(f"it has {tiles} tiles")
            if pixels > max(1 << 22, _size(file) << 11):  # encoders reach about 100 pixels a byte
                raise ValueError(f"it claims {pixels} pixels in {_size(file)} bytes")
        elif code in (b"\xff\x52", b"\xff\x53"):  # coding style, of all components or of one
            own = code == b"\xff\x53"
            has_precincts = data[own : own + 1] and data[own] & 1
            layers = 1 if own else int.from_bytes(data[2:4], "big")
            blocks, precincts = data[3 if own else 6 :][:2], data[7 if own else 10 :]
            small = [size for size in precincts if (size & 15) + (size >> 4) < 8]
            if layers > 256 or sum(b & 15 for b in blocks) + 4 < 8 or has_precincts and small:
                raise ValueError("it has too many layers, code blocks or precincts")
        elif code == b"\xff\x90":  # a tile part
            tile_part = position
            tile_part_length = int.from_bytes(data[2:6], "big")
        elif code == b"\xff\x93":  # its pixels
            if not tile_part or tile_part_length < 14:  # up to the end
                break
            position = tile_part + tile_part_length
            continue
        if code == b"\xff\xd9" or length < 2:
            break
        position += 2 + length
    else:
        raise ValueError(f"it has more than {_MAX_PARTS} segments")
    file.seek(0)
    return Contents("JPEG2000", file, info)


def _boxes(file: BinaryIO, position: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the boxes in a part of a file: type, and start and end of their contents."""
    for _ in range(_MAX_SEGMENTS):
        head = _at(file, position, 16)
        length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], position + 8
        if length == 1:
            length, start = int.from_bytes(head[8:], "big"), position + 16
        end = position + length if length else stop
        if len(kind) < 4 or not start <= end <= stop:
            return
        yield kind, start, end
        position = end
    raise ValueError(f"it has more than {_MAX_SEGMENTS} boxes")


# === AVIF and HEIF ===

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def _isobmff(file: BinaryIO, head: bytes) -> Contents | None:
    """Distinguishes the two formats, and removes the EXIF data of an AVIF.

    Pillow reads EXIF tags without a limit on their size, and both formats store the orientation
    elsewhere.
    """
    brands = _at(file, 8, min(max(int.from_bytes(head[:4], "big") - 8, 4), 4096))
    known = {brands[i : i + 4] for i in range(0, len(brands), 4)}
    if known & {b"avif", b"avis"}:
        data = bytearray(_at(file, 0, _size(file)))
        for kind, start, stop in _boxes(file, 0, len(data)):
            if kind in (b"meta", b"moov"):
                data[start:stop] = data[start:stop].replace(b"Exif", b"none")
        return Contents("AVIF", io.BytesIO(data))
    if brands[:4] in (*_HEIF_BRANDS, b"mif1", b"msf1"):
        return Contents("HEIF", file)
    return None
