"""Serve a SavedModel with TF Serving's protocol and C++ loader, for tests without TF Serving.

    python export/serving/loader_server.py --model_base_path=models/summer2winter

TensorFlow Serving itself is only available as a Docker image, but pip installs its parts: the C++
loader and runtime in TensorFlow's wheel, called here through their C API, and the gRPC services in
tensorflow-serving-api. This server combines them, so that you can try a model, its warm-up requests
and its clients without Docker. It serves the newest version of one model: Predict,
GetModelMetadata and GetModelStatus over gRPC, and the same over REST. It does not support batching,
reloading or metrics, and only runs on Linux.
"""

import base64
import ctypes
import json
import math
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tf_cyclegan.cli import command

MAX_BYTES = 64 * 2**20  # of a request; a float32 image of 2048 x 2048 pixels has 48 MiB
NOT_FOUND, INVALID_ARGUMENT = 5, 3  # in google.rpc.Code, which gRPC and TensorFlow share


@dataclass(frozen=True)
class Options:
    """The flags, named like those of TF Serving."""

    model_base_path: str
    """The model's folder: its name is the model's name, and the highest version is served."""
    port: int = 8500
    """Port for gRPC; 0 selects a free one."""
    rest_api_port: int = 8501
    """Port for REST; 0 selects a free one."""


class Refused(Exception):
    """A request failed, with a code of google.rpc.Code and a reason."""

    def __init__(self, code: int, message: str):
        super().__init__(message[:2000])  # gRPC trailers are limited to 8 KiB
        self.code = code


# === TensorFlow's C API ===


class Pointer(ctypes.c_void_p):
    """An address that ctypes does not turn into an int."""


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = [("data", Pointer), ("length", ctypes.c_size_t), ("deallocator", Pointer)]


class Place(ctypes.Structure):
    """TF_Output: a tensor in the graph."""

    _fields_ = [("operation", Pointer), ("index", ctypes.c_int)]


String = ctypes.c_char * 24  # TF_TString

LIBRARIES = [
    Path(tf.sysconfig.get_lib(), f"libtensorflow_{name}.so.2") for name in ("framework", "cc")
]


def load_library():
    """Loads the C API. Functions that are not listed return an int or nothing."""
    ctypes.CDLL(str(LIBRARIES[0]), ctypes.RTLD_GLOBAL)
    c = ctypes.CDLL(str(LIBRARIES[1]))
    for kind, names in {
        Pointer: "NewGraph NewSessionOptions NewStatus LoadSessionFromSavedModel AllocateTensor "
        "GraphOperationByName TensorData StringGetDataPointer",
        ctypes.POINTER(Buffer): "NewBuffer",
        ctypes.c_char_p: "Message",
        ctypes.c_int64: "Dim",
        ctypes.c_size_t: "TensorByteSize StringGetSize",
    }.items():
        for name in names.split():
            getattr(c, f"TF_{name}").restype = kind
    return c


