package androidx.compose.runtime

import kotlin.reflect.KProperty

@Target(
    AnnotationTarget.FUNCTION,
    AnnotationTarget.TYPE,
    AnnotationTarget.TYPE_PARAMETER,
    AnnotationTarget.PROPERTY_GETTER,
)
annotation class Composable

@Target(AnnotationTarget.TYPE)
annotation class DisallowComposableCalls

interface State<out T> {
    val value: T
}
interface MutableState<T> : State<T> {
    override var value: T
}
interface MutableFloatState {
    var floatValue: Float
}
fun <T> mutableStateOf(value: T): MutableState<T> = TODO()
fun mutableFloatStateOf(value: Float): MutableFloatState = TODO()
operator fun <T> State<T>.getValue(thisObj: Any?, property: KProperty<*>): T = value
operator fun <T> MutableState<T>.setValue(thisObj: Any?, property: KProperty<*>, value: T): Unit =
    TODO()
operator fun MutableFloatState.getValue(thisObj: Any?, property: KProperty<*>): Float = floatValue
operator fun MutableFloatState.setValue(
    thisObj: Any?, property: KProperty<*>, value: Float,
): Unit = TODO()

@Composable
inline fun <T> remember(crossinline calculation: @DisallowComposableCalls () -> T): T =
    calculation()
@Composable
inline fun <T> remember(
    key1: Any?, crossinline calculation: @DisallowComposableCalls () -> T,
): T = calculation()
@Composable
inline fun <T> remember(
    key1: Any?, key2: Any?, crossinline calculation: @DisallowComposableCalls () -> T,
): T = calculation()
@Composable
inline fun <T> remember(
    key1: Any?, key2: Any?, key3: Any?, crossinline calculation: @DisallowComposableCalls () -> T,
): T = calculation()
@Composable
inline fun <T> remember(
    vararg keys: Any?, crossinline calculation: @DisallowComposableCalls () -> T,
): T = calculation()

abstract class CompositionLocal<T> {
    val current: T
        @Composable get() = TODO()
}
