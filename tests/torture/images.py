"""Decode damaged and malicious image files, which this script generates.

    python tests/torture/images.py --count=3000 --seed=0

Every file is decoded in a child process with a memory limit, so that a crash of a C library is
counted instead of ending the run. Prints the counts; the exit code is 1 if any file crashed its
process, was slow, took too much memory, or raised anything but an ImageError.
"""

import argparse
import io
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2  # of processor time allowed for one file
MEGABYTES = 800  # of memory allowed for one file; 50 million pixels, the limit, need about that
PATIENCE = 60  # seconds after which a child without output counts as hung


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Encodes a Pillow image in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    """Returns small valid images: name -> bytes."""
    x, y = np.meshgrid(np.arange(48), np.arange(32))
    pixels = np.stack([x * 5, y * 7, (x * y) % 256, x * 2 + y], -1).astype(np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3].copy()), Image.fromarray(pixels)
    gray, palette = rgb.convert("L"), rgb.convert("P")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    extra = {"exif": exif, "icc_profile": profile}
    frames = {"save_all": True, "append_images": [rgb.rotate(180), rgb]}
    images = {
        "baseline.jpg": encoded(rgb, "JPEG", **extra),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True, **extra),
        "gray.jpg": encoded(gray, "JPEG", restart_marker_blocks=2),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "rgb.png": encoded(rgb, "PNG", **extra),
        "palette.png": encoded(palette, "PNG", transparency=bytes(range(0, 250, 5))),
        "deep.png": encoded(deep, "PNG"),
        "animated.png": encoded(rgb, "PNG", **frames),
        "palette.gif": encoded(rgb, "GIF", transparency=3, comment=b"words"),
        "animated.gif": encoded(rgb, "GIF", **frames),
        "lossy.webp": encoded(rgb, "WEBP", **extra),
        "lossless.webp": encoded(rgba, "WEBP", lossless=True),
        "alpha.avif": encoded(rgba, "AVIF", speed=10),
        "animated.webp": encoded(rgb, "WEBP", **frames),
        "rgb.bmp": encoded(rgb, "BMP"),
        "runs.bmp": runs_bmp(48, 32, b"\4\7\0\3\1\2\3\0\0\0\0\2\1\1" * 40 + b"\0\1"),
        "raw.tif": encoded(rgb, "TIFF", **extra),
        "deep.tif": encoded(deep, "TIFF", compression="tiff_deflate"),
        "tiled.jp2": encoded(rgb, "JPEG2000", tile_size=(16, 16)),
        "rgba.jp2": encoded(rgba, "JPEG2000", quality_layers=[40, 20]),
        "stream.j2k": encoded(gray, "JPEG2000", no_jp2=True),
        "rgb.avif": encoded(rgb, "AVIF", speed=10, **extra),
        "animated.avif": encoded(rgb, "AVIF", speed=10, **frames),
        "raw.ppm": encoded(rgb, "PPM"),
        "plain.ppm": b"P3\n# words\n4 4\n255\n" + b"0 1 255\n" * 16,
        "deep.ppm": b"P5 48 32 65535\n" + pixels[..., :2].tobytes(),
    }
    for compression in ("tiff_lzw", "packbits", "jpeg", "tiff_adobe_deflate", "zstd", "lzma"):
        images[f"{compression}.tif"] = encoded(rgb, "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        images[f"{compression}.tif"] = encoded(rgb.convert("1"), "TIFF", compression=compression)
    try:
        import pillow_heif
    except ImportError:
        return images
    pillow_heif.register_heif_opener()
    images["rgb.heic"] = encoded(rgb, "HEIF", **extra)
    images["gray.heic"] = encoded(gray, "HEIF", quality=-1)
    return images


def runs_bmp(width: int, height: int, runs: bytes) -> bytes:
    """Returns a run-length encoded BMP with 256 colors."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = bytes(value for i in range(256) for value in (i, 255 - i, i // 2, 0))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
EXTREMES += [0x1000, 0x10000, 0x100000, 7000, 50000]


def mutants(count: int, seed: int = 0, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields damaged variants of the seeds: pairs of a name and bytes.

    Number i depends only on `seed` and i, so that each can be reproduced.
    """
    originals = list(seeds().items())
    for i in range(start, count):
        draw = random.Random(f"{seed} {i}")
        name, data = originals[i % len(originals)]
        mutant = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 3, 6])):
            _mutate(mutant, originals, draw)
        if mutant.startswith(b"\x89PNG") and draw.random() < 0.8:
            mutant = _checksums(mutant)
        yield f"{i:05d}_{name}", bytes(mutant)


