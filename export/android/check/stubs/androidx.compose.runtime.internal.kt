/** What the Compose compiler calls in the code that it makes of composables. */
package androidx.compose.runtime.internal

import androidx.compose.runtime.Composable
import androidx.compose.runtime.Composer

annotation class StabilityInferred(val parameters: Int)
annotation class FunctionKeyMeta(val key: Int, val startOffset: Int, val endOffset: Int)
annotation class FunctionKeyMetaClass(val file: String)

interface ComposableLambda
fun composableLambda(
    composer: Composer, key: Int, tracked: Boolean, block: Any,
): ComposableLambda = TODO()
fun composableLambdaInstance(key: Int, tracked: Boolean, block: Any): ComposableLambda = TODO()
@Composable
fun rememberComposableLambda(key: Int, tracked: Boolean, block: Any): ComposableLambda = TODO()
