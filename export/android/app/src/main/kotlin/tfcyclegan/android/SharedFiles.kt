package tfcyclegan.android

import android.content.Context
import android.net.Uri
import androidx.core.content.FileProvider
import java.io.File

/** A file in the only folder that the FileProvider in the manifest shares. */
fun sharedFile(context: Context, name: String): File =
    File(context.cacheDir, "images").apply { mkdirs() }.resolve(name)

/** What other apps may call such a file. */
fun sharedUri(context: Context, file: File): Uri =
    FileProvider.getUriForFile(context, "${context.packageName}.files", file)
