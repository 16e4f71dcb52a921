package androidx.compose.foundation.layout

import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.Dp

interface PaddingValues
fun Modifier.padding(all: Dp): Modifier = TODO()
fun Modifier.padding(paddingValues: PaddingValues): Modifier = TODO()
fun Modifier.fillMaxWidth(fraction: Float = 1f): Modifier = TODO()
object Arrangement {
    interface Horizontal
    interface Vertical
    interface HorizontalOrVertical : Horizontal, Vertical
    val Start: Horizontal get() = TODO()
    val Top: Vertical get() = TODO()
    fun spacedBy(space: Dp): HorizontalOrVertical = TODO()
}
@DslMarker
annotation class LayoutScopeMarker
@LayoutScopeMarker
interface BoxScope
@LayoutScopeMarker
interface ColumnScope
@LayoutScopeMarker
interface RowScope
@Composable
inline fun Box(modifier: Modifier = Modifier, content: @Composable BoxScope.() -> Unit): Unit =
    TODO()
@Composable
inline fun Column(
    modifier: Modifier = Modifier,
    verticalArrangement: Arrangement.Vertical = Arrangement.Top,
    content: @Composable ColumnScope.() -> Unit,
): Unit = TODO()
@Composable
inline fun Row(
    modifier: Modifier = Modifier,
    horizontalArrangement: Arrangement.Horizontal = Arrangement.Start,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()
