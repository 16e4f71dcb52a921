"use strict";

/*
 * One model, off the page's thread. Messages in: first {bytes, accelerator}, then as often as
 * wanted {input, shape}. Each is answered by an object, or by {failure} after which the worker is
 * of no more use.
 *
 * A classic worker, because LiteRT.js loads its wasm by importScripts, which module workers lack.
 * Import maps do not reach workers: build.py makes LiteRT.js' own import relative.
 */

const FOLDER = new URL("litert/", self.location.href);
let litert;
let model;
let complaint; // of the runtime: it logs, then hands out uninitialised memory as the output

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
  const jspi = gpu && simd && (await litert.supportsFeature("jspi")); // for operators left to wasm
  // Emscripten would look for its files, and start its threads, at this worker's own address.
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
  // Sums over whole feature maps may overflow in half precision.
  model = await litert.loadAndCompile(bytes, { accelerator, gpuOptions: { precision: "fp32" } });
  // LiteRT.js itself turns to wasm where WebGPU takes only a part and the browser has no JSPI.
  return { accelerator: model.options.accelerator, threads: runtime.liteRtWasm.getThreadCount() };
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
