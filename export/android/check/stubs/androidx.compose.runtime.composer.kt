/** What the Compose compiler calls in the code that it makes of composables. */
package androidx.compose.runtime

object ComposeVersion { const val version = 100000 }
annotation class ComposableTarget(val applier: String)
annotation class ComposableInferredTarget(val scheme: String)
interface ScopeUpdateScope { fun updateScope(block: (Composer, Int) -> Unit) }
interface Composer {
    val skipping: Boolean
    val defaultsInvalid: Boolean
    val inserting: Boolean
    val currentMarker: Int
    fun shouldExecute(parametersChanged: Boolean, flags: Int): Boolean
    fun startRestartGroup(key: Int): Composer
    fun endRestartGroup(): ScopeUpdateScope?
    fun startReplaceableGroup(key: Int)
    fun endReplaceableGroup()
    fun startReplaceGroup(key: Int)
    fun endReplaceGroup()
    fun startMovableGroup(key: Int, dataKey: Any?)
    fun endMovableGroup()
    fun startDefaults()
    fun endDefaults()
    fun skipToGroupEnd()
    fun skipCurrentGroup()
    fun endToMarker(marker: Int)
    fun joinKey(left: Any?, right: Any?): Any
    fun rememberedValue(): Any?
    fun updateRememberedValue(value: Any?)
    fun changed(value: Any?): Boolean
    fun changed(value: Boolean): Boolean
    fun changed(value: Char): Boolean
    fun changed(value: Byte): Boolean
    fun changed(value: Short): Boolean
    fun changed(value: Int): Boolean
    fun changed(value: Float): Boolean
    fun changed(value: Long): Boolean
    fun changed(value: Double): Boolean
    fun changedInstance(value: Any?): Boolean
    companion object { val Empty: Any = Any() }
}
fun <T> Composer.cache(invalid: Boolean, block: () -> T): T = block()
fun sourceInformation(composer: Composer, sourceInformation: String) {}
fun sourceInformationMarkerStart(composer: Composer, key: Int, sourceInformation: String) {}
fun sourceInformationMarkerEnd(composer: Composer) {}
fun isTraceInProgress(): Boolean = false
fun traceEventStart(key: Int, dirty1: Int, dirty2: Int, info: String) {}
fun traceEventEnd() {}
fun updateChangedFlags(flags: Int): Int = flags
