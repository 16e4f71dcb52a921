/** Converts images to floats and back, as in tf_cyclegan/data/image_files.py. Uses no DOM. */

const SMALLEST = 8; // smallest side in pixels for which a generator's deepest map can be padded

/** level / 127.5 - 1 for every level, rounded to float32 after each step. */
const FLOATS = Float32Array.from({ length: 256 }, (_, level) => Math.fround(level / 127.5) - 1);

/**
 * Converts RGBA bytes to float32 in [-1, 1].
 *
 * @param {Uint8ClampedArray} rgba opaque pixels, row by row; alpha is ignored
 * @param {1 | 3} channels 1 converts to gray: the luma of ITU-R 601 in Pillow's integer arithmetic
 */
export function toFloat(rgba, channels) {
  const floats = new Float32Array((rgba.length / 4) * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [r, g, b] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (channels === 1) {
      floats[to++] = FLOATS[(19595 * r + 38470 * g + 7471 * b + 32768) >> 16];
    } else {
      floats[to++] = FLOATS[r];
      floats[to++] = FLOATS[g];
      floats[to++] = FLOATS[b];
    }
  }
  return floats;
}

/**
 * Converts float32 in [-1, 1] to opaque RGBA bytes: (y + 1) * 127.5, rounded half to even and
 * clipped, both by Uint8ClampedArray.
 *
 * @param {Float32Array} floats
 * @param {1 | 3} channels of `floats`
 */
export function toPixels(floats, channels) {
  const rgba = new Uint8ClampedArray((floats.length / channels) * 4);
  for (let from = 0, to = 0; from < floats.length; from += channels) {
    for (let color = 0; color < 3; color++) {
      const value = floats[channels === 1 ? from : from + color];
      rgba[to++] = Math.fround(Math.fround(value + 1) * 127.5);
    }
    rgba[to++] = 255;
  }
  return rgba;
}

/** Returns the largest centered rectangle of an image with the aspect ratio of width x height. */
export function crop(imageWidth, imageHeight, width, height) {
  const scale = Math.min(imageWidth / width, imageHeight / height);
  const [w, h] = [width * scale, height * scale];
  return { x: (imageWidth - w) / 2, y: (imageHeight - h) / 2, width: w, height: h };
}

/**
 * Returns the size at which a resizable model translates an image: the image's own, or scaled down
 * until the longer side is at most `limit`, with each side rounded to a multiple that the model
 * accepts. If `limit` is below the smallest such multiple, the result is that multiple.
 */
export function fit(imageWidth, imageHeight, limit, multiple) {
  const smallest = Math.ceil(SMALLEST / multiple) * multiple;
  const largest = Math.floor(limit / multiple) * multiple;
  const scale = Math.min(1, limit / Math.max(imageWidth, imageHeight));
  const [width, height] = [imageWidth, imageHeight].map((side) => {
    const rounded = Math.round((side * scale) / multiple) * multiple;
    return Math.max(Math.min(rounded, largest), smallest);
  });
  return { width, height };
}
