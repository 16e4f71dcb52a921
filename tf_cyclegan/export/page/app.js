/**
 * The page translates a photo with a model.
 *
 * `window.lastResult` holds the model's last output, for tests and the console:
 * {output: Float32Array [1, height, width, channels] in [-1, 1], height, width, channels}.
 */

import { readModel, resized } from "./model.js";
import { draw, megabytes, readPhoto } from "./photo.js";
import { crop, fit, toFloat, toPixels } from "./images.js";
import { Refusal } from "./refusal.js";
import { Runner } from "./runner.js";

const MAX_MODEL_BYTES = 2 ** 30;
const NO_GPU = "This browser has no WebGPU, so the CPU was used.";
const NO_GPU_FOR_MODEL = "WebGPU cannot run this model at this size, so the CPU was used.";

const $ = (id) => document.getElementById(id);

const models = []; // {contract, buffer: the .tflite, once it is loaded}
let photo; // {name, bitmap}
let job; // AbortController of the current translation
let compiled; // {key, runner, engine}: the model that ran last, kept for the next photo

// === Input from the user ===

async function takeFiles(files) {
  const model = files.find((file) => /\.tflite$/i.test(file.name));
  const description = files.find((file) => /\.json$/i.test(file.name));
  const image = files.find((file) => file !== model && file !== description);
  if (description && !model) {
    throw new Refusal(`${description.name} only describes a model: open its .tflite with it.`);
  }
  const ownModel = model && (await readOwnModel(model, description));
  const bitmap = image && (await readPhoto(image));
  if (ownModel) $("model").value = addModel(ownModel);
  if (bitmap) photo = { name: image.name, bitmap };
  if (ownModel || bitmap) await translate();
}

async function readOwnModel(file, description) {
  if (file.size > MAX_MODEL_BYTES) {
    throw new Refusal(`${file.name} has ${megabytes(file.size)} MB: too large for a browser.`);
  }
  const beside = description && (await readDescription(description));
  const buffer = await file.arrayBuffer();
  return { contract: readModel(buffer, file.name, beside), buffer };
}

async function readDescription(file) {
  const contract = await file.text().then(JSON.parse).catch(() => undefined);
  if (contract?.format !== 1) {
    throw new Refusal(`${file.name} does not describe a model: leave it out.`);
  }
  return contract;
}

/** @returns {string} the model's value in the picker */
function addModel(model) {
  const { name, direction, mode } = model.contract;
  const value = String(models.push(model) - 1);
  const label = [name, direction, sizeOf(model.contract), mode].filter(Boolean).join(", ");
  $("model").add(new Option(label, value));
  return value;
}

async function openCamera() {
  try {
    const video = { facingMode: "environment", width: { ideal: 1920 } };
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video });
  } catch {
    throw new Refusal("The camera cannot be used: allow it in the browser, or choose a photo.");
  }
  $("viewfinder").showModal();
}

async function shoot() {
  photo = { name: "camera", bitmap: await createImageBitmap($("video")) };
  $("viewfinder").close();
  await translate();
}

function closeCamera() {
  for (const track of $("video").srcObject.getTracks()) track.stop();
  $("shoot").disabled = true; // until the camera delivers an image again
}

// === The translation ===

/** Translates the photo with the selected model. Aborts the current translation, if any. */
async function translate() {
  job?.abort();
  const model = models[$("model").value];
  if (!model) throw new Refusal("There is no model yet: open a .tflite of your own.");
  showModel(model.contract);
  if (!photo) return;
  const { signal } = (job = new AbortController());
  try {
    const { bitmap, name } = photo;
    const size = sizeFor(bitmap, model.contract);
    const part = crop(bitmap.width, bitmap.height, size.width, size.height);
    const rgba = draw(bitmap, part, $("before"), size);
    show("busy", size);
    const input = toFloat(rgba, model.contract.input_channels);
    const result = await compute(model, input, size, signal);
    await showOutput(result.output, size, model.contract, name);
    showReport(result, caption(model.contract, bitmap, part, size));
    if (!signal.aborted) show("done");
  } catch (error) {
    if (signal.aborted) return;
    show("photo");
    if (error instanceof Refusal) throw error;
    console.error(error);
    throw new Refusal(
      `${model.contract.name} could not translate this photo: the file is damaged, uses ` +
        "operations that LiteRT.js lacks, or needs more memory than is available. Try a " +
        "smaller size or another model.",
    );
  }
}

function sizeFor(bitmap, { resizable, width, height, multiple }) {
  if (!resizable) return { width, height };
  return fit(bitmap.width, bitmap.height, Number($("limit").value), multiple);
}

/** Loads, compiles and runs a model on the selected accelerator, or on the CPU if that fails. */
async function compute(model, input, size, signal) {
  const start = performance.now();
  if (!model.buffer) {
    const buffer = await download(model.contract, signal);
    model.contract = readModel(buffer, model.contract.file);
    model.buffer = buffer;
  }
  const chosen = document.querySelector("[name=accelerator]:checked").value;
  try {
    const result = await run(model, chosen, input, size, signal, start);
    return { ...result, note: result.accelerator === chosen ? "" : NO_GPU_FOR_MODEL };
  } catch (error) {
    if (signal.aborted || chosen === "wasm") throw error;
    console.warn(error);
    const note = error.message === "no WebGPU" ? NO_GPU : NO_GPU_FOR_MODEL;
    return { ...(await run(model, "wasm", input, size, signal, start)), note };
  }
}

