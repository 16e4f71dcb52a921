import io
import os
import struct
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tf_cyclegan.data import image_files as images
from tf_cyclegan.data.image_files import (
    ImageError,
    ImageSet,
    decode_image,
    read_image,
    to_float,
    to_uint8,
    write_image,
)
from tf_cyclegan.inference.translator import to_image

RED, WHITE = (255, 0, 0), (255, 255, 255)
NAMES = ["été.jpg", "夏.png", "зима 1.JPG", "a.jpeg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.TIFF"]
NAMES += ["a.jpe", "a.jfif", "a.avif", "a.HEIC", "a.heif", "a.jp2", "a.ppm"]
LOSSY = ("jpg", "jpeg", "jpe", "jfif", "avif", "heic", "heif")


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encode(image, kind, **options):
    """Returns the encoded bytes of a Pillow image or an array, in one of Pillow's formats."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp():
    """Returns uint16 [4, 5] from black to white, with values that truncation would round down."""
    return np.array([0, 128, 129, 256, 257, 30000, 65400, 65535] * 2 + [1, 2, 3, 4], ">u2").reshape(
        4, 5
    )


def assert_one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_kinds_decode_exactly(noise, kind, channels):
    image = noise if channels == 3 else noise[:, :, :1]
    data = encode(image if channels == 3 else image[:, :, 0], kind)
    np.testing.assert_array_equal(decode_image(data, channels=channels), image)


def test_webp_and_gif_decode(noise):
    np.testing.assert_array_equal(decode_image(encode(noise, "WEBP", lossless=True)), noise)
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data), np.full((2, 3, 3), RED, np.uint8))


def test_contents_count_and_not_the_name(tmp_path, noise):
    path = tmp_path / "png inside.jpg"
    path.write_bytes(encode(noise, "PNG"))
    np.testing.assert_array_equal(read_image(path), noise)


def test_gray_and_rgb_convert_into_each_other(noise):
    gray = np.array(Image.fromarray(noise).convert("L"))
    np.testing.assert_array_equal(
        decode_image(encode(noise, "PNG"), channels=1), gray[:, :, np.newaxis]
    )
    np.testing.assert_array_equal(
        decode_image(encode(gray, "PNG")), np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    )
    with pytest.raises(ValueError, match="channels must be 1 .* or 3"):
        decode_image(encode(noise, "PNG"), channels=4)


# Shape of the upright image, and where it has the pixel that is stored at row 0, column 0.
UPRIGHT = {
    1: ((2, 3), (0, 0)),
    2: ((2, 3), (0, 2)),
    3: ((2, 3), (1, 2)),
    4: ((2, 3), (1, 0)),
    5: ((3, 2), (0, 0)),
    6: ((3, 2), (0, 1)),
    7: ((3, 2), (2, 1)),
    8: ((3, 2), (2, 0)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_honoured(tmp_path, kind, orientation):
    """AVIF and HEIF may store it twice, in their own boxes and in EXIF: it is applied once."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    shape, marker = UPRIGHT[orientation]
    stored = np.zeros((32, 48), np.uint8)  # in blocks of 16, so that JPEG keeps the marker
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    path.write_bytes(encode(stored, kind, exif=exif.tobytes()))

    blocks = read_image(path, channels=1)[8::16, 8::16, 0]
    assert blocks.shape == shape
    assert [tuple(place) for place in np.argwhere(blocks > 128)] == [marker]


