"""Copy the page, LiteRT.js and exported models into one folder for any static web server.

    python export/web/build.py --models=exported --output=dist/web
    python export/web/serve.py --folder=dist/web

The models are the .tflite and .json files that `tf-cyclegan export tflite` wrote. The first build
installs LiteRT.js from npm, in the version that package-lock.json pins.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "node_modules" / "@litertjs"
PAGE = ("index.html", "style.css", "icon.svg", "*.js")


@dataclass(frozen=True)
class Options:
    """The flags."""

    models: str
    """Folder of exported models."""
    output: str = "dist/web"
    """Folder for the site; an earlier build there is replaced."""


def main(options: Options) -> None:
    """Builds the site in a temporary folder, and then moves it into place."""
    output = Path(options.output)
    contracts = read_contracts(Path(options.models))
    if output.exists() and not (output / "models.json").is_file():
        raise ValueError(f"{output} exists and is not an earlier build: use another --output.")
    install()

    partial = output.with_name(f".{output.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for pattern in PAGE:
        for file in HERE.glob(pattern):
            shutil.copy(file, partial)
    copy_litert(partial / "litert")
    (partial / "models").mkdir()
    for contract in contracts:
        file = Path(options.models) / contract["file"]
        shutil.copy(file, partial / "models")
        shutil.copy(file.with_suffix(".json"), partial / "models")
    (partial / "models.json").write_text(json.dumps(contracts), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)

    print(f"{output}: {len(contracts)} models")


def read_contracts(folder: Path) -> list[dict]:
    """Reads the .json file of each model, and checks that it describes the model."""
    contracts = []
    for file in sorted(folder.glob("*.tflite")):
        beside = file.with_suffix(".json")
        try:
            contract = json.loads(beside.read_text(encoding="utf-8"))
            described = contract["file"], contract["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{beside} is missing or damaged: export {file.name} again.") from None
        if described != (file.name, file.stat().st_size):
            raise ValueError(f"{beside} describes another file: export {file.name} again.")
        contracts.append(contract)
    if not contracts:
        raise ValueError(f"{folder} contains no models: run tf-cyclegan export tflite first.")
    return contracts


def install() -> None:
    """Runs `npm ci`, unless the packages of package-lock.json are already installed."""
    lock = HERE / "package-lock.json"
    installed = HERE / "node_modules" / ".package-lock.json"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is not installed: install Node.js, which includes it.")
    command = [npm, "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        reason = next((x for x in done.stderr.splitlines() if "error" in x.lower()), "no reason")
        raise ValueError(f"npm ci failed in {HERE} ({reason}): fix that and run this again.")


def copy_litert(folder: Path) -> None:
    """Copies LiteRT.js without its source maps, and makes its only import relative."""
    folder.mkdir()
    shutil.copytree(PACKAGES / "core" / "wasm", folder / "wasm")
    shutil.copy(PACKAGES / "core" / "package.json", folder)  # states the license and the source
    shutil.copy(PACKAGES / "wasm-utils" / "dist" / "index.js", folder / "wasm-utils.js")
    source = (PACKAGES / "core" / "dist" / "index.js").read_text(encoding="utf-8")
    name = '"@litertjs/wasm-utils"'
    if source.count(name) != 1:
        raise ValueError(f"LiteRT.js no longer imports {name} once: adapt build.py to its version.")
    (folder / "index.js").write_text(source.replace(name, '"./wasm-utils.js"'), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
