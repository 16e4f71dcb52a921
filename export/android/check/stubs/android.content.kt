package android.content

import android.content.res.AssetManager
import android.net.Uri
import java.io.File
import java.io.InputStream
import java.io.OutputStream

abstract class Context {
    val assets: AssetManager get() = TODO()
    val cacheDir: File get() = TODO()
    val contentResolver: ContentResolver get() = TODO()
    val packageName: String get() = TODO()
    fun getString(resId: Int): String = TODO()
    fun startActivity(intent: Intent): Unit = TODO()
}
abstract class ContentResolver {
    fun openInputStream(uri: Uri): InputStream? = TODO()
    fun openOutputStream(uri: Uri): OutputStream? = TODO()
}
class Intent(action: String) {
    var type: String? = null
    var clipData: ClipData? = null
    fun putExtra(name: String, value: Uri?): Intent = TODO()
    fun addFlags(flags: Int): Intent = TODO()
    init { TODO(action) }
    companion object {
        const val ACTION_SEND = ""
        const val EXTRA_STREAM = ""
        const val FLAG_GRANT_READ_URI_PERMISSION = 1
        fun createChooser(target: Intent, title: CharSequence?): Intent = TODO()
    }
}
class ClipData private constructor() {
    companion object {
        fun newRawUri(label: CharSequence?, uri: Uri): ClipData = TODO()
    }
}
class ActivityNotFoundException : RuntimeException()
