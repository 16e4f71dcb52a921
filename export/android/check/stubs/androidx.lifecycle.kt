package androidx.lifecycle

import android.app.Application
import kotlinx.coroutines.CoroutineScope

abstract class ViewModel {
    protected open fun onCleared(): Unit = TODO()
}
open class AndroidViewModel(private val application: Application) : ViewModel()
val ViewModel.viewModelScope: CoroutineScope get() = TODO()
