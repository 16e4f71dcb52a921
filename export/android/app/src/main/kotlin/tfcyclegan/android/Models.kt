package tfcyclegan.android

import android.content.res.AssetManager
import java.io.FileNotFoundException
import org.json.JSONException
import org.json.JSONObject

private const val SUFFIX = ".tflite"

/** The names of the models in this app. */
fun listModels(assets: AssetManager): List<String> =
    assets.list("").orEmpty().filter { it.endsWith(SUFFIX) }.sorted()

/** The checked description of a model; an exception's message says what to do. */
fun readModelInfo(assets: AssetManager, file: String): ModelInfo {
    val description = file.removeSuffix(SUFFIX) + ".json"
    val info = try {
        val json = JSONObject(assets.open(description).bufferedReader().use { it.readText() })
        val range = json.getJSONArray("range")
        ModelInfo(
            file = file,
            name = json.getString("name"),
            format = json.getInt("format"),
            height = json.getInt("height"),
            width = json.getInt("width"),
            inputChannels = json.getInt("input_channels"),
            outputChannels = json.getInt("output_channels"),
            layout = json.getString("layout"),
            range = List(range.length()) { range.getDouble(it) },
            resizable = json.getBoolean("resizable"),
            bytes = json.getLong("bytes"),
            multiplyAdds = json.optLong("multiply_adds", 0),
        )
    } catch (error: FileNotFoundException) {
        throw IllegalStateException("$file has no $description beside it: copy both.", error)
    } catch (error: JSONException) {
        throw IllegalStateException("$description is damaged: copy it again.", error)
    }
    // At another size than its own, a network gives images that are wrong without an error.
    val bytes = assets.openFd(file).use { it.length }
    check(bytes == info.bytes) { "$description is not that of this $file: copy both files again." }
    return info.check()
}
