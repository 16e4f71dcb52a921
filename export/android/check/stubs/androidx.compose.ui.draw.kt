package androidx.compose.ui.draw

import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.drawscope.ContentDrawScope

fun Modifier.drawWithContent(onDraw: ContentDrawScope.() -> Unit): Modifier = TODO()
