/** A compiled model in its own worker, so that a failed model can be terminated. */
export class Runner {
  #worker = new Worker(new URL("worker.js", import.meta.url));
  #settle = {}; // resolves or rejects the pending request

  constructor() {
    this.#worker.onmessage = ({ data }) => {
      if (data.failure) this.#settle.reject(new Error(data.failure));
      else this.#settle.resolve(data);
    };
    this.#worker.onerror = (event) => this.#settle.reject(new Error(event.message));
  }

  #ask(question) {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#worker.postMessage(question);
    });
  }

  /**
   * @param {ArrayBuffer} buffer the .tflite
   * @param {"wasm" | "webgpu"} accelerator
   * @returns {Promise<{accelerator: string, whole: boolean, threads: number}>} what it was really
   *   compiled for, and whether that runs all operators
   */
  compile(buffer, accelerator) {
    return this.#ask({ bytes: new Uint8Array(buffer), accelerator });
  }

  /**
   * @param {Float32Array} input
   * @param {number[]} shape [1, height, width, channels]
   * @returns {Promise<{output: Float32Array, milliseconds: number}>}
   */
  run(input, shape) {
    return this.#ask({ input, shape });
  }

  /** Terminates the worker, which frees all its memory, and rejects the pending request. */
  stop() {
    this.#worker.terminate();
    this.#settle.reject?.(new Error("stopped"));
  }
}
