"""Serve a page on which photographs are segmented, two methods or models side by side.

    cliptrase web
    cliptrase web --models emoji ViT-B-16 ViT-L-14

It runs on this machine alone, asks nothing of any other, and starts with the model and the pictures that are part of
this package.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # help comes at once, and without Gradio
    import gradio as gr

_MEGABYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase web``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--models", nargs="+", default=["emoji", "ViT-B-16"], metavar="MODEL",
        help="to choose from, the first at the start: 'emoji', ViTs of open_clip, YAML files (default: emoji ViT-B-16)",
    )  # fmt: skip
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to answer at (default 127.0.0.1, this machine alone; 0.0.0.0 lets all in, there is no password)",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--max-upload-mb", type=float, default=20, metavar="MB", help="of a photograph (default 20)")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, metavar="N", help="of a photograph (default 5e7)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes of every configuration")


def run(arguments: argparse.Namespace) -> int:
    """Answer at the address that is printed, until Ctrl-C or a kind kill."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else visitors' files would stay
    with tempfile.TemporaryDirectory(prefix="cliptrase-web-") as folder:
        set_environment(folder)
        page, address = launch(arguments, Path(folder))
        print(f"{address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)
    return 0


def launch(arguments: argparse.Namespace, folder: Path) -> tuple[gr.Blocks, str]:
    """The page, served in threads of its own, and its address.

    Args:
        arguments: of the command line.
        folder: for the examples.
    Raises:
        InputError: no Gradio, or a bound, a model or an address that cannot be used.
    """
    _check(arguments)
    from starlette.middleware import Middleware

    from cliptrase_d2.utils.errors import InputError
    from cliptrase_d2.web.examples import draw_examples
    from cliptrase_d2.web.guard import Guard
    from cliptrase_d2.web.layout import STYLE, THEME
    from cliptrase_d2.web.models import Models
    from cliptrase_d2.web.page import build_page, tell
    from cliptrase_d2.web.service import Answers

    models = Models(arguments.models, arguments.opts, tell)
    page = build_page(Answers(models, arguments.max_pixels), draw_examples(folder))
    upload = round(arguments.max_upload_mb * _MEGABYTE)
    try:
        _, address, _ = page.launch(
            server_name=arguments.host, server_port=arguments.port, max_file_size=upload, theme=THEME, css_paths=STYLE,
            app_kwargs={"middleware": [Middleware(Guard, max_upload=upload)]},
            prevent_thread_lock=True, quiet=True, footer_links=[], share=False, ssr_mode=False, pwa=False,
            mcp_server=False, run_history=False, enable_monitoring=False,
        )  # fmt: skip
    except OSError as error:
        fix = "Leave --port out, or choose another."
        raise InputError(
            "--host, --port", str(error), fix, allowed="an address of this machine that is free"
        ) from error
    return page, address


def _check(arguments: argparse.Namespace) -> None:
    from importlib.util import find_spec

    from cliptrase_d2.utils.errors import InputError

    if find_spec("gradio") is None:
        fix = "Install it: pip install 'cliptrase_d2[web]'."
        raise InputError("cliptrase web", "no Gradio on this machine", fix, allowed="Gradio, which builds the page")
    for name, value in (("--max-upload-mb", arguments.max_upload_mb), ("--max-pixels", arguments.max_pixels)):
        if value <= 0:
            raise InputError(name, value, "Leave it out for the default.", allowed="more than 0")


def set_environment(folder: str) -> None:
    """What Gradio and the libraries below it read when they are imported: no calls home, no bars, files in a folder."""
    here = "127.0.0.1,localhost"  # Gradio calls itself, which no proxy could pass on
    os.environ |= {name: f"{os.environ[name]},{here}" for name in ("NO_PROXY", "no_proxy") if name in os.environ}
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    os.environ.setdefault("NO_PROXY", here)
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SERVER_NAME", "GRADIO_SHARE"):
        os.environ.pop(name, None)
