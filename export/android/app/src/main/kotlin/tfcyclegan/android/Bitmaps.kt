package tfcyclegan.android

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Rect
import android.net.Uri
import androidx.exifinterface.media.ExifInterface
import java.io.IOException
import java.io.InputStream

private const val MAX_PIXELS = 24_000_000L

/**
 * The image at [uri]: upright, its middle scaled to [width] x [height], white where transparent.
 *
 * Large images are shrunk while they are decoded. What cannot be decoded, or is still larger than
 * [MAX_PIXELS] then, is an IOException.
 */
fun loadImage(resolver: ContentResolver, uri: Uri, width: Int, height: Int): RgbImage {
    val orientation = readOrientation(resolver, uri)
    // Crop and scale before rotating, so that only the small image is rotated.
    val isRotated = isTransposed(orientation)
    val (storedWidth, storedHeight) = if (isRotated) height to width else width to height

    val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    open(resolver, uri).use { BitmapFactory.decodeStream(it, null, options) }
    if (options.outWidth < 1 || options.outHeight < 1) throw undecodable()
    val whole = centreCrop(options.outWidth, options.outHeight, storedWidth, storedHeight)
    val sample = sampleSize(whole, storedWidth, storedHeight)
    if (options.outWidth.toLong() * options.outHeight / sample / sample > MAX_PIXELS) {
        throw IOException("The image is too long and narrow: crop it first.")
    }
    options.inJustDecodeBounds = false
    options.inSampleSize = sample
    val bitmap = open(resolver, uri).use { BitmapFactory.decodeStream(it, null, options) }
        ?: throw undecodable()

    val crop = centreCrop(bitmap.width, bitmap.height, storedWidth, storedHeight)
    val scaled = Bitmap.createBitmap(storedWidth, storedHeight, Bitmap.Config.ARGB_8888)
    Canvas(scaled).apply {
        drawColor(Color.WHITE)
        drawBitmap(
            bitmap,
            Rect(crop.left, crop.top, crop.left + crop.width, crop.top + crop.height),
            Rect(0, 0, storedWidth, storedHeight),
            Paint(Paint.FILTER_BITMAP_FLAG),
        )
    }
    val pixels = IntArray(storedWidth * storedHeight)
    scaled.getPixels(pixels, 0, storedWidth, 0, 0, storedWidth, storedHeight)
    return upright(RgbImage(storedWidth, storedHeight, pixels), orientation)
}

fun RgbImage.toBitmap(): Bitmap =
    Bitmap.createBitmap(pixels, width, height, Bitmap.Config.ARGB_8888)

/** The EXIF orientation; if the metadata are damaged, the image is not rotated. */
private fun readOrientation(resolver: ContentResolver, uri: Uri): Int = try {
    open(resolver, uri).use {
        ExifInterface(it).getAttributeInt(
            ExifInterface.TAG_ORIENTATION,
            ExifInterface.ORIENTATION_NORMAL,
        )
    }
} catch (_: IOException) {
    ExifInterface.ORIENTATION_NORMAL
}

private fun open(resolver: ContentResolver, uri: Uri): InputStream =
    resolver.openInputStream(uri) ?: throw IOException("The image cannot be opened any more.")

private fun undecodable() = IOException("This image cannot be read: choose a JPEG or PNG.")