def _mutate(data: bytearray, originals, draw) -> None:
    """Makes one change in place, in half of all cases in the header."""
    size = max(len(data), 1)
    place = draw.randrange(min(size, 160) if draw.random() < 0.5 else size)
    length = draw.choice([1, 2, 4, 8, 16, 64, 256])
    piece = bytes(data[place : place + length])
    kind = draw.randrange(8)
    if kind <= 1 and place < len(data):  # flip a bit
        data[place] ^= 1 << draw.randrange(8)
    elif kind <= 3:  # replace a number
        width, order = draw.choice([1, 2, 4, 4]), draw.choice(["big", "little"])
        value = draw.choice(EXTREMES) % (1 << 8 * width)
        data[place : place + width] = value.to_bytes(width, order)
    elif kind == 4:  # truncate
        del data[place if draw.random() < 0.3 else size - draw.randrange(1, 40) :]
    elif kind == 5:  # repeat a part, perhaps many times
        data[place:place] = piece * draw.choice([1, 1, 2, 100, 20_000])
    elif kind == 6:  # remove a part
        del data[place : place + length]
    else:  # insert a part of another file
        other = draw.choice(originals)[1]
        begin = draw.randrange(len(other))
        data[place : place + length] = other[begin : begin + draw.choice([4, 64, 1000])]


def _checksums(data: bytearray) -> bytearray:
    """Corrects the checksums of a PNG, since otherwise the decoder would stop at them."""
    position = 8
    while position + 12 <= len(data):
        stop = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if stop + 4 > len(data):
            break
        data[stop : stop + 4] = zlib.crc32(data[position + 4 : stop]).to_bytes(4, "big")
        position = stop + 4
    return data


def child(count: int, seed: int, start: int, max_seconds: float) -> None:
    """Decodes the mutants from number `start` on, and prints a line before and after each."""
    # Empty packages, because the real __init__ takes seconds to load TensorFlow.
    for name in ("tf_cyclegan", "tf_cyclegan.data"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(ROOT / name.replace(".", "/"))]
    from tf_cyclegan.data.image_files import ImageError, decode_image

    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = held + (3 * MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, data in mutants(count, seed, start):
        print(f"begin {name}", flush=True)
        peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            decode_image(data)
            outcome, detail = "decoded", ""
        except ImageError as error:
            outcome, detail = "refused", str(error)
            if "MemoryError" in detail:
                outcome = "large"
        except Exception as error:
            outcome, detail = "raised", f"{type(error).__name__}: {error}"
        seconds = time.process_time() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
        if seconds > max_seconds:
            outcome = "slow"
        if grown > MEGABYTES:
            outcome = "large"
        detail = " ".join(detail.split())[:150]
        print(f"{outcome} {name} {seconds:.2f} s {grown} MB {detail}", flush=True)


def torture(
    count: int, seed: int = 0, seconds: float = SECONDS, verbose: bool = False
) -> tuple[Counter, list[str]]:
    """Decodes `count` mutants in child processes.

    Args:
        count, seed: which mutants; see `mutants`.
        seconds: processor time above which a file counts as slow.
        verbose: whether to print a line for each file.

    Returns:
        How many files were decoded, refused, slow, large, raised, crashed or hung, and a line for
        each that was not just decoded or refused.
    """
    counts: Counter = Counter()
    failures = []
    done = 0
    while done < count:
        command = [sys.executable, __file__, "--child", f"--count={count}", f"--seed={seed}"]
        command += [f"--seconds={seconds}"]
        process = subprocess.Popen(
            [*command, f"--start={done}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        last = ""
        while done < count:
            alarm = threading.Timer(PATIENCE, process.kill)
            alarm.start()
            line = process.stdout.readline()
            alarm.cancel()
            if not line:
                code = process.wait()
                if not last:
                    raise RuntimeError(f"no file could be decoded: see {' '.join(command)}")
                outcome = "hung" if code == -signal.SIGKILL else "crashed"
                counts[outcome] += 1
                failures.append(f"{outcome} {last} exit code {code}")
                done += 1
                break
            outcome, last = line.split()[:2]
            if outcome == "begin":
                continue
            counts[outcome] += 1
            done += 1
            if outcome not in ("decoded", "refused"):
                failures.append(line.strip())
            if verbose:
                print(line, end="", flush=True)
        process.kill()
        process.wait()
        process.stdout.close()
    return counts, failures


def main() -> int:
    """Returns the exit code: 1 if any file was neither just decoded nor refused."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(options.count, options.seed, options.start, options.seconds)
        return 0
    counts, failures = torture(options.count, options.seed, options.seconds, options.verbose)
    print("\n".join(failures))
    known = ("decoded", "refused", "slow", "large", "raised", "crashed", "hung")
    print(f"{counts.total()} files:", ", ".join(f"{counts[name]} {name}" for name in known))
    return 1 if failures or counts.total() != options.count else 0


if __name__ == "__main__":
    sys.exit(main())