def test_orientation_is_applied_to_16_bit_gray_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(ramp().astype("<u2"), "PNG", exif=exif)
    upright = np.rot90(np.rint(ramp() / 257).astype(np.uint8), -1)
    np.testing.assert_array_equal(decode_image(data, channels=1)[:, :, 0], upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0no exif at all", b"Exif\0\0MM\0*\0\0\0\x08\0\x10cut"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_cost_the_image(noise, kind, exif):
    data = encode(noise, kind, exif=exif)
    assert decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_gray_is_scaled_not_clipped(kind, order):
    values = np.arange(65536, dtype=order).reshape(256, 256)
    decoded = decode_image(encode(values, kind), channels=1)[:, :, 0]
    np.testing.assert_array_equal(decoded, (values.astype(int) + 128) // 257)


def test_32_bit_gray_within_16_bits_is_scaled_and_beyond_is_refused():
    data = encode(ramp().astype(np.int32), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "I"
    np.testing.assert_array_equal(
        decode_image(data, channels=1)[:, :, 0], np.rint(ramp() / 257).astype(np.uint8)
    )
    for outside in (-1, 65536):
        with pytest.raises(ImageError, match="not within 0 to 65535"):
            decode_image(encode(np.array([[0, outside]], np.int32), "TIFF"))


def test_float_gray_from_0_to_1_is_scaled_and_beyond_is_refused():
    values = np.array([[0, 0.2, 0.5019, 1]], np.float32)
    np.testing.assert_array_equal(
        decode_image(encode(values, "TIFF"), channels=1)[:, :, 0], [[0, 51, 128, 255]]
    )
    for outside in (-0.1, 1.1, np.nan):
        with pytest.raises(ImageError, match="not within 0 to 1"):
            decode_image(encode(np.array([[0, outside]], np.float32), "TIFF"))


def test_alpha_is_composited_on_white():
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[RED, WHITE, (204, 204, 204)]]
    np.testing.assert_array_equal(decode_image(encode(pixels, "PNG")), expected)
    gray = Image.fromarray(pixels[:, :, [1, 3]])
    assert gray.mode == "LA"
    np.testing.assert_array_equal(
        decode_image(encode(gray, "PNG"), channels=1)[:, :, 0], [[0, 255, 204]]
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparency", [None, 1])
def test_palette(kind, transparency):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([*RED, 0, 0, 255])
    options = {} if transparency is None else {"transparency": transparency}
    second = (0, 0, 255) if transparency is None else WHITE
    np.testing.assert_array_equal(decode_image(encode(image, kind, **options)), [[RED, second]])


def test_palette_with_graded_transparency_gives_no_warning():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([*RED, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(encode(image, "PNG", transparency=bytes([255, 51])))
    np.testing.assert_array_equal(decoded, [[RED, (204, 204, 204)]])


def test_transparent_colour_of_rgb_and_gray():
    rgb = Image.fromarray(np.array([[RED, (0, 0, 255)]], np.uint8))
    np.testing.assert_array_equal(
        decode_image(encode(rgb, "PNG", transparency=(0, 0, 255))), [[RED, WHITE]]
    )
    gray = Image.fromarray(np.array([[10, 20]], np.uint8))
    np.testing.assert_array_equal(
        decode_image(encode(gray, "PNG", transparency=20), channels=1)[:, :, 0], [[10, 255]]
    )


def test_1_bit():
    image = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
    for kind in ("PNG", "BMP", "TIFF"):
        decoded = decode_image(encode(image, kind), channels=1)
        np.testing.assert_array_equal(decoded[:, :, 0], [[0, 255, 0]])


def test_cmyk_jpeg():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    decoded = decode_image(encode(cyan, "JPEG", quality=100)).astype(int)
    np.testing.assert_allclose(decoded, np.full((16, 16, 3), (0, 255, 255)), atol=3)


def test_1x1(tmp_path):
    write_image(tmp_path / "a.png", np.full((1, 1, 3), 7, np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[7, 7, 7]]])


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM"]
)
def test_truncated_files_are_errors(noise, kind):
    data = encode(noise, kind)
    for length in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError, match="cut short: ") as error:
            decode_image(data[:length], "cut short")
        assert_one_line(error)


def test_damaged_bytes_are_errors(noise):
    data = bytearray(encode(noise, "PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError, match="cannot be decoded .*remove it"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"no image, but text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_files_that_are_no_images_are_errors(tmp_path, data):
    path = tmp_path / "text.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"text\.jpg: .*remove") as error:
        read_image(path)
    assert_one_line(error)


def test_other_formats_are_not_opened(noise):
    for kind in ("SGI", "ICO", "EPS"):
        with pytest.raises(ImageError, match="not a JPEG, PNG"):
            decode_image(encode(noise, kind))


def test_missing_files_and_folders_are_errors(tmp_path):
    for path in (tmp_path / "missing.jpg", tmp_path, tmp_path / ("long" * 100 + ".jpg")):
        with pytest.raises(ImageError, match="no such file|cannot be read") as error:
            read_image(path)
        assert_one_line(error)


@pytest.mark.parametrize("size", [(10000, 6000), (12000, 9000), (20000, 10000)])
def test_too_many_pixels_are_refused_by_the_header(monkeypatch, size):
    """Tests 60 megapixels, 108 (where Pillow warns), and 200 (where Pillow raises an error)."""
    data = encode(Image.new("1", size), "PNG")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("pixels were decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="huge: .*pixels.*scale it down") as error:
            decode_image(data, "huge")
    assert_one_line(error)


def test_max_pixels_is_inclusive(noise):
    data = encode(noise, "PNG")
    assert decode_image(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="30 x 20 is more than 599 pixels"):
        decode_image(data, max_pixels=599)


def test_the_limit_is_checked_before_any_pixel_is_decoded(noise):
    data = encode(noise, "PNG")[:60]  # the header and the first bytes of pixels
    with pytest.raises(ImageError, match="more than 599 pixels"):
        decode_image(data, max_pixels=599)


def test_too_many_bytes_are_refused_before_reading(tmp_path):
    path = tmp_path / "large.bmp"
    path.touch()
    os.truncate(path, images.MAX_BYTES + 1)  # a sparse file, which takes no disk space
    with pytest.raises(ImageError, match="large.bmp: .* bytes are more than"):
        read_image(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_write_then_read(tmp_path, name, channels):
    if name.lower().endswith((".heic", ".heif")):
        pytest.importorskip("pillow_heif")
    image = np.full((20, 30, channels), 200, np.uint8)
    image[5:] = 40
    write_image(tmp_path / name, image)
    read = read_image(tmp_path / name, channels)
    tolerance = 3 if name.lower().endswith(LOSSY) else 0
    np.testing.assert_allclose(read.astype(int), image.astype(int), atol=tolerance)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as pil:
        assert pil.format == images.SUFFIXES[os.path.splitext(name)[1].lower()]


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "jp2", "ppm"])
def test_lossless_suffixes(tmp_path, noise, suffix):
    write_image(tmp_path / f"a.{suffix}", noise)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), noise)


def test_jpeg_keeps_colour_detail(tmp_path, noise):
    write_image(tmp_path / "a.jpg", noise)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - noise).mean() < 4


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, noise, monkeypatch):
    write_image(tmp_path / "a.png", noise)

    def save_half(image, file, kind):
        file.write(b"half")
        raise OSError("disk\nfull")

    monkeypatch.setattr(Image.Image, "save", save_half)
    with pytest.raises(ImageError, match="cannot be written .*disk full") as error:
        write_image(tmp_path / "a.png", noise[::-1])
    assert_one_line(error)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise)


