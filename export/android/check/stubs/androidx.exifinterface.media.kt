package androidx.exifinterface.media

import java.io.InputStream

class ExifInterface(inputStream: InputStream) {
    init { TODO("$inputStream") }
    fun getAttributeInt(tag: String, defaultValue: Int): Int = TODO()
    companion object {
        const val TAG_ORIENTATION = ""
        const val ORIENTATION_NORMAL = 1
    }
}
