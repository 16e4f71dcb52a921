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
    // Cropped and scaled as it lies in its file, and turned then, when it is small.
    val lying = isTransposed(orientation)
    val (lyingWidth, lyingHeight) = if (lying) height to width else width to height

    val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    open(resolver, uri).use { BitmapFactory.decodeStream(it, null, options) }
    if (options.outWidth < 1 || options.outHeight < 1) throw undecodable()
    val whole = centreCrop(options.outWidth, options.outHeight, lyingWidth, lyingHeight)
    val sample = sampleSize(whole, lyingWidth, lyingHeight)
    if (options.outWidth.toLong() * options.outHeight / sample / sample > MAX_PIXELS) {
        throw IOException("The image is too long and narrow: crop it first.")
    }
    options.inJustDecodeBounds = false
    options.inSampleSize = sample
    val bitmap = open(resolver, uri).use { BitmapFactory.decodeStream(it, null, options) }
        ?: throw undecodable()

    val crop = centreCrop(bitmap.width, bitmap.height, lyingWidth, lyingHeight)
    val scaled = Bitmap.createBitmap(lyingWidth, lyingHeight, Bitmap.Config.ARGB_8888)
    Canvas(scaled).apply {
        drawColor(Color.WHITE)
        drawBitmap(
            bitmap,
            Rect(crop.left, crop.top, crop.left + crop.width, crop.top + crop.height),
            Rect(0, 0, lyingWidth, lyingHeight),
            Paint(Paint.FILTER_BITMAP_FLAG),
        )
    }
    val pixels = IntArray(lyingWidth * lyingHeight)
    scaled.getPixels(pixels, 0, lyingWidth, 0, 0, lyingWidth, lyingHeight)
    return upright(RgbImage(lyingWidth, lyingHeight, pixels), orientation)
}

fun RgbImage.toBitmap(): Bitmap =
    Bitmap.createBitmap(pixels, width, height, Bitmap.Config.ARGB_8888)

/** The EXIF orientation; damaged metadata do not make an image worse than lying. */
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
