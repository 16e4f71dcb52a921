package androidx.activity.result

import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia.VisualMediaType

class PickVisualMediaRequest internal constructor()
fun PickVisualMediaRequest(mediaType: VisualMediaType): PickVisualMediaRequest = TODO()
