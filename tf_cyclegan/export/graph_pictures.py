"""Encoded pictures to pixels inside a TensorFlow graph, as `data.pictures` does with Pillow.

A server decodes what strangers send, so every format is recognised by its first bytes, and its size
is read there and limited before any pixel is decoded. `tf.io.decode_image` alone would not do:

- it takes formats that nobody asked for;
- an animated WebP makes it write beyond its memory (TensorFlow 2.21), so those are refused;
- of a GIF it unpacks every frame, each as large as it pleases, before it drops all but one;
- it reads the palette of a BMP as gray, and JPEGs less exactly than Pillow.

Every refusal is an INVALID_ARGUMENT that says why. Unlike `data.pictures`, TIFF is not known, EXIF
orientation is not applied (send pictures upright, as export/serving/client.py does), the one
transparent color of a gray PNG is ignored, and 16 bits of gray are cut to 8 instead of rounded.
"""

import tensorflow as tf

HEADER = 54  # bytes that hold the size in every format but JPEG, and all of BMP's fields


def decode(data, max_pixels: int):
    """Decodes one JPEG, PNG, GIF (first frame), WebP (not animated) or BMP (uncompressed).

    Args:
        data: string `[]`, the encoded picture.
        max_pixels: more are refused.

    Returns:
        uint8 `[h, w, 3]`, alpha composited on white.
    """
    head = tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=HEADER), tf.int64)

    def starts(code, at=0):
        return tf.reduce_all(head[at : at + len(code)] == list(code))

    def unknown():
        known = require(False, "no JPEG, PNG, GIF, WebP or BMP picture", data)
        return tf.io.decode_png(known, channels=3)  # never comes this far

    return tf.case(
        [
            (starts(b"\xff\xd8\xff"), lambda: _jpeg(data, max_pixels)),
            (starts(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), lambda: _png(data, head, max_pixels)),
            (starts(b"GIF87a") | starts(b"GIF89a"), lambda: _gif(data, head, max_pixels)),
            (starts(b"RIFF") & starts(b"WEBPVP8", 8), lambda: _webp(data, head, max_pixels)),
            (starts(b"BM"), lambda: _bmp(data, head, max_pixels)),
        ],
        default=unknown,
    )


def require(condition, message, value):
    """`value`, once the condition holds; else the graph stops with INVALID_ARGUMENT.

    What shall not run before the check must be computed from the result: nothing else orders it.
    """
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def require_size(height, width, max_pixels, value):
    """`value`, once height and width are 1 or more and their product is at most `max_pixels`."""
    value = require((height > 0) & (width > 0), "a picture without pixels", value)
    pixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)  # integers could overflow
    size = tf.strings.join([tf.as_string(width), tf.as_string(height)], " x ")
    message = f" is more than {max_pixels} pixels: scale the picture down first"
    return require(pixels <= max_pixels, tf.strings.join([size, message]), value)


