package android.content.res

import java.io.Closeable
import java.io.InputStream

class AssetManager {
    fun list(path: String): Array<String>? = TODO()
    fun open(fileName: String): InputStream = TODO()
    fun openFd(fileName: String): AssetFileDescriptor = TODO()
}
abstract class AssetFileDescriptor : Closeable {
    val length: Long get() = TODO()
}
