"""Tests valid but unusual image files, and files that are made to use much time or memory."""

import importlib.util
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_cyclegan.data.containers import MAX_METADATA, read_container
from tf_cyclegan.data.image_files import ImageError, decode_image

spec = importlib.util.spec_from_file_location(
    "torture_images", Path(__file__).parent / "torture" / "images.py"
)
torture_images = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = torture_images
spec.loader.exec_module(torture_images)
SEEDS = torture_images.seeds()


def chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(*early, late=(), kind="RGB"):
    """Returns a PNG with extra chunks before and after its pixels."""
    image = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)).convert(kind)
    data = torture_images.encoded(image, "PNG")
    start, stop = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:start] + b"".join(early) + data[start:stop] + b"".join(late) + data[stop:]


def with_number(data, place, number, order=">"):
    return data[:place] + struct.pack(f"{order}I", number) + data[place + 4 :]


@pytest.mark.parametrize("name", SEEDS)
def test_sound_files_are_decoded(name):
    decoded = decode_image(SEEDS[name])
    size = (4, 4) if name == "plain.ppm" else (32, 48)
    assert decoded.shape[:2] in (size, size[::-1])
    assert len(np.unique(decoded)) > 1


BOMB = zlib.compress(bytes(4 << 20))
LARGE = {
    "iCCP": b"display\0\0" + BOMB,
    "zTXt": b"words\0\0" + BOMB,
    "iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB,
    "tEXt": b"words\0" + bytes(2 << 20),
    "eXIf": bytes(2 << 20),
    "prIv": bytes(2 << 20),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_and_damaged_metadata_does_not_cost_a_png(kind):
    plain = decode_image(png())
    name, data = kind.encode(), LARGE[kind]
    for extra in (
        chunk(name, data),
        chunk(name, data[:100]),
        chunk(name, data[:100], crc=1),
        chunk(name, b""),
    ):
        np.testing.assert_array_equal(decode_image(png(extra)), plain)
        np.testing.assert_array_equal(decode_image(png(late=[extra])), plain)


def test_damaged_transparency_is_ignored_and_a_damaged_header_is_not():
    plain = decode_image(png())
    transparent = struct.pack(">3H", *plain[0, 0])
    assert decode_image(png(chunk(b"tRNS", transparent)))[0, 0].tolist() == [255] * 3
    np.testing.assert_array_equal(decode_image(png(chunk(b"tRNS", transparent, crc=1))), plain)
    with pytest.raises(ImageError):
        decode_image(with_number(png(), 29, 1))


def test_exif_after_the_pixels_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.rot90(decode_image(png()), -1)
    raw = exif.tobytes().removeprefix(b"Exif\0\0")
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + raw.hex().encode())
    for extra in (chunk(b"eXIf", raw), chunk(b"zTXt", text)):
        np.testing.assert_array_equal(decode_image(png(late=[extra])), upright)


def gif(before=b""):
    data = SEEDS["palette.gif"]
    start = 13 + (3 << (data[10] & 7) + 1)
    return data[:start] + before + data[start:]


def jpeg(before):
    return SEEDS["baseline.jpg"][:2] + before + SEEDS["baseline.jpg"][2:]


COMMENT = b"!\xfe" + (b"\xff" + b"words" * 51) * 65536 + b"\0"  # 16 MB, which take Pillow a minute
EXIF = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)


@pytest.mark.parametrize(
    "data, original",
    [
        (gif(COMMENT), "palette.gif"),
        (jpeg(EXIF * 100), "baseline.jpg"),
        (jpeg(b"\xff\xe5\0\2" * 4000 + b"\xff\xfe\xff\xff" + bytes(65533)), "baseline.jpg"),
        (SEEDS["baseline.jpg"] + bytes(1 << 20), "baseline.jpg"),
        (SEEDS["rgb.png"] + bytes(1 << 20), "rgb.png"),
    ],
    ids=["comments", "exif", "segments", "video", "tail"],
)
def test_what_pixels_do_not_need_never_reaches_the_decoder(data, original):
    contents = read_container(io.BytesIO(data), 1_000_000)
    assert len(contents.file.read()) <= len(SEEDS[original])
    decoded, expected = decode_image(data), decode_image(SEEDS[original])
    if original == "baseline.jpg" and data.startswith(jpeg(EXIF)[:100]):
        expected = np.rot90(expected)  # only the first EXIF counts, without orientation
    np.testing.assert_array_equal(decoded, expected)


