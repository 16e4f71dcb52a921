package androidx.compose.ui.geometry

class Size internal constructor() {
    val width: Float get() = TODO()
    val height: Float get() = TODO()
}
