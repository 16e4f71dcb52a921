/**
 * Reads the description of a .tflite file, and sets the file to another size.
 *
 * The file is a FlatBuffer. Only a few of its tables are read here; a field's number is its
 * position in TensorFlow's tensorflow/compiler/mlir/lite/schema/schema.fbs.
 */

import { Refusal } from "./refusal.js";

const MODEL = { subgraphs: 2, buffers: 4, metadata: 6 };
const SUBGRAPH = { tensors: 0, inputs: 1, outputs: 2 };
const TENSOR = { shape: 0, type: 1, signature: 7 };
const BUFFER = { data: 0 };
const METADATA = { name: 0, buffer: 1 };
const FLOAT32 = 0;

const MAX_PIXELS = 4096 * 4096; // limit of a canvas on most phones

/** A FlatBuffer table. Reading beyond the end of the file throws a RangeError. */
class Table {
  #view;
  #at;

  constructor(view, at) {
    this.#view = view;
    this.#at = at;
  }

  /** Returns the position of a field's value, or 0 if the field is absent. */
  #field(number) {
    const fields = this.#at - this.#view.getInt32(this.#at, true);
    const entry = 4 + 2 * number;
    if (entry >= this.#view.getUint16(fields, true)) return 0;
    const offset = this.#view.getUint16(fields + entry, true);
    return offset && this.#at + offset;
  }

  byte(number) {
    const at = this.#field(number);
    return at ? this.#view.getUint8(at) : 0;
  }

  uint(number) {
    const at = this.#field(number);
    return at ? this.#view.getUint32(at, true) : 0;
  }

  /** Returns the bytes of a vector, which is empty if the field is absent. */
  vector(number, bytesEach = 1) {
    const field = this.#field(number);
    if (!field) return new DataView(new ArrayBuffer(0));
    const at = field + this.#view.getUint32(field, true);
    return new DataView(this.#view.buffer, at + 4, this.#view.getUint32(at, true) * bytesEach);
  }

  text(number) {
    return new TextDecoder().decode(this.vector(number));
  }

  ints(number) {
    const items = this.vector(number, 4);
    return Array.from({ length: items.byteLength / 4 }, (_, i) => items.getInt32(4 * i, true));
  }

  tables(number) {
    const items = this.vector(number, 4);
    return Array.from({ length: items.byteLength / 4 }, (_, i) => {
      const at = items.byteOffset + 4 * i;
      return new Table(this.#view, at + this.#view.getUint32(at, true));
    });
  }
}

/** Returns the model's table, its input tensors and its output tensors. */
function open(buffer) {
  const view = new DataView(buffer);
  const model = new Table(view, view.getUint32(0, true));
  const graph = model.tables(MODEL.subgraphs)[0];
  const tensors = graph.tables(SUBGRAPH.tensors);
  const pick = (ends) => graph.ints(ends).map((index) => tensors[index]);
  return { model, inputs: pick(SUBGRAPH.inputs), outputs: pick(SUBGRAPH.outputs) };
}

/** Returns the shape of a single float32 image, with -1 for a free side; otherwise undefined. */
function imageShape(tensors) {
  const [tensor] = tensors;
  const signature = tensor.ints(TENSOR.signature);
  const shape = signature.length ? signature : tensor.ints(TENSOR.shape);
  const fits =
    tensors.length === 1 &&
    tensor.byte(TENSOR.type) === FLOAT32 &&
    shape.length === 4 &&
    Math.abs(shape[0]) === 1 &&
    shape[1] > 0 === shape[2] > 0 && // both fixed or both free
    [1, 3].includes(shape[3]);
  return fits ? shape : undefined;
}

/** Returns whether a contract has the values of pixels that this page computes. */
function takesOurValues({ format, layout, range }) {
  return format === 1 && layout === "NHWC" && String(range) === "-1,1";
}

/**
 * Checks that a file is a model for this page, and reads its contract.
 *
 * @param {ArrayBuffer} buffer the file
 * @param {string} name the file's name in messages
 * @param {object} [beside] the contract from the model's .json, for a file without one
 * @returns {object} the contract, with the sizes and channels of the tensors
 * @throws {Refusal} if the file is not such a model
 */
export function readModel(buffer, name, beside) {
  if (String.fromCharCode(...new Uint8Array(buffer).subarray(4, 8)) !== "TFL3") {
    throw new Refusal(`${name} is not a TensorFlow Lite model: choose a .tflite file.`);
  }
  let input, output, contract;
  try {
    const { model, inputs, outputs } = open(buffer);
    [input, output] = [imageShape(inputs), imageShape(outputs)];
    const buffers = model.tables(MODEL.buffers);
    for (const weights of buffers) weights.vector(BUFFER.data); // throws if the file is cut short
    const entries = model.tables(MODEL.metadata);
    const entry = entries.find((each) => each.text(METADATA.name) === "tf_cyclegan");
    contract = entry ? JSON.parse(buffers[entry.uint(METADATA.buffer)].text(BUFFER.data)) : beside;
    if (contract && !(Number.isInteger(contract.multiple) && contract.multiple > 0)) {
      throw new TypeError("no contract");
    }
  } catch {
    throw new Refusal(`${name} is damaged or incomplete: download or export it again.`);
  }
  if (contract && !takesOurValues(contract)) {
    throw new Refusal(
      `${name} expects other values than this page computes: use a model whose description has the ` +
        'format 1, the layout "NHWC" and the range [-1, 1].',
    );
  }
  if (!input || !output || input[1] !== output[1] || input[2] !== output[2]) {
    throw new Refusal(
      `${name} does not turn one image into another: its input and output must each be one ` +
        "float32 tensor [1, height, width, 1 or 3] of the same size.",
    );
  }
  const [, height, width, channels] = input;
  if (height * width > MAX_PIXELS) {
    throw new Refusal(`${name} needs ${width} × ${height} pixels: too many for a browser.`);
  }
  const resizable = height < 0;
  return {
    name: name.replace(/\.tflite$/i, ""),
    multiple: 4,
    ...contract,
    ...(resizable ? {} : { height, width }),
    input_channels: channels,
    output_channels: output[3],
    resizable,
    bytes: buffer.byteLength,
  };
}

/**
 * Returns a copy of a resizable model for height x width. LiteRT.js cannot resize inputs, so the
 * shapes of input and output are written into the file; the runtime infers all others.
 *
 * @param {ArrayBuffer} buffer
 */
export function resized(buffer, height, width) {
  const copy = buffer.slice(0);
  const { inputs, outputs } = open(copy);
  for (const tensor of [...inputs, ...outputs]) {
    for (const field of [TENSOR.shape, TENSOR.signature]) {
      const shape = tensor.vector(field, 4);
      [1, height, width].forEach((side, axis) => shape.setInt32(4 * axis, side, true));
    }
  }
  return copy;
}
