"""Writes TensorFlow Lite Metadata, the standard description that Android's tools read.

The tables are written by hand, with the slots of `metadata_schema.fbs` in TFLite Support and
MediaPipe, because their own writers cannot be installed together with TensorFlow 2.21.
"""

from typing import Any

import flatbuffers
import numpy as np

NAME = "TFLITE_METADATA"  # name of the metadata buffer
IDENTIFIER = b"M001"
IMAGE_PROPERTIES, NORMALIZATION_OPTIONS = 2, 1  # members of their unions
RGB, GRAYSCALE = 1, 2


def standard_metadata(description: dict[str, Any]) -> bytes:
    """Converts a file's description to the standard form, a FlatBuffer of the table ModelMetadata.

    Args:
        description: from `tf_cyclegan.export.tflite.describe`, with its mode.
    """
    d = description
    size = "of any size" if d["resizable"] else f"of {d['width']}x{d['height']} pixels"
    b = flatbuffers.Builder()
    image = _tensor(b, d, "image", f"An image {size}.", d["input_channels"])
    fake = _tensor(b, d, "fake", "Its translation.", d["output_channels"])
    graph = _table(b, {0: b.CreateString(d["direction"]), 2: _list(b, image), 3: _list(b, fake)})
    sentence = f"CycleGAN generator {d['direction']}, {d['mode']}, for images {size}."
    name, about, oldest = (
        b.CreateString(d["name"]),
        b.CreateString(sentence),
        b.CreateString("1.0.0"),
    )
    model = _table(b, {0: name, 1: about, 3: _list(b, graph), 7: oldest})
    b.Finish(model, file_identifier=IDENTIFIER)
    return bytes(b.Output())


def _tensor(b, d, name, about, channels):
    b.StartObject(2)  # ImageSize
    b.PrependUint32Slot(0, d["width"], 0)
    b.PrependUint32Slot(1, d["height"], 0)
    size = b.EndObject()
    b.StartObject(2)  # ImageProperties
    b.PrependInt8Slot(0, RGB if channels == 3 else GRAYSCALE, 0)
    b.PrependUOffsetTRelativeSlot(1, size, 0)
    properties = b.EndObject()
    content = _union(b, IMAGE_PROPERTIES, properties)
    options = _table(b, {0: _floats(b, d["mean"]), 1: _floats(b, d["std"])})
    normalization = _union(b, NORMALIZATION_OPTIONS, options)
    low, high = d["range"]
    stats = _table(b, {0: _floats(b, high), 1: _floats(b, low)})
    slots = {0: b.CreateString(name), 1: b.CreateString(about), 3: content}
    return _table(b, slots | {4: _list(b, normalization), 5: stats})


def _table(b, slots):
    b.StartObject(max(slots) + 1)
    for slot, offset in slots.items():
        b.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return b.EndObject()


def _union(b, kind, member):
    b.StartObject(2)
    b.PrependUint8Slot(0, kind, 0)
    b.PrependUOffsetTRelativeSlot(1, member, 0)
    return b.EndObject()


def _list(b, item):
    b.StartVector(4, 1, 4)
    b.PrependUOffsetTRelative(item)
    return b.EndVector()


def _floats(b, value):
    return b.CreateNumpyVector(np.array([value], np.float32))
