/** Reads photos, and checks their size before they are decoded. */

import { Refusal } from "./refusal.js";

const MAX_BYTES = 64 * 2 ** 20;
const MAX_PIXELS = 50_000_000; // as in tf_cyclegan/data/image_files.py

/**
 * Decodes a photo, and applies its EXIF orientation.
 *
 * @param {File} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Refusal} if it is too large, or not an image that this browser supports
 */
export async function readPhoto(file) {
  if (file.size > MAX_BYTES) {
    throw new Refusal(`${file.name} has ${megabytes(file.size)} MB: choose one of at most 64 MB.`);
  }
  const image = new Image(); // reports its size before its pixels are decoded
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > MAX_PIXELS) {
      throw new Refusal(
        `${file.name} has ${width} × ${height} pixels: scale it down to 50 million first.`,
      );
    }
    return await createImageBitmap(file);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(
      `${file.name} is not an image that this browser can read: choose a JPEG, PNG or WebP file.`,
    );
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

export const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/**
 * Draws a part of a photo, scaled to a size, on a white background.
 *
 * @param {ImageBitmap} bitmap
 * @param {{x: number, y: number, width: number, height: number}} part of the photo
 * @param {HTMLCanvasElement} canvas gets the size and the image
 * @returns {Uint8ClampedArray} the canvas's RGBA bytes
 */
export function draw(bitmap, part, canvas, { width, height }) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, part.x, part.y, part.width, part.height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
