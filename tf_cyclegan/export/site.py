"""Builds and serves the web page that translates photos in the visitor's browser.

The page itself, in `page/`, is plain HTML and JavaScript. It runs exported `.tflite` files with
LiteRT.js, which npm installs in the version that page/package-lock.json pins.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tf_cyclegan.data.cache import cache_folder

PAGE = Path(__file__).resolve().parent / "page"


def build_site(models: Path, output: Path, litert: Path) -> int:
    """Copies the page, LiteRT.js and exported models into one folder for any static web server.

    The site is built in a temporary folder and then moved into place.

    Args:
        models: folder of .tflite and .json files, as `tf-cyclegan export tflite` writes them.
        output: folder for the site; an earlier build there is replaced.
        litert: what `install_litert` returns.

    Returns:
        The number of models.

    Raises:
        ValueError: a model is missing or damaged, or `output` is not an earlier build.
    """
    contracts = read_contracts(models)
    check_site(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            new, old = Path(folder, "new"), Path(folder, "old")
            (new / "models").mkdir(parents=True)
            for file in page_files():
                shutil.copy(file, new)
            copy_litert(litert, new / "litert")
            for contract in contracts:
                file = models / contract["file"]
                shutil.copy(file, new / "models")
                beside = new / "models" / file.with_suffix(".json").name
                beside.write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")
            (new / "models.json").write_text(json.dumps(contracts), encoding="utf-8")
            if output.exists():
                output.rename(old)
            new.rename(output)
    except OSError as error:  # of shutil, one for all files
        reason = error.strerror or "a copy failed"
        raise ValueError(
            f"{output} cannot be written ({reason}): check disk space and permissions."
        ) from None
    return len(contracts)


def page_files() -> list[Path]:
    """Returns the files of the page, without those for npm."""
    return [file for file in PAGE.iterdir() if not file.name.startswith("package")]


def check_site(output: Path) -> None:
    """Raises a ValueError if a folder exists in which a build would delete anything else."""
    if not output.exists():
        return
    ours = {"litert", "models", "models.json", *(file.name for file in page_files())}
    marks = ("index.html", "worker.js", "models.json")  # that each version has written
    if not all((output / name).is_file() for name in marks):
        raise ValueError(f"{output} exists and is not an earlier build: use another --output.")
    others = [path for path in output.iterdir() if path.name not in ours]
    models = output.glob("models/*")
    others += [path for path in models if path.suffix not in (".tflite", ".json")]
    if others:
        raise ValueError(
            f"{others[0]} is not part of the page, and a new build would delete it: move it, or "
            "use another --output."
        )


def read_contracts(folder: Path) -> list[dict]:
    """Reads the .json file of each model, and checks that it describes the model."""
    contracts = []
    for file in sorted(folder.glob("*.tflite")):
        beside = file.with_suffix(".json")
        try:
            contract = json.loads(beside.read_text(encoding="utf-8"))
            described = contract["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{beside} is missing or damaged: export {file.name} again.") from None
        if described != hashlib.sha256(file.read_bytes()).hexdigest():
            raise ValueError(f"{beside} describes another file: export {file.name} again.")
        contracts.append(contract | {"file": file.name})  # both files may have been renamed
    if not contracts:
        raise ValueError(f"{folder} contains no models: run tf-cyclegan export tflite first.")
    return contracts


def install_litert() -> Path:
    """Installs LiteRT.js with `npm ci` into the cache folder, unless it is there already.

    Returns:
        The folder of its packages.

    Raises:
        ValueError: npm is missing, or it fails.
    """
    lock = (PAGE / "package-lock.json").read_bytes()
    folder = cache_folder().with_name(f"litertjs-{hashlib.sha256(lock).hexdigest()[:16]}")
    packages = folder / "node_modules" / "@litertjs"
    if packages.is_dir():
        return packages
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is not installed: install Node.js, which includes it.")
    partial_folder = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial_folder.mkdir(parents=True)
    try:
        for file in PAGE.glob("package*.json"):
            shutil.copy(file, partial_folder)
        command = [npm, "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=partial_folder, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            reason = errors[0] if errors else "no reason"
            raise ValueError(f"npm ci failed ({reason}): fix that and run this again.")
        try:
            partial_folder.rename(folder)
        except OSError:
            if not packages.is_dir():  # another process has installed it in the meantime
                raise
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return packages


def copy_litert(packages: Path, folder: Path) -> None:
    """Copies LiteRT.js without its source maps, and makes its only import relative."""
    folder.mkdir()
    core = packages / "core"
    shutil.copytree(core / "wasm", folder / "wasm")
    shutil.copy(core / "package.json", folder)  # states the license and the source
    shutil.copy(packages / "wasm-utils" / "dist" / "index.js", folder / "wasm-utils.js")
    source = (core / "dist" / "index.js").read_text(encoding="utf-8")
    name = '"@litertjs/wasm-utils"'
    if source.count(name) != 1:
        raise ValueError(f"LiteRT.js no longer imports {name} once: adapt site.py to its version.")
    (folder / "index.js").write_text(source.replace(name, '"./wasm-utils.js"'), encoding="utf-8")


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Creates a server for the site on 127.0.0.1, without starting it.

    It sends the headers that the page's threads and workers need. Configure other servers to send
    the same: Cross-Origin-Opener-Policy and Cross-Origin-Embedder-Policy, without which LiteRT.js
    uses a single thread, and the page's Content-Security-Policy, which workers only read from a
    header.

    Args:
        folder: the site, which may be built later.
        port: the port; 0 selects a free one.

    Raises:
        ValueError: the port is not available.
    """
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    [policy] = re.findall(r'"Content-Security-Policy" content="(.*?)"', page)
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # the browser checks for a newer build
    }

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {
            ".js": "text/javascript",
            ".json": "application/json",
            ".svg": "image/svg+xml",
            ".wasm": "application/wasm",
            ".tflite": "application/octet-stream",
        }

        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *message):
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"port {port} is not available ({reason}): use another --port.") from None