class SavedModel:
    """One version of a model in the C++ runtime.

    Attributes:
        signatures: a dict from name to `SignatureDef`.
    """

    def __init__(self, folder: Path):
        self.c = load_library()
        self.turns = threading.Semaphore(2)  # requests at a time, since each takes much memory
        self.graph, meta_graph = self.c.TF_NewGraph(), self.c.TF_NewBuffer()
        self.session = self._checked(
            self.c.TF_LoadSessionFromSavedModel,
            *(self.c.TF_NewSessionOptions(), None, bytes(folder)),
            *((ctypes.c_char_p * 1)(b"serve"), 1, self.graph, meta_graph),
        )
        data = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        signatures = meta_graph_pb2.MetaGraphDef.FromString(data).signature_def
        self.signatures = {k: v for k, v in signatures.items() if not k.startswith("__")}

    def signature(self, name: str):
        """Returns a `SignatureDef`; "" is serving_default."""
        if (name or "serving_default") not in self.signatures:
            raise Refused(INVALID_ARGUMENT, f"Serving signature name: {name!r} not found")
        return self.signatures[name or "serving_default"]

    def predict(self, name: str, inputs: dict) -> dict:
        """Runs a signature on a dict of arrays and returns one; strings are bytes objects.

        Raises:
            Refused: the inputs do not match the signature, or TensorFlow failed.
        """
        signature = self.signature(name)
        if set(inputs) != set(signature.inputs):
            raise Refused(INVALID_ARGUMENT, f"inputs {list(inputs)} for {list(signature.inputs)}")
        feeds = self._places(signature.inputs[key].name for key in inputs)
        fetches = self._places(info.name for info in signature.outputs.values())
        given = [self._to_tensor(array) for array in inputs.values()]
        results = (Pointer * len(fetches))()
        try:
            with self.turns:
                self._checked(
                    self.c.TF_SessionRun,
                    *(self.session, None),
                    *(feeds, (Pointer * len(given))(*[tensor for tensor, _ in given]), len(given)),
                    *(fetches, results, len(fetches)),
                    *(None, 0, None),
                )
            return dict(zip(signature.outputs, map(self._to_array, results), strict=True))
        finally:
            for tensor in [*[tensor for tensor, _ in given], *filter(None, results)]:
                self.c.TF_DeleteTensor(tensor)

    def _checked(self, function, *arguments):
        """Calls a function whose last argument is a status, and raises its error."""
        status = self.c.TF_NewStatus()
        try:
            result = function(*arguments, status)
            if code := self.c.TF_GetCode(status):
                raise Refused(code, self.c.TF_Message(status).decode(errors="replace"))
            return result
        finally:
            self.c.TF_DeleteStatus(status)

    def _places(self, names):
        parts = [name.split(":") for name in names]
        return (Place * len(parts))(
            *[(self.c.TF_GraphOperationByName(self.graph, n.encode()), int(i)) for n, i in parts]
        )

    def _to_tensor(self, array):
        """Converts an array to a TF_Tensor; also returns the data that must outlive it."""
        kind, shape = tf.as_dtype(array.dtype), (ctypes.c_int64 * array.ndim)(*array.shape)
        size = array.nbytes if kind != tf.string else array.size * ctypes.sizeof(String)
        tensor = self.c.TF_AllocateTensor(
            kind.as_datatype_enum, shape, array.ndim, ctypes.c_size_t(size)
        )
        address = self.c.TF_TensorData(tensor)
        if kind != tf.string:
            array = np.ascontiguousarray(array)
            ctypes.memmove(address, array.ctypes.data, size)
            return tensor, None
        texts = [bytes(text) for text in array.flat]
        for text, string in zip(texts, self._strings(address, len(texts)), strict=True):
            self.c.TF_StringInit(string)
            self.c.TF_StringAssignView(string, text, ctypes.c_size_t(len(text)))
        return tensor, texts

    def _to_array(self, tensor):
        kind, address = tf.as_dtype(self.c.TF_TensorType(tensor)), self.c.TF_TensorData(tensor)
        shape = [self.c.TF_Dim(tensor, i) for i in range(self.c.TF_NumDims(tensor))]
        if kind != tf.string:
            data = ctypes.string_at(address, self.c.TF_TensorByteSize(tensor))
            return np.frombuffer(data, kind.as_numpy_dtype).reshape(shape)
        array = np.empty(shape, object)
        for i, string in enumerate(self._strings(address, array.size)):
            data, size = self.c.TF_StringGetDataPointer(string), self.c.TF_StringGetSize(string)
            array.flat[i] = ctypes.string_at(data, size)
        return array

    @staticmethod
    def _strings(address, count):
        size = ctypes.sizeof(String)
        return [Pointer((address.value or 0) + i * size) for i in range(count)]


# === Requests of both protocols ===


class Servable:
    """The newest version in a model's folder, warmed up."""

    def __init__(self, folder: Path):
        versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
        if not versions:
            raise ValueError(
                f"{folder} contains no version: export one with tf-cyclegan export saved-model."
            )
        self.name, self.version = folder.resolve().name, max(versions)
        path = folder / str(self.version)
        try:
            self.model = SavedModel(path)
            self.warmed_up = self._warm_up(path / "assets.extra" / "tf_serving_warmup_requests")
        except Refused as error:
            raise ValueError(f"{path} cannot be served: {' '.join(str(error).split())}") from None

    def _warm_up(self, path):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator() if path.exists() else []
        requests = [
            prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            for record in records
        ]
        for request in requests:
            self.predict(request)
        return len(requests)

    def check(self, name: str, version: int | None):
        """Raises Refused unless the name, and the version if given, are those of this model."""
        if name != self.name or version not in (None, self.version):
            wanted = "Latest" if version is None else f"Specific({version})"
            raise Refused(NOT_FOUND, f"Servable not found for request: {wanted} {name}")

    def predict(self, request):
        """Answers a PredictRequest with a PredictResponse."""
        try:
            for tensor in request.inputs.values():  # make_ndarray repeats one value to any shape
                if 4 * math.prod(side.size for side in tensor.tensor_shape.dim) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
            inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        except (TypeError, ValueError) as error:
            raise Refused(INVALID_ARGUMENT, f"not a tensor: {error}") from None
        response = predict_pb2.PredictResponse()
        for key, array in self.model.predict(request.model_spec.signature_name, inputs).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = self.version
        return response

    def metadata(self):
        """Returns a GetModelMetadataResponse with the signatures."""
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.model.signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self):
        """Returns a GetModelStatusResponse: the version is available once the server answers."""
        status = get_model_status_pb2.ModelVersionStatus(version=self.version, state="AVAILABLE")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=[status])


# === gRPC ===


