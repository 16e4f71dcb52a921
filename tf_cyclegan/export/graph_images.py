"""Decodes images inside a TensorFlow graph, as `data.images` does with Pillow.

A server decodes untrusted data, so every format is recognized by its first bytes, its size is read
there and limited before any pixel is decoded, and other costs are limited too.
`tf.io.decode_image` alone is not enough:

- It accepts more formats. GIF and BMP are left out on purpose: clients convert them to PNG.
  TensorFlow decodes every frame of a GIF, and finding the end of the first one inside a graph
  takes seconds per megabyte.
- An animated WebP makes it write out of bounds (TensorFlow 2.21), so these are rejected.
- For a progressive JPEG, each scan makes a pass over all pixels, and a scan can be just 10 bytes:
  more than `MAX_SCANS` are rejected.
- For a PNG, it decompresses all data, even after the last pixel and in comments: more than
  `MAX_TEXTS` compressed comments are rejected, and more bytes than `BYTES_PER_PIXEL` and `EXTRA`
  allow. The latter applies to all formats.

Every rejection is an INVALID_ARGUMENT with its reason. Unlike `data.images`, this module only
supports JPEG, PNG and WebP, applies neither EXIF orientation nor color profiles (send upright
images in sRGB, as export/serving/client.py does), ignores the transparent color of a gray or RGB
PNG, and truncates 16-bit gray to 8 bits instead of rounding it.
"""

import tensorflow as tf

HEADER = 30  # bytes that hold the size in every format but JPEG
BYTES_PER_PIXEL = 4  # of an encoded image: 8-bit RGBA that does not compress at all
EXTRA = 2**20  # bytes in addition to the pixels, such as a color profile
MAX_SCANS = 100  # of a JPEG; encoders write about 10
MAX_TEXTS = 16  # compressed comments of a PNG


def decode(data, max_pixels: int):
    """Decodes one JPEG, PNG or WebP (not animated).

    Args:
        data: string `[]`, the encoded image.
        max_pixels: larger images are rejected.

    Returns:
        uint8 `[h, w, 3]`, alpha composited on white.
    """
    head = tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=HEADER), tf.int64)

    def starts(code, at=0):
        return tf.reduce_all(head[at : at + len(code)] == list(code))

    def unknown():
        known = require(False, "not a JPEG, PNG or WebP image: convert it to PNG first", data)
        return tf.io.decode_png(known, channels=3)  # never reached

    return tf.case(
        [
            (starts(b"\xff\xd8\xff"), lambda: _jpeg(data, max_pixels)),
            (starts(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), lambda: _png(data, head, max_pixels)),
            (starts(b"RIFF") & starts(b"WEBPVP8", 8), lambda: _webp(data, head, max_pixels)),
        ],
        default=unknown,
    )


def require(condition, message, value):
    """Returns `value` if the condition holds; otherwise the graph stops with INVALID_ARGUMENT.

    Use the result for whatever must not run before the check: only data flow orders operations.
    """
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def require_size(height, width, max_pixels, value):
    """Returns `value` if height and width are positive and have at most `max_pixels` pixels."""
    value = require((height > 0) & (width > 0), "an image without pixels", value)
    pixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)  # integers could overflow
    size = tf.strings.join([tf.as_string(width), tf.as_string(height)], " x ")
    message = f" is more than {max_pixels} pixels: scale the image down first"
    return require(pixels <= max_pixels, tf.strings.join([size, message]), value)


def to_gray(image):
    """Converts uint8 `[h, w, 3]` to `[h, w, 1]`: the luma of ITU-R 601 in Pillow's integers."""
    weighted = tf.cast(image, tf.int32) * [19595, 38470, 7471]
    return tf.cast((tf.reduce_sum(weighted, -1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def _jpeg(data, max_pixels):
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(data, tf.int64), num=3)
    data = _require_bytes(height, width, require_size(height, width, max_pixels, data))
    # A scan starts with FF DA, its length, and its number of components, which fixes the length.
    codes = tf.io.decode_raw(data, tf.uint8)
    scans = (codes[:-4] == 0xFF) & (codes[1:-3] == 0xDA) & (codes[2:-2] == 0)
    scans &= codes[3:-1] == 6 + 2 * codes[4:]
    few = tf.math.count_nonzero(scans) <= MAX_SCANS
    data = require(few, f"a JPEG with more than {MAX_SCANS} scans: save it again", data)
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _png(data, head, max_pixels):
    width, height = _number(head[16:20][::-1]), _number(head[20:24][::-1])
    data = _require_bytes(height, width, require_size(height, width, max_pixels, data))
    codes = tf.io.decode_raw(data, tf.uint8)
    texts = ((codes[:-3] == ord("z")) | (codes[:-3] == ord("i"))) & (codes[1:-2] == ord("T"))
    texts &= (codes[2:-1] == ord("X")) & (codes[3:] == ord("t"))
    few = tf.math.count_nonzero(texts) <= MAX_TEXTS
    data = require(few, f"a PNG with more than {MAX_TEXTS} comments: save it again", data)
    # Keep the PNG's channels: the alpha that TensorFlow would add is wrong below 8 bits.
    return _on_white(tf.io.decode_png(data, channels=0))


def _webp(data, head, max_pixels):
    kind, flags = head[15], head[20]
    extended, lossless = kind == ord("X"), kind == ord("L")
    bits = _number(head[21:25])
    width, height = [
        tf.where(extended, long, tf.where(lossless, packed, short))
        for long, packed, short in (
            (_number(head[24:27]) + 1, bits % 2**14 + 1, _number(head[26:28]) % 2**14),
            (_number(head[27:30]) + 1, bits // 2**14 % 2**14 + 1, _number(head[28:30]) % 2**14),
        )
    ]
    data = _require_bytes(height, width, require_size(height, width, max_pixels, data))
    animated = extended & (flags // 2 % 2 == 1)
    data = require(~animated, "an animated WebP: send one of its frames", data)
    return _on_white(tf.io.decode_image(data, expand_animations=False))


def _require_bytes(height, width, data):
    """Returns `data` if it is not too long for an image of this size."""
    limit = BYTES_PER_PIXEL * height * width + EXTRA
    message = f"more than {BYTES_PER_PIXEL} bytes per pixel and {EXTRA} extra: save it again"
    return require(tf.cast(tf.strings.length(data), tf.int64) <= limit, message, data)


def _number(parts):
    """Decodes a little-endian number."""
    return tf.reduce_sum(parts * [256**i for i in range(parts.shape[0])])


def _on_white(image):
    """Converts uint8 gray or RGB, with or without alpha, to uint8 `[h, w, 3]` on white."""
    opaque = tf.fill(tf.shape(image[:, :, :1]), tf.constant(255, tf.uint8))
    gray = tf.shape(image)[2] < 3
    order = tf.where(gray, [0, 0, 0, 1], [0, 1, 2, 3])  # the last is alpha, or opaque without it
    wide = tf.cast(tf.gather(tf.concat([image, opaque], -1), order, axis=2), tf.int32)
    color, alpha = wide[:, :, :3], wide[:, :, 3:]
    return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)