def to_gray(picture):
    """uint8 `[h, w, 3]` -> uint8 `[h, w, 1]`: ITU-R 601's luma in Pillow's integers."""
    weighted = tf.cast(picture, tf.int32) * [19595, 38470, 7471]
    return tf.cast((tf.reduce_sum(weighted, -1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def _jpeg(data, max_pixels):
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(data, tf.int64), num=3)
    data = require_size(height, width, max_pixels, data)
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _png(data, head, max_pixels):
    width, height = _number(head[16:20][::-1]), _number(head[20:24][::-1])
    data = require_size(height, width, max_pixels, data)
    # As many channels as it has: an alpha that TensorFlow adds is wrong below 8 bits.
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
    data = require_size(height, width, max_pixels, data)
    animated = extended & (flags // 2 % 2 == 1)
    data = require(~animated, "an animated WebP: send one of its frames", data)
    return _on_white(tf.io.decode_image(data, expand_animations=False))


def _bmp(data, head, max_pixels):
    width, height = _number(head[18:22]), _number(head[22:26])
    height = tf.minimum(height, 2**32 - height)  # negative where rows go from top to bottom
    data = require_size(height, width, max_pixels, data)
    information, depth, compression = _number(head[14:18]), _number(head[28:30]), head[30]
    known = (information >= 40) & (information <= 124) & (compression == 0)
    known &= tf.reduce_any(depth == [8, 24, 32])
    data = require(known, "no uncompressed BMP of 8, 24 or 32 bits: save it anew as PNG", data)
    picture = tf.io.decode_bmp(data, channels=3)
    start = 14 + information
    palette = tf.io.decode_raw(data, tf.uint8, fixed_length=14 + 124 + 1024)[start : start + 1024]
    colors = tf.reshape(palette, [256, 4])[:, 2::-1]  # of blue, green, red and a zero
    return tf.where(depth == 8, tf.gather(colors, tf.cast(picture[:, :, 0], tf.int32)), picture)


def _gif(data, head, max_pixels):
    """Cuts the file after its first frame, since the decoder would unpack all of them."""
    size = tf.strings.length(data)
    codes = tf.concat([tf.io.decode_raw(data, tf.uint8), [0]], 0)

    def byte(at):  # beyond the end: 0, which ends every loop below
        return tf.cast(codes[tf.minimum(at, size)], tf.int32)

    def table_length(flags):
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def after_blocks(at):
        return 1 + tf.while_loop(lambda i: byte(i) > 0, lambda i: [i + byte(i) + 1], [at])[0]

    def extension(at, transparent):
        graphic_control = (byte(at + 1) == 0xF9) & (byte(at + 3) % 2 == 1)
        return after_blocks(at + 2), tf.where(graphic_control, byte(at + 6), transparent)

    length = table_length(byte(10))
    frame, transparent = tf.while_loop(lambda at, _: byte(at) == 0x21, extension, [13 + length, -1])
    own_length = table_length(byte(frame + 9))
    end = after_blocks(frame + 11 + own_length)
    data = require((byte(frame) == 0x2C) & (end <= size), "a damaged GIF", data)

    width, height = _number(head[6:8]), _number(head[8:10])
    data = require_size(height, width, max_pixels, data)
    place = tf.io.decode_raw(tf.strings.substr(data, frame + 1, 8), tf.uint16)  # x, y, w, h
    whole = tf.reduce_all(tf.cast(place, tf.int64) == [0, 0, width, height])
    data = require(whole, "a GIF whose first frame is not the whole picture", data)

    # Without its extensions nothing is transparent, and what was gets white in its color table.
    still = tf.strings.substr(data, 0, 13 + length) + tf.strings.substr(data, frame, end - frame)
    table = tf.where(own_length > 0, 13 + length + 10, 13)
    length = tf.where(own_length > 0, own_length, length)
    color = table + 3 * transparent
    hidden = (transparent >= 0) & (color < table + length)
    color = tf.where(hidden, color, 0)
    parts = [
        tf.strings.substr(still, 0, color),
        tf.where(hidden, b"\xff\xff\xff", tf.strings.substr(still, 0, 3)),
        tf.strings.substr(still, color + 3, size),
        b";",
    ]
    return tf.io.decode_gif(tf.strings.join(parts))[0]


def _number(parts):
    """The number that bytes spell, the lowest first."""
    return tf.reduce_sum(parts * [256**i for i in range(parts.shape[0])])


def _on_white(picture):
    """uint8 `[h, w, 1 to 4]`, gray or RGB with or without alpha -> uint8 `[h, w, 3]`."""
    opaque = tf.fill(tf.shape(picture[:, :, :1]), tf.constant(255, tf.uint8))
    gray = tf.shape(picture)[2] < 3
    order = tf.where(gray, [0, 0, 0, 1], [0, 1, 2, 3])  # alpha, or else opaque, is the last
    wide = tf.cast(tf.gather(tf.concat([picture, opaque], -1), order, axis=2), tf.int32)
    color, alpha = wide[:, :, :3], wide[:, :, 3:]
    return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)
