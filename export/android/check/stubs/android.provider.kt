package android.provider

import android.content.ContentResolver
import android.net.Uri

object DocumentsContract {
    fun deleteDocument(content: ContentResolver, documentUri: Uri): Boolean = TODO()
}
