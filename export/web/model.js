/**
 * What a .tflite says about itself, and how it is set to another size.
 *
 * The file is a FlatBuffer. This reads the few tables that matter here; a field's number is its
 * place in TensorFlow's tensorflow/compiler/mlir/lite/schema/schema.fbs.
 */

import { Refusal } from "./refusal.js";

const MODEL = { subgraphs: 2, buffers: 4, metadata: 6 };
const SUBGRAPH = { tensors: 0, inputs: 1, outputs: 2 };
const TENSOR = { shape: 0, type: 1, signature: 7 };
const BUFFER = { data: 0 };
const METADATA = { name: 0, buffer: 1 };
const FLOAT32 = 0;

const MAX_PIXELS = 4096 * 4096; // what a canvas may have on most phones

/** One FlatBuffer table. Reading beyond the file's end raises a RangeError. */
class Table {
  #view;
  #at;

  constructor(view, at) {
    this.#view = view;
    this.#at = at;
  }

  /** Where a field's value lies, or 0 where the field is left out. */
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

  /** The bytes of a vector: none where the field is left out. */
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

/** The model's table, its input tensors and its output tensors. */
function open(buffer) {
  const view = new DataView(buffer);
  const model = new Table(view, view.getUint32(0, true));
  const graph = model.tables(MODEL.subgraphs)[0];
  const tensors = graph.tables(SUBGRAPH.tensors);
  const pick = (ends) => graph.ints(ends).map((index) => tensors[index]);
  return { model, inputs: pick(SUBGRAPH.inputs), outputs: pick(SUBGRAPH.outputs) };
}

/** The one tensor's shape, -1 for a free side, if it is a float32 image; else undefined. */
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

/**
 * Checks that a file is a model for this page, and reads its contract.
 *
 * @param {ArrayBuffer} buffer the file
 * @param {string} name what messages call it
 * @param {object} [beside] the contract from the JSON beside it, for a file that holds none
 * @returns {object} the contract. Sizes and channels are the tensors' own, whatever it says.
 * @throws {Refusal} if it is no such model
 */
export function readModel(buffer, name, beside) {
  if (String.fromCharCode(...new Uint8Array(buffer).subarray(4, 8)) !== "TFL3") {
    throw new Refusal(`${name} is no TensorFlow Lite model: choose a .tflite file.`);
  }
  let input, output, contract;
  try {
    const { model, inputs, outputs } = open(buffer);
    [input, output] = [imageShape(inputs), imageShape(outputs)];
    const buffers = model.tables(MODEL.buffers);
    for (const weights of buffers) weights.vector(BUFFER.data); // they end within the file
    const entries = model.tables(MODEL.metadata);
    const entry = entries.find((each) => each.text(METADATA.name) === "tf_cyclegan");
    contract = entry ? JSON.parse(buffers[entry.uint(METADATA.buffer)].text(BUFFER.data)) : beside;
    if (contract && !Number.isInteger(contract.multiple)) throw new TypeError("no contract");
  } catch {
    throw new Refusal(`${name} is damaged or incomplete: download or export it again.`);
  }
  if (!input || !output || input[1] !== output[1] || input[2] !== output[2]) {
    throw new Refusal(
      `${name} does not turn one image into another: its input and output must each be one ` +
        "float32 tensor [1, height, width, 1 or 3] of the same size.",
    );
  }
  const [, height, width, channels] = input;
  if (height * width > MAX_PIXELS) {
    throw new Refusal(`${name} computes ${width} × ${height} pixels: too many for a browser.`);
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
 * A copy of a resizable model that takes height x width. LiteRT.js cannot resize an input, so the
 * shapes of the input and the output are written into the file; the runtime infers all others.
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
