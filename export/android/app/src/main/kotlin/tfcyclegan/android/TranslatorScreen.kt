package tfcyclegan.android

import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.Context
import android.content.Intent
import android.net.Uri
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.CreateDocument
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.compose.foundation.Image
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.DropdownMenu
import androidx.compose.material3.DropdownMenuItem
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Slider
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableFloatStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.draw.drawWithContent
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.graphics.drawscope.clipRect
import androidx.compose.ui.layout.ContentScale
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp

@Composable
fun TranslatorScreen(
    state: State,
    onModel: (String) -> Unit,
    onImage: (Uri) -> Unit,
    onSave: (Uri) -> Unit,
    onError: (String) -> Unit,
) {
    Scaffold { insets ->
        Column(
            modifier = Modifier
                .padding(insets)
                .verticalScroll(rememberScrollState())
                .padding(16.dp),
            verticalArrangement = Arrangement.spacedBy(16.dp),
        ) {
            ModelMenu(state, onModel)
            Sources(enabled = state.model != null && !state.busy, onImage, onError)
            if (state.busy) LinearProgressIndicator(Modifier.fillMaxWidth())
            if (state.error != null) Text(state.error, color = MaterialTheme.colorScheme.error)
            if (state.translation != null) {
                Comparison(state.translation)
                Text(
                    stringResource(
                        R.string.report,
                        state.translation.model,
                        state.translation.accelerator,
                        state.translation.milliseconds,
                    ),
                )
                Targets(state.translation, enabled = !state.busy, onSave, onError)
            }
        }
    }
}

/** The model's name, and where there are several, all of them to choose from. */
@Composable
private fun ModelMenu(state: State, onModel: (String) -> Unit) {
    var open by remember { mutableStateOf(false) }
    if (state.model == null) return
    Box {
        OutlinedButton(onClick = { open = true }, enabled = state.models.size > 1 && !state.busy) {
            Text(stringResource(R.string.model, state.model))
        }
        DropdownMenu(expanded = open, onDismissRequest = { open = false }) {
            state.models.forEach { model ->
                DropdownMenuItem(
                    text = { Text(model) },
                    onClick = {
                        open = false
                        onModel(model)
                    },
                )
            }
        }
    }
}

/** Where images come from. */
@Composable
private fun Sources(enabled: Boolean, onImage: (Uri) -> Unit, onError: (String) -> Unit) {
    val context = LocalContext.current
    val photo = remember { sharedUri(context, sharedFile(context, "photo.jpg")) }
    val gallery = rememberLauncherForActivityResult(PickVisualMedia()) { uri ->
        if (uri != null) onImage(uri)
    }
    val camera = rememberLauncherForActivityResult(TakePicture()) { taken ->
        if (taken) onImage(photo)
    }
    val noCamera = stringResource(R.string.no_camera)
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        Button(
            onClick = { gallery.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) },
            enabled = enabled,
        ) {
            Text(stringResource(R.string.gallery))
        }
        Button(
            onClick = {
                try {
                    camera.launch(photo)
                } catch (_: ActivityNotFoundException) {
                    onError(noCamera)
                }
            },
            enabled = enabled,
        ) {
            Text(stringResource(R.string.camera))
        }
    }
}

/** The translation over the image, as far as the slider has uncovered it. */
@Composable
private fun Comparison(translation: Translation) {
    var fraction by remember { mutableFloatStateOf(0.5f) }
    val before = remember(translation) { translation.before.asImageBitmap() }
    val after = remember(translation) { translation.after.asImageBitmap() }
    Box {
        Image(
            bitmap = before,
            contentDescription = stringResource(R.string.before),
            modifier = Modifier.fillMaxWidth(),
            contentScale = ContentScale.FillWidth,
        )
        Image(
            bitmap = after,
            contentDescription = stringResource(R.string.after),
            modifier = Modifier.fillMaxWidth().drawWithContent {
                clipRect(left = size.width * fraction) { this@drawWithContent.drawContent() }
            },
            contentScale = ContentScale.FillWidth,
        )
    }
    val divider = stringResource(R.string.divider)
    Slider(
        value = fraction,
        onValueChange = { fraction = it },
        modifier = Modifier.semantics { contentDescription = divider },
    )
}

/** Where translations go. */
@Composable
private fun Targets(
    translation: Translation,
    enabled: Boolean,
    onSave: (Uri) -> Unit,
    onError: (String) -> Unit,
) {
    val context = LocalContext.current
    val document = rememberLauncherForActivityResult(CreateDocument("image/png")) { uri ->
        if (uri != null) onSave(uri)
    }
    val noTarget = stringResource(R.string.no_target)
    fun start(block: () -> Unit) = try {
        block()
    } catch (_: ActivityNotFoundException) {
        onError(noTarget)
    }
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedButton(
            onClick = { start { document.launch("translation.png") } },
            enabled = enabled,
        ) {
            Text(stringResource(R.string.save))
        }
        OutlinedButton(onClick = { start { share(context, translation) } }, enabled = enabled) {
            Text(stringResource(R.string.share))
        }
    }
}

private fun share(context: Context, translation: Translation) {
    val uri = sharedUri(context, translation.file)
    val intent = Intent(Intent.ACTION_SEND).apply {
        type = "image/png"
        putExtra(Intent.EXTRA_STREAM, uri)
        // The right to read goes with the clip, and it is what the sheet's preview shows.
        clipData = ClipData.newRawUri(null, uri)
        addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
    }
    context.startActivity(Intent.createChooser(intent, null))
}
