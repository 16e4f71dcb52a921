package androidx.compose.ui.graphics.drawscope

import androidx.compose.ui.geometry.Size

@DslMarker
annotation class DrawScopeMarker
@DrawScopeMarker
interface DrawScope {
    val size: Size
}
interface ContentDrawScope : DrawScope {
    fun drawContent()
}
inline fun DrawScope.clipRect(
    left: Float = 0f,
    top: Float = 0f,
    right: Float = size.width,
    bottom: Float = size.height,
    block: DrawScope.() -> Unit,
): Unit = TODO()
