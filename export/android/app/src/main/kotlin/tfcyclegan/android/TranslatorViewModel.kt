package tfcyclegan.android

import android.app.Application
import android.graphics.Bitmap
import android.net.Uri
import android.provider.DocumentsContract
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import java.io.File
import java.io.IOException
import java.util.concurrent.Executors
import kotlin.time.measureTimedValue
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** An image and its translation, of one size; [file] holds the translation as PNG. */
data class Translation(
    val before: Bitmap,
    val after: Bitmap,
    val file: File,
    val model: String,
    val accelerator: String,
    val milliseconds: Long,
)

/** All that the screen shows; [error] is one sentence. */
data class State(
    val models: List<String> = emptyList(),
    val model: String? = null,
    val translation: Translation? = null,
    val busy: Boolean = false,
    val error: String? = null,
)

private const val TRANSLATION = "translation_"

class TranslatorViewModel(private val app: Application) : AndroidViewModel(app) {
    private val _state = MutableStateFlow(State())
    val state: StateFlow<State> = _state.asStateFlow()

    // Decoding and LiteRT, one after the other and off the main thread.
    private val thread = Executors.newSingleThreadExecutor().asCoroutineDispatcher()
    private var translator: Translator? = null
    private var image: Uri? = null

    init {
        sharedFile(app, "").listFiles { file -> file.name.startsWith(TRANSLATION) }
            ?.forEach { it.delete() } // of earlier starts of the app
        val models = listModels(app.assets)
        _state.update { it.copy(models = models) }
        if (models.isEmpty()) fail(app.getString(R.string.no_model)) else choose(models.first())
    }

    fun choose(model: String) {
        _state.update { it.copy(model = model, translation = null) }
        translate()
    }

    fun open(uri: Uri) {
        image = uri
        _state.update { it.copy(translation = null) }
        translate()
    }

    fun fail(sentence: String) = _state.update { it.copy(error = sentence) }

    /** Copies the translation into the document that the user just made at [uri]. */
    fun save(uri: Uri) = work {
        val file = state.value.translation?.file ?: return@work
        try {
            val output = app.contentResolver.openOutputStream(uri)
                ?: throw IOException("The file cannot be written: choose another folder.")
            output.use { target -> file.inputStream().use { it.copyTo(target) } }
        } catch (error: IOException) {
            runCatching { DocumentsContract.deleteDocument(app.contentResolver, uri) }
            throw error
        }
    }

    private fun translate() {
        val model = state.value.model ?: return
        val uri = image
        work {
            val translator = load(model)
            if (uri == null) return@work
            val info = translator.info
            val before = loadImage(app.contentResolver, uri, info.width, info.height)
            val input = toFloats(before.pixels, info.inputChannels)
            val (output, duration) = measureTimedValue { translator.translate(input) }
            val after =
                RgbImage(info.width, info.height, toPixels(output, info.outputChannels)).toBitmap()
            val translation = Translation(
                before = before.toBitmap(),
                after = after,
                file = writePng(after),
                model = info.title,
                accelerator = translator.accelerator,
                milliseconds = duration.inWholeMilliseconds,
            )
            _state.update { it.copy(translation = translation) }
        }
    }

    /** The translator of [model]; the one before is closed first, as two may not fit the memory. */
    private fun load(model: String): Translator {
        translator?.let {
            if (it.info.file == model) return it
            translator = null
            it.close()
        }
        return Translator(app.assets, readModelInfo(app.assets, model)).also { translator = it }
    }

    /** Writes a new file, as an app that the one before was shared with may still read that. */
    private fun writePng(bitmap: Bitmap): File {
        val file = sharedFile(app, "$TRANSLATION${System.nanoTime()}.png")
        val written = file.outputStream().use {
            bitmap.compress(Bitmap.CompressFormat.PNG, 100, it)
        }
        if (!written) {
            file.delete()
            throw IOException("The translation cannot be stored: is the storage full?")
        }
        return file
    }

    private fun work(block: () -> Unit) {
        _state.update { it.copy(busy = true, error = null) }
        viewModelScope.launch {
            // Of all kinds: too little memory and a missing native library are no Exceptions.
            val error = withContext(thread) { runCatching(block) }.exceptionOrNull()
            _state.update { it.copy(busy = false, error = error?.run { message ?: toString() }) }
        }
    }

    override fun onCleared() {
        thread.executor.execute { translator?.close() }
        thread.close()
    }
}
