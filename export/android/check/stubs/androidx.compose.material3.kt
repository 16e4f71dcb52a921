package androidx.compose.material3

import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.RowScope
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color

class ColorScheme internal constructor() {
    val error: Color get() = TODO()
}
fun lightColorScheme(): ColorScheme = TODO()
fun darkColorScheme(): ColorScheme = TODO()
object MaterialTheme {
    val colorScheme: ColorScheme
        @Composable get() = TODO()
}
@Composable
fun MaterialTheme(colorScheme: ColorScheme, content: @Composable () -> Unit): Unit = TODO()
@Composable
fun Scaffold(modifier: Modifier = Modifier, content: @Composable (PaddingValues) -> Unit): Unit =
    TODO()
@Composable
fun Text(text: String, modifier: Modifier = Modifier, color: Color = Color.Unspecified): Unit =
    TODO()
@Composable
fun Button(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()
@Composable
fun OutlinedButton(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()
@Composable
fun DropdownMenu(
    expanded: Boolean,
    onDismissRequest: () -> Unit,
    modifier: Modifier = Modifier,
    content: @Composable ColumnScope.() -> Unit,
): Unit = TODO()
@Composable
fun DropdownMenuItem(
    text: @Composable () -> Unit,
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
): Unit = TODO()
@Composable
fun LinearProgressIndicator(modifier: Modifier = Modifier): Unit = TODO()
@Composable
fun Slider(
    value: Float,
    onValueChange: (Float) -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
): Unit = TODO()
