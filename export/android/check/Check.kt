/** Runs what needs no Android: Ints of arrays in on stdin, the answer out on stdout. */
package tfcyclegan.android

import android.content.res.AssetManager
import com.google.ai.edge.litert.Fake
import java.io.DataInputStream
import java.io.DataOutputStream

private val PIXEL = floatArrayOf(-1f, 0.5f, 1f)
private val input = DataInputStream(System.`in`.buffered())

/** The next array: its length, then its big-endian Ints, in which floats are their bits. */
private fun next() = IntArray(input.readInt()) { input.readInt() }

fun main(args: Array<String>) = when (args[0]) {
    "toFloats" -> answer(toFloats(next(), next()[0]).map { it.toRawBits() })
    "toPixels" -> {
        val floats = next().map { Float.fromBits(it) }.toFloatArray()
        answer(toPixels(floats, next()[0]).toList())
    }
    "upright" -> {
        val (width, height, orientation) = next()
        val image = upright(RgbImage(width, height, next()), orientation)
        answer(listOf(image.width, image.height) + image.pixels.toList())
    }
    "crops" -> answer(
        next().toList().chunked(4).flatMap { (width, height, targetWidth, targetHeight) ->
            val crop = centreCrop(width, height, targetWidth, targetHeight)
            val size = sampleSize(crop, targetWidth, targetHeight)
            listOf(crop.left, crop.top, crop.width, crop.height, size)
        },
    )
    "check" -> println(sentence { "fine: " + info(args[1]).check().file })
    "title" -> println(info(args[1]).title)
    "translate" -> {
        Fake.failing = args.drop(1).toSet()
        val answer = sentence {
            Translator(AssetManager(), info("")).use {
                val output = it.translate(PIXEL).toList()
                "${it.accelerator} $output ${output == it.translate(PIXEL).toList()}"
            }
        }
        println("$answer, ${Fake.open} open")
    }
    else -> error("there is no check ${args[0]}")
}

private fun answer(ints: List<Int>) =
    DataOutputStream(System.out.buffered()).use { output -> ints.forEach(output::writeInt) }

private fun sentence(block: () -> String) = try {
    block()
} catch (error: RuntimeException) {
    "${error.javaClass.simpleName}: ${error.message}"
}

/** A good description with one thing [wrong]. */
private fun info(wrong: String) = ModelInfo(
    file = "a2b_1x1.tflite",
    name = "mine",
    format = if (wrong == "format") 2 else 1,
    height = if (wrong == "height") 0 else 1,
    width = if (wrong == "width") 4096 else 1,
    inputChannels = if (wrong == "input_channels") 4 else 3,
    outputChannels = if (wrong == "output_channels") 2 else 3,
    layout = if (wrong == "layout") "NCHW" else "NHWC",
    range = if (wrong == "range") listOf(0.0, 1.0) else listOf(-1.0, 1.0),
    resizable = wrong == "resizable",
    bytes = 1,
    multiplyAdds = if (wrong == "old") 0 else 12_345_678,
)
