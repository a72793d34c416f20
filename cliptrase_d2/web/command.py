"""Serve a page that segments photos and compares two methods or models side by side.

    cliptrase web
    cliptrase web --models emoji ViT-B-16 ViT-L-14

By default, only this machine can open the page, and no other machine is contacted. The page starts with the model and
the examples that are included in this package.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.utils.errors import InputError

if TYPE_CHECKING:  # importing Gradio would delay --help
    import gradio as gr

_LOCAL = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase web``."""
    parser.add_argument(
        "--models", nargs="+", default=["emoji", "ViT-B-16"], metavar="MODEL",
        help="models to choose from: 'emoji', ViTs of open_clip or YAML files (default: emoji ViT-B-16)",
    )  # fmt: skip
    help_host = f"address to serve at (default {_LOCAL}; 0.0.0.0 accepts all machines, without a password)"
    parser.add_argument("--host", default=_LOCAL, help=help_host)
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument("--max-upload-mb", type=float, default=20, metavar="MB", help="size limit of photos (20)")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, metavar="N", help="pixel limit of photos (5e7)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of all configurations")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM, and return 0."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploaded files are deleted
    with tempfile.TemporaryDirectory(prefix="cliptrase-web-") as folder:
        set_environment(folder)
        page, address = launch(arguments, Path(folder))
        print(f"{address} (press Ctrl-C to stop)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)
    return 0


def launch(arguments: argparse.Namespace, folder: Path) -> tuple[gr.Blocks, str]:
    """Serve the page in background threads. Return it with its address.

    Args:
        arguments: of the command line.
        folder: for the examples.
    Raises:
        InputError: Gradio is not installed, or a limit, a model or an address is invalid.
    """
    if find_spec("gradio") is None:
        raise InputError("cliptrase web", "Gradio is not installed", "Run pip install 'cliptrase_d2[web]'.")
    for name, value in (("--max-upload-mb", arguments.max_upload_mb), ("--max-pixels", arguments.max_pixels)):
        if value <= 0:
            raise InputError(name, value, "Omit it for the default.", allowed="more than 0")
    from starlette.middleware import Middleware

    from cliptrase_d2.web.examples import draw_examples
    from cliptrase_d2.web.guard import Guard
    from cliptrase_d2.web.models import Models
    from cliptrase_d2.web.page import STYLE, THEME, build_page, show_download
    from cliptrase_d2.web.service import SegmentationService

    models, examples = Models(arguments.models, arguments.opts, show_download), draw_examples(folder)
    drawings = {example.file.name for example in examples}
    page = build_page(SegmentationService(models, arguments.max_pixels, drawings), examples)
    max_upload = round(arguments.max_upload_mb * 2**20)
    try:
        _, address, _ = page.launch(
            server_name=arguments.host, server_port=arguments.port, max_file_size=max_upload, theme=THEME,
            css_paths=STYLE, app_kwargs={"middleware": [Middleware(Guard, max_upload=max_upload)]},
            prevent_thread_lock=True, quiet=True, footer_links=[], share=False, ssr_mode=False, pwa=False,
            mcp_server=False, run_history=False, enable_monitoring=False,
        )  # fmt: skip
    except OSError as error:
        raise InputError("--host, --port", str(error), "Omit --port, or choose a free one.") from error
    return page, address


def set_environment(folder: str) -> None:
    """Set the variables that Gradio and its dependencies read when imported: no telemetry, no progress bars."""
    local = f"{_LOCAL},localhost"  # Gradio calls its own server, which a proxy cannot reach
    os.environ |= {name: f"{os.environ[name]},{local}" for name in ("NO_PROXY", "no_proxy") if name in os.environ}
    os.environ.setdefault("NO_PROXY", local)
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SERVER_NAME", "GRADIO_SHARE"):
        os.environ.pop(name, None)
