package tfcyclegan.android

import java.util.Locale

/**
 * What the .json beside a .tflite says of it, as far as this app needs it.
 *
 * [range] is that of the floats on both sides, and [bytes] is the size of the .tflite.
 * [multiplyAdds] is 0 in files of earlier versions.
 */
data class ModelInfo(
    val file: String,
    val name: String,
    val format: Int,
    val height: Int,
    val width: Int,
    val inputChannels: Int,
    val outputChannels: Int,
    val layout: String,
    val range: List<Double>,
    val resizable: Boolean,
    val bytes: Long,
    val multiplyAdds: Long,
) {
    /** The name, and how much the model computes, which tells a student from its teacher. */
    val title: String
        get() = if (multiplyAdds == 0L) name else "$name, ${multiplyAdds.inMillions()} multiply-adds"

    /** This, or an IllegalArgumentException whose message says what to do. */
    fun check(): ModelInfo {
        require(format == 1) {
            "$file is described in format $format, not 1: update the app, or export it again."
        }
        // A phone's GPU only supports the size that the file was exported for.
        require(!resizable) {
            "$file is for images of any size, which phone GPUs do not support: export it for one size."
        }
        require(layout == "NHWC" && range == listOf(-1.0, 1.0)) {
            "$file takes $layout in $range, but this app NHWC in [-1, 1]: export it again."
        }
        require(inputChannels in CHANNELS && outputChannels in CHANNELS) {
            "$file has $inputChannels and $outputChannels channels, this app takes 1 or 3."
        }
        require(height in SIZES && width in SIZES) {
            "$file is made for $width x $height pixels, this app takes 1 to ${SIZES.last} a side."
        }
        return this
    }

    private fun Long.inMillions() = String.format(Locale.ROOT, "%,.1f million", this / 1e6)

    private companion object {
        val CHANNELS = setOf(1, 3)
        val SIZES = 1..2048
    }
}
