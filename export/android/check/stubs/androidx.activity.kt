package androidx.activity

import android.app.Activity
import android.os.Bundle
import androidx.lifecycle.ViewModel

open class ComponentActivity : Activity() {
    protected open fun onCreate(savedInstanceState: Bundle?): Unit = TODO()
}
fun ComponentActivity.enableEdgeToEdge(): Unit = TODO()
inline fun <reified VM : ViewModel> ComponentActivity.viewModels(): Lazy<VM> = TODO()
