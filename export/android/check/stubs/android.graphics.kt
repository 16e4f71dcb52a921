package android.graphics

import java.io.InputStream
import java.io.OutputStream

class Bitmap private constructor() {
    val width: Int get() = TODO()
    val height: Int get() = TODO()
    fun getPixels(
        pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int,
    ): Unit = TODO()
    fun compress(format: CompressFormat, quality: Int, stream: OutputStream): Boolean = TODO()
    enum class Config { ARGB_8888 }
    enum class CompressFormat { PNG }
    companion object {
        fun createBitmap(width: Int, height: Int, config: Config): Bitmap = TODO()
        fun createBitmap(colors: IntArray, width: Int, height: Int, config: Config): Bitmap = TODO()
    }
}
object BitmapFactory {
    class Options {
        @JvmField var inJustDecodeBounds = false
        @JvmField var inSampleSize = 0
        @JvmField var outWidth = 0
        @JvmField var outHeight = 0
    }
    fun decodeStream(stream: InputStream?, outPadding: Rect?, opts: Options?): Bitmap? = TODO()
}
class Canvas(bitmap: Bitmap) {
    init { TODO("$bitmap") }
    fun drawColor(color: Int): Unit = TODO()
    fun drawBitmap(bitmap: Bitmap, src: Rect?, dst: Rect, paint: Paint?): Unit = TODO()
}
object Color {
    const val WHITE = -1
}
class Paint(flags: Int) {
    init { TODO("$flags") }
    companion object {
        const val FILTER_BITMAP_FLAG = 2
    }
}
class Rect(val left: Int, val top: Int, val right: Int, val bottom: Int)