def test_a_format_without_room_for_the_image_is_named(tmp_path):
    wide = np.zeros((1, 16384, 3), np.uint8)  # WebP allows at most 16383
    with pytest.raises(ImageError, match=r"a\.webp: cannot be encoded as WEBP .*another") as error:
        write_image(tmp_path / "a.webp", wide)
    assert_one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_an_error(tmp_path, noise):
    for path in (tmp_path / "missing" / "a.png", tmp_path / "a.xyz", tmp_path / "a"):
        with pytest.raises(ImageError, match="cannot be written|unknown suffix"):
            write_image(path, noise)
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", noise)
    for image in (noise / 255, noise[:, :, 0], noise[:, :, :2], noise[:0]):
        with pytest.raises(ValueError, match="must be uint8"):
            write_image(tmp_path / "a.png", image)


def test_float_round_trip_is_exact():
    levels = np.arange(256, dtype=np.uint8)
    floats = to_float(levels)
    assert floats.dtype == np.float32
    assert floats[0] == -1 and floats[255] == 1
    np.testing.assert_array_equal(to_uint8(floats), levels)
    with pytest.raises(ValueError, match="uint8"):
        to_float(floats)


def test_to_uint8_rounds_and_clips():
    levels = np.array([-3, 0.4, 0.6, 99.4, 99.6, 254.6, 300])
    converted = to_uint8((levels / 127.5 - 1).reshape(1, 7, 1))
    assert converted.dtype == np.uint8 and converted.shape == (1, 7, 1)
    np.testing.assert_array_equal(converted.ravel(), [0, 0, 1, 99, 100, 255, 255])


