"""Compile the training steps of a program for an H100, on a machine without a GPU.

    pip install "jax[cuda13]>=0.10.2" numpy pillow
    python program/compile_for_gpu.py
    python program/compile_for_gpu.py mixed_bfloat16_4

Do this before you spend the minutes of a GPU machine. It prints, for each step, the memory it needs
and the library calls in it, and fails if XLA cannot compile a step or computes a convolution
without cuDNN. It cannot check results or measure times, and XLA chooses algorithms only on a GPU.
"""

import argparse
import collections
import json
import sys
import time

import run

# What the compiler has to know about the GPU: facts of NVIDIA's datasheet and driver, in the
# format of XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.20.0"
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 20 }
runtime_version { major: 13 }
"""


def main() -> int:
    """Compiles the steps, and returns the exit code."""
    program = json.loads((run.HERE / "program.json").read_text())
    steps = {"check": program["check"], **program["steps"]}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="step", help=f"{', '.join(steps)}; default all")
    names = parser.parse_args().names or list(steps)
    if unknown := set(names) - set(steps):
        raise ValueError(f"the program has no step {', '.join(sorted(unknown))}.")

    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # no GPU is used, even if there is one
    jax.config.update("jax_enable_x64", True)
    try:
        gpus = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    except NotImplementedError:
        raise ValueError('JAX for CUDA is missing: pip install "jax[cuda13]"') from None
    sharding = jax.sharding.SingleDeviceSharding(gpus.devices[0])
    good = True
    for name in names:
        begin = time.monotonic()
        highest = steps[name].get("precision") == "float32"
        step = run.Step(steps[name], highest=highest, sharding=sharding)
        text = step.compiled.as_text()
        calls = collections.Counter(
            part.partition('"')[0] for part in text.split('custom_call_target="')[1:]
        )
        other = text.count(" convolution(")  # that no library computes
        good = good and not other and any("cudnn$conv" in call for call in calls)
        print(
            f"{name}: {step.memory_bytes() / 1e9:.2f} GB; {other} convolutions without cuDNN; "
            + ", ".join(f"{count} {call}" for call, count in sorted(calls.items()))
            + f"; compiled in {time.monotonic() - begin:.0f} s",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, RuntimeError) as error:  # JAX raises RuntimeErrors
        sys.exit(f"error: {str(error).splitlines()[0]}")
