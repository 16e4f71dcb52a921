"use strict";

/*
 * Runs one model outside the page's thread. The first message is {bytes, accelerator}, and all
 * others are {input, shape}. The answer is an object, or {failure}, after which the worker cannot
 * be used any more.
 *
 * This is a classic worker, because LiteRT.js loads its wasm with importScripts, which module
 * workers lack. Import maps do not apply to workers, so site.py makes LiteRT.js's import relative.
 */

const FOLDER = new URL("litert/", self.location.href);
let litert;
let model;
let complaint; // an error that the runtime only logs before it outputs uninitialized memory

self.onmessage = async ({ data }) => {
  try {
    const answer = await (data.bytes ? compile(data) : run(data));
    if (complaint) throw new Error(complaint);
    self.postMessage(answer, answer.output ? [answer.output.buffer] : []);
  } catch (error) {
    self.postMessage({ failure: String(error?.message ?? error) });
  }
};

async function compile({ bytes, accelerator }) {
  litert = await import(new URL("index.js", FOLDER).href);
  const gpu = accelerator === "webgpu";
  const simd = await litert.supportsFeature("relaxedSimd"); // the other builds need it
  const threads = !gpu && simd && self.crossOriginIsolated;
  const jspi = gpu && simd && (await litert.supportsFeature("jspi")); // for operators run by wasm
  // By default, Emscripten loads its files and starts its threads from this worker's address.
  self.Module = {
    locateFile: (name) => new URL(`wasm/${name}`, FOLDER).href,
    mainScriptUrlOrBlob: new URL("wasm/litert_wasm_threaded_internal.js", FOLDER).href,
    printErr: (line) => {
      if (line.startsWith("ERROR")) complaint ??= line;
      console.debug(line);
    },
  };
  const runtime = await litert.loadLiteRt(new URL("wasm/", FOLDER).href, { threads, jspi });
  if (gpu && !litert.getWebGpuDevice()) return { failure: "no WebGPU" };
  // Sums over whole feature maps can overflow in float16.
  model = await litert.loadAndCompile(bytes, { accelerator, gpuOptions: { precision: "fp32" } });
  // If WebGPU supports only a part of the model, LiteRT.js runs the rest by wasm, or all of it in a
  // browser without JSPI, and only logs that.
  return {
    accelerator: model.options.accelerator,
    whole: model.isFullyAccelerated,
    threads: runtime.liteRtWasm.getThreadCount(),
  };
}

async function run({ input, shape }) {
  const start = performance.now();
  const tensor = new litert.Tensor(input, shape);
  const results = await model.run([tensor]);
  const output = await results[0].data();
  const milliseconds = performance.now() - start;
  for (const each of [tensor, ...results]) each.delete();
  if (!output.every(Number.isFinite)) throw new Error("the output is not finite");
  return { output, milliseconds };
}