def start_grpc(servable: Servable, port: int) -> tuple[grpc.Server, int]:
    """Starts both services; returns the server, which you must keep, and its port."""
    codes = {code.value[0]: code for code in grpc.StatusCode}

    def answered(answer):
        def method(self, request, context):
            spec = request.model_spec
            try:
                servable.check(spec.name, spec.version.value if spec.HasField("version") else None)
                return answer(request)
            except Refused as error:
                context.abort(codes[error.code], str(error))

        return method

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict = answered(servable.predict)
        GetModelMetadata = answered(lambda _: servable.metadata())

    class Model(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = answered(lambda _: servable.status())

    limits = [(f"grpc.max_{way}_message_length", MAX_BYTES) for way in ("receive", "send")]
    server = grpc.server(ThreadPoolExecutor(8), options=[*limits, ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Model(), server)
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} cannot be used ({error}): use another --port.") from None
    server.start()
    return server, port


# === REST ===

PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?(/metadata|:predict)?")


def answer_rest(servable: Servable, method: str, path: str, body: bytes) -> dict:
    """Returns the JSON object that answers a request, or raises Refused."""
    match = PATH.fullmatch(path)
    if not match or (method == "POST") != (match[3] == ":predict"):
        raise Refused(NOT_FOUND, f"Malformed request: {method} {path}")
    servable.check(unquote(match[1]), int(match[2]) if match[2] else None)
    if match[3] == ":predict":
        return predict_json(servable.model, body)
    message = servable.metadata() if match[3] else servable.status()
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def predict_json(model: SavedModel, body: bytes) -> dict:
    """Answers a predict request with rows ("instances") or columns ("inputs")."""
    try:
        request = json.loads(body)
        name = request.get("signature_name", "")
        signature = model.signature(name)
        rows, columns = request.get("instances"), request.get("inputs")
        if rows is not None:
            columns = {k: [_named(row, k) for row in rows] for k in signature.inputs}
        inputs = {k: _array(_named(columns, k), v.dtype) for k, v in signature.inputs.items()}
    except (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(INVALID_ARGUMENT, f"JSON Parse error: {error}") from None
    outputs = {key: _json(key, array) for key, array in model.predict(name, inputs).items()}
    if len(outputs) == 1:
        return {"outputs" if rows is None else "predictions": next(iter(outputs.values()))}
    if rows is None:
        return {"outputs": outputs}
    return {
        "predictions": [
            dict(zip(outputs, v, strict=True)) for v in zip(*outputs.values(), strict=True)
        ]
    }


def _named(value, key):
    """Returns a named input; a single input may be given without its name."""
    return value[key] if isinstance(value, dict) and key in value else value


def _array(value, kind):
    def decoded(value):
        if isinstance(value, list):
            return [decoded(item) for item in value]
        if isinstance(value, dict) and set(value) == {"b64"}:
            return base64.b64decode(value["b64"], validate=True)
        return value.encode()

    if kind == tf.string.as_datatype_enum:
        return np.array(decoded(value), object)
    return np.array(value, tf.as_dtype(kind).as_numpy_dtype)


def _json(key, array):
    if array.dtype != object:
        return array.tolist()
    if key.endswith("_bytes"):
        return [{"b64": base64.b64encode(text).decode()} for text in array]
    return [text.decode() for text in array]


class RestHandler(BaseHTTPRequestHandler):
    """Handles requests for the `servable` of its server."""

    timeout = 60  # seconds without a byte

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        size = self.headers.get("Content-Length", "")
        if size.isdecimal() and len(size) < 12 and int(size) <= MAX_BYTES:
            self.answer(self.rfile.read(int(size)))
        else:
            self.reply(413, {"error": f"send a Content-Length of at most {MAX_BYTES}"})

    def answer(self, body):
        try:
            self.reply(200, answer_rest(self.server.servable, self.command, self.path, body))
        except Refused as error:
            code = {INVALID_ARGUMENT: 400, NOT_FOUND: 404}.get(error.code, 500)
            self.reply(code, {"error": str(error)})

    def reply(self, code, answer):
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Does not log requests."""


class RestServer(ThreadingHTTPServer):
    """A server with one thread per connection; `SavedModel` limits how many compute at a time."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, servable: Servable, port: int):
        self.servable = servable
        super().__init__(("127.0.0.1", port), RestHandler)


def main(options: Options) -> int:
    """Serves until it is interrupted, and returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not all(0 <= port < 2**16 for port in (options.port, options.rest_api_port)):
        raise ValueError("a port is a number from 0 to 65535: use another one.")
    servable = Servable(Path(options.model_base_path))
    rest = RestServer(servable, options.rest_api_port)
    services, port = start_grpc(servable, options.port)
    print(f"gRPC 127.0.0.1:{port}")
    print(f"REST 127.0.0.1:{rest.server_port}")
    print(f"{servable.name} {servable.version}: {servable.warmed_up} warm-up requests", flush=True)
    try:
        rest.serve_forever()
    except KeyboardInterrupt:
        services.stop(None)
    return 0


if __name__ == "__main__":
    command.run(main, command.parse(Options, __doc__))
