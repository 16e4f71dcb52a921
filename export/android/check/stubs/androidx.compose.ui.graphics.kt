package androidx.compose.ui.graphics

import android.graphics.Bitmap

interface ImageBitmap
fun Bitmap.asImageBitmap(): ImageBitmap = TODO()
class Color internal constructor() {
    companion object {
        val Unspecified: Color get() = TODO()
    }
}
