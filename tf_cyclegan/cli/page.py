"""Build a web page that translates photos in the visitor's browser, and serve it on this machine.

    tf-cyclegan page --run_dir=runs/mine
    tf-cyclegan page --models=exported --output=site --no_serve  # for a web server of your own

With --run_dir, exports the generators of the run: of each direction one file for images of one size
and one for any size, in float32 and with 8-bit weights ("dynamic"). With --models, uses files that
`tf-cyclegan export tflite` wrote. Photos stay on the visitor's device.
This needs npm and, for --run_dir: pip install "tf_cyclegan[export]"
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_cyclegan.cli import command


@dataclass(frozen=True)
class Options:
    """The flags."""

    run_dir: str | None = None
    """A run folder, a folder from import-weights, or a generator file: .keras or .pth."""
    models: str | None = None
    """A folder of exported .tflite files and their .json files, instead of --run_dir."""
    output: str | None = None
    """Folder for the site; by default, page/ in the run folder. An earlier build is replaced."""
    direction: Literal["a2b", "b2a", "both"] = "both"
    """Which generators of the folder to export; "both" exports all that it has."""
    size: str | None = None
    """Image size of the fixed-size files, as in tf-cyclegan export tflite."""
    images: tuple[str, ...] = ()
    """Images or folders to compare the files with Keras on; by default, the run's test images."""
    serve: bool = True
    """Serve the page until Ctrl-C."""
    port: int = 8080
    """Port of the server; 0 selects a free one."""


def main(options: Options) -> int:
    """Builds and serves the page, and returns the exit code."""
    from tf_cyclegan.cli import export_tflite  # imported here to keep --help fast
    from tf_cyclegan.export.site import build_site, check_site, install_litert, make_server
    from tf_cyclegan.files import check_output
    from tf_cyclegan.inference.translator import directions_in, is_single_generator

    # === Check all flags before any work ===
    if (options.run_dir is None) == (options.models is None):
        raise ValueError("use either --run_dir or --models.")
    is_file = options.run_dir is not None and Path(options.run_dir).is_file()
    if is_file and options.direction == "both" and is_single_generator(str(options.run_dir)):
        raise ValueError(f"{options.run_dir} is one file: add --direction=a2b or --direction=b2a.")
    if options.output is None and (is_file or options.models):
        raise ValueError("name a folder for the site with --output.")
    output = Path(options.output or Path(str(options.run_dir)) / "page")
    check_site(output)
    check_output(output.parent)
    server = make_server(output, options.port) if options.serve else None
    litert = install_litert()

    # === Export and build ===
    with tempfile.TemporaryDirectory() as folder:
        if options.run_dir is not None:
            directions = directions_in(options.run_dir)
            if options.direction != "both":
                directions = [options.direction]
            for direction in directions:
                for resizable in (False, True):
                    flags = export_tflite.Options(
                        run_dir=options.run_dir,
                        output=folder,
                        direction=direction,
                        size=options.size,
                        modes="float32,dynamic",
                        resizable=resizable,
                        images=options.images,
                    )
                    export_tflite.export(flags)
        count = build_site(Path(options.models or folder), output, litert)
    print(f"{output}: {count} models", flush=True)
    if server:
        print(f"http://127.0.0.1:{server.server_port} (press Ctrl-C to stop)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


def cli() -> None:
    """Runs the command with the flags of the command line, and ends the process."""
    command.run(main, command.parse(Options, __doc__), needs='"tf_cyclegan[export]"')
