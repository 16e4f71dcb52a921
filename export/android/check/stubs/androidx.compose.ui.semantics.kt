package androidx.compose.ui.semantics

import androidx.compose.ui.Modifier

interface SemanticsPropertyReceiver
var SemanticsPropertyReceiver.contentDescription: String
    get() = TODO()
    set(value) = TODO(value)
fun Modifier.semantics(
    mergeDescendants: Boolean = false, properties: SemanticsPropertyReceiver.() -> Unit,
): Modifier = TODO()
