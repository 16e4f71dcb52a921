/**
 * LiteRT's signatures over a fake of it, so that the falling back to the CPU can be run.
 *
 * The network gives its input back, and fails at the stages in [Fake.failing], such as "GPU run".
 */
package com.google.ai.edge.litert

import android.content.res.AssetManager

object Fake {
    var failing = emptySet<String>()
    var open = 0
}

enum class Accelerator(val value: Int) { NONE(0), CPU(1), GPU(2), NPU(3) }

class LiteRtException(message: String) : Exception(message)

class Environment private constructor()

abstract class JniHandle internal constructor() : AutoCloseable {
    private var destroyed = false

    init {
        Fake.open++
    }

    final override fun close() {
        if (!destroyed) Fake.open--
        destroyed = true
    }

    protected fun assertNotDestroyed() = check(!destroyed) { "The handle has been destroyed." }
}

class TensorBuffer internal constructor() : JniHandle() {
    private var data = floatArrayOf()

    @Throws(LiteRtException::class)
    fun writeFloat(data: FloatArray) {
        assertNotDestroyed()
        this.data = data.copyOf()
    }

    @Throws(LiteRtException::class)
    fun readFloat(): FloatArray {
        assertNotDestroyed()
        return data.copyOf()
    }
}

class CompiledModel private constructor(private val accelerator: Accelerator) : JniHandle() {
    data class CpuOptions(
        val numThreads: Int? = null,
        val xnnPackFlags: Int? = null,
        val xnnPackWeightCachePath: String? = null,
    )

    data class GpuOptions(
        val constantTensorSharing: Boolean? = null,
        val infiniteFloatCapping: Boolean? = null,
        val allowSrcQuantizedFcConvOps: Boolean? = null,
        val precision: Precision? = null,
    ) {
        enum class Precision(val value: Int) { DEFAULT(0), FP16(1), FP32(2) }
    }

    class Options(internal val accelerators: Set<Accelerator>) {
        constructor(vararg accelerators: Accelerator) : this(accelerators.toSet())

        var cpuOptions: CpuOptions? = null
        var gpuOptions: GpuOptions? = null
    }

    @Throws(LiteRtException::class)
    fun createInputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = buffers("inputs")

    @Throws(LiteRtException::class)
    fun createOutputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = buffers("outputs")

    @Throws(LiteRtException::class)
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>, signatureIndex: Int = 0) {
        assertNotDestroyed()
        fail(accelerator, "run")
        val output = inputs[signatureIndex].readFloat()
        if ("$accelerator nan" in Fake.failing) output[0] = Float.NaN
        val short = "$accelerator size" in Fake.failing
        outputs[signatureIndex].writeFloat(if (short) output.copyOf(1) else output)
    }

    private fun buffers(stage: String): List<TensorBuffer> {
        assertNotDestroyed()
        fail(accelerator, stage)
        return listOf(TensorBuffer())
    }

    companion object {
        @Throws(LiteRtException::class)
        fun create(
            assetManager: AssetManager,
            assetName: String,
            options: Options = Options(Accelerator.CPU),
            optionalEnv: Environment? = null,
        ): CompiledModel {
            fail(options.accelerators.single(), "create")
            return CompiledModel(options.accelerators.single())
        }

        private fun fail(accelerator: Accelerator, stage: String) {
            val what = "$accelerator $stage"
            if (what in Fake.failing) throw LiteRtException("no $what")
        }
    }
}