def test_image_set_has_a_length():
    assert len(ImageSet(names=("a", "b"), read=lambda i: i)) == 2


# === Color profiles ===


def profile(red=(0.6097, 0.3111, 0.0195), gamma=2.2, space=b"RGB "):
    """Returns an ICC profile with a matrix (that of Adobe RGB, except for `red`) and a gamma."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    curve = b"curv" + struct.pack(">IIHH", 0, 1, round(gamma * 256), 0)
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        columns = [red, (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)]
        tags |= {b"rgb"[i : i + 1] + b"XYZ": xyz(column) for i, column in enumerate(columns)}
        tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    header = bytearray(128)
    header[4:40] = b"lcms" + struct.pack(">I", 0x02400000) + b"mntr" + space + b"XYZ " + bytes(16)
    header[36:40], header[68:80] = b"acsp", b"".join(map(fixed, (0.9642, 1, 0.8249)))
    header[0:4] = struct.pack(">I", 128 + len(table) + len(body))
    return bytes(header) + table + body


# (100, 150, 200) in that profile, converted to sRGB with sRGB's matrix (D50) and curve.
ADOBE = (100, 150, 200)
_XYZ = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])
_SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
_LINEAR = np.linalg.solve(_SRGB, _XYZ @ (np.array(ADOBE) / 255) ** 2.2)
IN_SRGB = 255 * (1.055 * _LINEAR ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_colors_are_converted_to_srgb(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (16, 600), ADOBE)  # more rows than one conversion handles
    options = {"AVIF": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode_image(encode(image, kind, icc_profile=profile(), **options)).astype(int)
    np.testing.assert_allclose(decoded, np.broadcast_to(IN_SRGB, (600, 16, 3)), atol=5)
    plain = decode_image(encode(image, kind, **options)).astype(int)
    np.testing.assert_allclose(plain, np.full((600, 16, 3), ADOBE), atol=2)


def test_a_pil_image_is_converted_as_its_file_is(noise):
    data = encode(noise, "PNG", icc_profile=profile())
    image = to_image(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(image, decode_image(data))
    assert not np.array_equal(image, noise)


def test_profiles_of_palettes_and_transparent_images():
    image = Image.new("RGBA", (3, 2), (*ADOBE, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    decoded = decode_image(encode(image, "PNG", icc_profile=profile())).astype(int)
    assert decoded[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(decoded[1], [IN_SRGB] * 3, atol=2)
    palette = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    decoded = decode_image(encode(palette, "PNG", icc_profile=profile())).astype(int)
    np.testing.assert_allclose(decoded[1], [IN_SRGB] * 3, atol=2)


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_gray_profiles(dtype):
    level = 128 if dtype == "u1" else 128 * 257
    data = encode(np.full((2, 3), level, dtype), "PNG", icc_profile=profile(gamma=1, space=b"GRAY"))
    np.testing.assert_array_equal(decode_image(data, channels=1), np.full((2, 3, 1), 188))


@pytest.mark.parametrize(
    "useless",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile()[:200],
        b"no profile",
        profile(space=b"GRAY"),  # for another kind of image
    ],
    ids=["srgb", "cut", "text", "gray"],
)
def test_profiles_that_change_nothing(noise, useless):
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(encode(noise, kind, icc_profile=useless)), noise)


# === HEIF and AVIF without their decoders ===


def test_missing_decoders_are_named(tmp_path, noise, monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    avif = encode(noise, "AVIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    for data, suffix, remedy in (
        (heic, "heic", r'pip install "tf_cyclegan\[heif\]"'),
        (avif, "avif", r'pip install --upgrade "pillow>=11\.3"'),
    ):
        with pytest.raises(ImageError, match=f"photo: .*{remedy}") as error:
            decode_image(data, "photo")
        assert_one_line(error)
        with pytest.raises(ImageError, match=remedy):
            write_image(tmp_path / f"a.{suffix}", noise)
    assert list(tmp_path.iterdir()) == []