/** Downloads the file of a listed model, and updates the progress bar. */
async function download({ file, bytes }, signal) {
  const buffer = new Uint8Array(bytes);
  let length = 0;
  try {
    const response = await fetch(`models/${encodeURIComponent(file)}`, { signal });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      buffer.set(part.value, length); // throws a RangeError if the file is larger than listed
      length += part.value.length;
      progress(`Loading the model: ${megabytes(length)} of ${megabytes(bytes)} MB`, length / bytes);
    }
    if (length < bytes) throw new Error(`${length} of ${bytes} bytes`);
  } catch (error) {
    console.warn(error);
    throw new Refusal(`${file} could not be loaded: check the connection and try again.`);
  }
  return buffer.buffer;
}

async function run(model, accelerator, input, { height, width }, signal, start) {
  const key = [models.indexOf(model), accelerator, height, width].join();
  if (compiled?.key !== key) {
    compiled?.runner.stop();
    compiled = { key, runner: new Runner() };
  }
  const mine = compiled;
  const stop = () => {
    mine.runner.stop();
    if (compiled === mine) compiled = undefined;
  };
  signal.addEventListener("abort", stop);
  try {
    progress("Starting the model");
    const { resizable, input_channels } = model.contract;
    const buffer = resizable ? resized(model.buffer, height, width) : model.buffer;
    mine.engine ??= await mine.runner.compile(buffer, accelerator);
    const loading = performance.now() - start;
    progress("Translating");
    const result = await mine.runner.run(input, [1, height, width, input_channels]);
    return { ...result, ...mine.engine, loading };
  } catch (error) {
    stop();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

// === Output of the page ===

/** @param {"empty" | "photo" | "busy" | "done"} state selects in style.css what is visible */
function show(state, size) {
  document.body.dataset.state = state;
  if (size) $("compare").style.setProperty("--aspect", size.width / size.height);
}

function complain(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}

/** @param {number} [part] from 0 to 1; without it, the progress bar is indeterminate */
function progress(sentence, part) {
  $("doing").textContent = sentence;
  if (part === undefined) $("progress").removeAttribute("value");
  else $("progress").value = part;
}

function showModel(contract) {
  $("sizes").hidden = !contract.resizable;
  const size = `${megabytes(contract.bytes)} MB`;
  const details = [contract.direction, sizeOf(contract), contract.mode, size, workOf(contract)];
  $("details").textContent = details.filter(Boolean).join(" · ");
}

/** Returns how much a model computes, which tells a student from its teacher. */
function workOf({ multiply_adds: operations, resizable, width, height }) {
  if (!operations) return ""; // a file of an earlier version
  const millions = (operations / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 });
  const at = resizable ? ` at ${width} × ${height}` : "";
  return `${millions} million multiply-adds${at}`;
}

function sizeOf({ resizable, width, height }) {
  return resizable ? "any size" : `${width} × ${height}`;
}

async function showOutput(output, { width, height }, contract, photoName) {
  const channels = contract.output_channels;
  window.lastResult = { output, height, width, channels };
  const canvas = $("after");
  Object.assign(canvas, { width, height });
  const pixels = new ImageData(toPixels(output, channels), width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  const link = $("download");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  link.download = `${photoName.replace(/\.\w+$/, "")}-${contract.direction ?? contract.name}.png`;
}

function showReport({ note, loading, milliseconds, accelerator, whole, threads }, caption) {
  $("note").textContent = note;
  $("caption").textContent = caption;
  $("loading").textContent = duration(loading);
  $("running").textContent = duration(milliseconds);
  const cpu = threads > 1 ? `CPU (wasm), ${threads} threads` : "CPU (wasm)";
  const gpu = whole ? "GPU (WebGPU)" : "GPU (WebGPU), but some operators on the CPU";
  $("engine").textContent = accelerator === "webgpu" ? gpu : cpu;
}

function caption({ resizable, multiple }, bitmap, part, { width, height }) {
  const size = `${width} × ${height} pixels`;
  if (resizable) return `The photo at ${size}, both multiples of ${multiple}.`;
  const whole = bitmap.width - part.width < 1 && bitmap.height - part.height < 1;
  const what = whole ? "The photo" : "The middle of the photo, cropped and";
  return `${what} scaled to ${size}: this model works only at that size.`;
}

function duration(milliseconds) {
  return milliseconds < 1000
    ? `${Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}

// === Controls ===

/** Adds a listener; if its action throws a Refusal, the page shows the message. */
function on(target, type, action) {
  target.addEventListener(type, async (event) => {
    complain("");
    try {
      await action(event);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      complain(error.message);
    }
  });
}

for (const id of ["photo", "own"]) {
  on($(id), "change", async ({ target }) => {
    const files = [...target.files];
    target.value = ""; // allows the same file to be chosen again
    await takeFiles(files);
  });
}
for (const id of ["model", "limit", "accelerators"]) on($(id), "change", translate);
on($("camera"), "click", openCamera);
on($("video"), "loadeddata", () => ($("shoot").disabled = false));
on($("shoot"), "click", shoot);
on($("viewfinder"), "close", closeCamera);
on($("stop"), "click", () => {
  job.abort();
  show("photo");
});
on(document, "drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  await takeFiles([...event.dataTransfer.files]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
$("split").addEventListener("input", ({ target }) => {
  $("compare").style.setProperty("--split", `${target.value}%`);
  target.setAttribute("aria-valuetext", `${target.value} % photo`);
});

on(window, "load", async () => {
  const response = await fetch("models.json").catch(() => undefined);
  if (!response?.ok) {
    throw new Refusal("The list of models could not be loaded: reload, or open your own .tflite.");
  }
  for (const contract of await response.json()) addModel({ contract });
  await translate();
});