def tiff(*tags, fill=b"", size=100_000):
    """Returns a little-endian 8 x 8 gray TIFF with these tags: (number, type, count, value).

    The bytes `fill` begin at offset 1000.
    """
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), *tags]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries
    return (data.ljust(1000, b"\0") + fill).ljust(size, b"\0")


def jpeg2000(marker, **values):
    """Returns the gray seed with other bytes in one segment; `_6` is 6 bytes after its marker."""
    data = bytearray(SEEDS["stream.j2k"])
    for offset, new in values.items():
        place = data.index(marker) + int(offset[1:])
        data[place : place + len(new)] = new
    return bytes(data)


many_scans = torture_images.encoded(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
many_scans = many_scans[:-2] + many_scans[many_scans.rindex(b"\xff\xda") : -2] * 60 + b"\xff\xd9"

HOSTILE = {
    "tile": (tiff((273, 4, 1, 0), (322, 4, 1, 26000), (323, 4, 1, 26000)), "tiles of 26000 x"),
    "tags": (tiff(*[(1000 + i, 7, 90_000, 8) for i in range(10)]), "claim more bytes"),
    "exif": (
        tiff((34665, 4, 1, 1000), fill=b"\1\0" + struct.pack("<HHII", 37500, 7, 200_000, 8)),
        "claim more bytes",
    ),
    "strips": (tiff((279, 4, 6000, 1000), fill=b"\xff" * 24_000), "strips claim more bytes"),
    "entries": (tiff()[:8] + b"\xff\xff" + bytes(900_000), "has 65535 entries"),
    "segments": (jpeg(b"\xff\xe5\0\2" * 5000), "more than 4096 segments"),
    "scans": (many_scans, "too many scans"),
    "chunks": (png(chunk(b"tEXt", b"") * 140_000), "chunks"),
    "blocks": (gif(b"!\xfe" + b"\1a" * 140_000 + b"\0"), "blocks before"),
    "screen": (gif(b",\0\0\0\0" + b"\xff\xff" * 2 + b"\0"), "65535 x 65535, has more than"),
    "runs": (torture_images.runs_bmp(5_000_000, 10, b"\0\2\xff\xff"), "at most 1048576 pixels"),
    "wide runs": (torture_images.runs_bmp(40_000, 10, b"\0\2\xff\xff"), "32768 pixels wide"),
    "claim": (jpeg2000(b"\xff\x51", _6=b"\0\x10\0\0", _22=b"\0\x10\0\0"), "claims 33554432 pixels"),
    "tiles": (jpeg2000(b"\xff\x51", _22=b"\0\0\0\1" * 2), "has 1536 tiles"),
    "no tiles": (jpeg2000(b"\xff\x51", _22=bytes(4)), "no size"),
    "code blocks": (jpeg2000(b"\xff\x52", _10=bytes(2)), "code blocks"),
    "precincts": (jpeg2000(b"\xff\x52", _2=b"\0\x10", _4=b"\1"), "precincts"),
    "layers": (jpeg2000(b"\xff\x52", _6=b"\xff"), "layers"),
    "plain": (b"P3 9000 5000 255\n" + b"1 " * 100, "plain PPMs"),
    "maxval": (b"P5 9 9 0\n" + bytes(81), "maximum value is 0"),
    "short": (b"P6 900 900 65535\n" + bytes(81), "it has 40 of 2430000 values"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_claims_beyond_the_image_are_refused_before_decoding(name, monkeypatch):
    data, message = HOSTILE[name]
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was reached"))
    with pytest.raises(ImageError, match=f"(?s)photo: .*({message})") as error:
        decode_image(data, "photo")
    assert "\n" not in str(error.value)


def test_exif_tags_that_share_bytes_take_no_memory():
    entries = b"".join(struct.pack("<HHII", 1000 + i, 7, 60_000, 8) for i in range(5000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)
    image = Image.new("RGB", (8, 8))
    for kind in ("PNG", "WEBP", "AVIF"):
        data = torture_images.encoded(image, kind, exif=exif)
        contents = read_container(io.BytesIO(data), 100)
        assert Image.open(contents.file).getexif() == {} or kind == "WEBP"
        assert decode_image(data).shape == (8, 8, 3)


def test_profiles_beyond_the_limit_are_left_out():
    data = png(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(MAX_METADATA + 1))))
    assert read_container(io.BytesIO(data), 100).info["icc_profile"] == b""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a child process as Linux does")
def test_damaged_files_do_no_more_than_be_refused():
    """Decodes some of the files that `make torture` generates; see tests/torture/images.py."""
    counts, failures = torture_images.torture(222, seconds=60)
    assert failures == []
    assert counts["decoded"] + counts["refused"] == 222 and min(counts.values()) > 10
