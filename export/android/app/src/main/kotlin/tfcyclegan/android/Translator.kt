package tfcyclegan.android

import android.content.res.AssetManager
import android.util.Log
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer

/**
 * One model on the GPU, or on the CPU from the moment the GPU fails.
 *
 * Create, use and close it on one thread: drivers tie their contexts to it. An exception's
 * message is one sentence that says what to do.
 */
class Translator(private val assets: AssetManager, val info: ModelInfo) : AutoCloseable {
    private var engine = try {
        Engine(assets, info.file, Accelerator.GPU)
    } catch (error: IllegalStateException) {
        onCpu(error)
    }

    /** Where the last image was computed. */
    val accelerator: String get() = engine.accelerator.name

    /** NHWC in [-1, 1] in, the same out. */
    fun translate(input: FloatArray): FloatArray {
        if (engine.accelerator == Accelerator.GPU) {
            try {
                return compute(input)
            } catch (error: IllegalStateException) {
                engine.close()
                engine = onCpu(error)
            }
        }
        return compute(input)
    }

    override fun close() = engine.close()

    private fun compute(input: FloatArray): FloatArray {
        val output = engine.run(input)
        check(output.size == info.height * info.width * info.outputChannels) {
            "${info.file} gave ${output.size} numbers, not those of an image of this size: export it again."
        }
        check(output.all { it.isFinite() }) {
            "${info.file} gave NaN or infinity on the $accelerator: export it in another mode."
        }
        return output
    }

    private fun onCpu(error: IllegalStateException): Engine {
        Log.w("Translator", "${info.file} goes to the CPU", error)
        return Engine(assets, info.file, Accelerator.CPU)
    }
}

/** A compiled model with its buffers; what LiteRT throws comes out as an IllegalStateException. */
private class Engine(assets: AssetManager, private val file: String, val accelerator: Accelerator) :
    AutoCloseable {
    private val model = explained { CompiledModel.create(assets, file, options(accelerator), null) }
    private var inputs = emptyList<TensorBuffer>()
    private var outputs = emptyList<TensorBuffer>()

    init {
        try {
            inputs = explained { model.createInputBuffers() }
            outputs = explained { model.createOutputBuffers() }
        } catch (error: IllegalStateException) {
            close()
            throw error
        }
    }

    fun run(input: FloatArray): FloatArray = explained {
        inputs[0].writeFloat(input)
        model.run(inputs, outputs)
        outputs[0].readFloat()
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }

    private inline fun <T> explained(block: () -> T): T = try {
        block()
    } catch (error: Exception) {
        val reason = error.message
        throw IllegalStateException(
            "$file does not run on the $accelerator ($reason): export it in another mode.",
            error,
        )
    }
}

private fun options(accelerator: Accelerator) = CompiledModel.Options(accelerator).apply {
    if (accelerator == Accelerator.GPU) {
        // LiteRT's GPU computes in float16 by default, in which the sums that instance
        // normalization takes over whole maps can overflow.
        gpuOptions = CompiledModel.GpuOptions(precision = CompiledModel.GpuOptions.Precision.FP32)
    } else {
        // Phones have few fast cores; more threads than those are slower.
        val threads = Runtime.getRuntime().availableProcessors().coerceAtMost(4)
        cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
    }
}
