/** An image, for the screen and for the network. Without Android, so that any JVM can test it. */
package tfcyclegan.android

import kotlin.math.min
import kotlin.math.round

/** Row by row, one opaque ARGB pixel in each Int, as Android's bitmaps give and take them. */
class RgbImage(val width: Int, val height: Int, val pixels: IntArray)

data class Crop(val left: Int, val top: Int, val width: Int, val height: Int)

/** The largest part in the middle that has the aspect of [targetWidth] x [targetHeight]. */
fun centreCrop(width: Int, height: Int, targetWidth: Int, targetHeight: Int): Crop {
    val cropWidth = min(width.toLong(), height.toLong() * targetWidth / targetHeight)
    val cropHeight = min(height.toLong(), width.toLong() * targetHeight / targetWidth)
    val (w, h) = cropWidth.toInt().coerceAtLeast(1) to cropHeight.toInt().coerceAtLeast(1)
    return Crop((width - w) / 2, (height - h) / 2, w, h)
}

/** The largest power of two that shrinks [crop] to no less than [targetWidth] x [targetHeight]. */
fun sampleSize(crop: Crop, targetWidth: Int, targetHeight: Int): Int {
    var size = 1
    while (crop.width / (2 * size) >= targetWidth && crop.height / (2 * size) >= targetHeight) {
        size *= 2
    }
    return size
}

/** Whether an image of this EXIF orientation lies on its side in its file. */
fun isTransposed(orientation: Int): Boolean = orientation in 5..8

/** [image] rotated and mirrored by its EXIF orientation; 1 and unknown values change nothing. */
fun upright(image: RgbImage, orientation: Int): RgbImage {
    if (orientation !in 2..8) return image
    val transposed = isTransposed(orientation)
    val fromRight = orientation in setOf(2, 3, 7, 8)
    val fromBottom = orientation in setOf(3, 4, 6, 7)
    val width = if (transposed) image.height else image.width
    val height = if (transposed) image.width else image.height
    val pixels = IntArray(width * height) {
        val x = if (transposed) it / width else it % width
        val y = if (transposed) it % width else it / width
        val column = if (fromRight) image.width - 1 - x else x
        val row = if (fromBottom) image.height - 1 - y else y
        image.pixels[row * image.width + column]
    }
    return RgbImage(width, height, pixels)
}

/** Pixels to NHWC in [-1, 1]: RGB for 3 [channels], for 1 gray by ITU-R 601, rounded as Pillow. */
fun toFloats(pixels: IntArray, channels: Int): FloatArray {
    val floats = FloatArray(pixels.size * channels)
    pixels.forEachIndexed { index, pixel ->
        val red = pixel shr 16 and 255
        val green = pixel shr 8 and 255
        val blue = pixel and 255
        if (channels == 1) {
            floats[index] = toFloat((red * 19595 + green * 38470 + blue * 7471 + 0x8000) shr 16)
        } else {
            floats[3 * index] = toFloat(red)
            floats[3 * index + 1] = toFloat(green)
            floats[3 * index + 2] = toFloat(blue)
        }
    }
    return floats
}

/** NHWC in [-1, 1] to opaque pixels: rounded half to even and clipped; NaN is black. */
fun toPixels(floats: FloatArray, channels: Int): IntArray = IntArray(floats.size / channels) {
    val red = toLevel(floats[it * channels])
    val green = toLevel(floats[it * channels + min(1, channels - 1)])
    val blue = toLevel(floats[it * channels + min(2, channels - 1)])
    255 shl 24 or (red shl 16) or (green shl 8) or blue
}

private fun toFloat(level: Int): Float = level / 127.5f - 1f

private fun toLevel(value: Float): Int = round((value + 1f) * 127.5f).coerceIn(0f, 255f).toInt()
