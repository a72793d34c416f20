"""Sphinx configuration of the guides. `make docs` builds them into docs/_build/html; a warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "datasets"), str(ROOT / "docs" / "_extensions")]

from cliptrase_d2 import __version__  # noqa: E402

project = "cliptrase_d2"
author = "the authors of cliptrase_d2"
project_copyright = "the authors of cliptrase_d2, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
    "configuration_keys",
    "included_links",
    "mathml",
]
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # Types of other libraries, which an offline build cannot look up.
    ("py:.*", r"(torch|numpy|np|PIL|Image|Tensor|nn|collections|os|pathlib|yacs|fvcore|open_clip)\b.*"),
    # Parts of models, which only `from_config` combines.
    ("py:.*", r"cliptrase_d2\.(clip\.(visual|text|siglip)|san|vision_models|pipeline\.parts)\..*"),
    ("py:.*", r"cliptrase_d2\.methods\.whole_image\.HeadAttention"),
    ("py:.*", r".*\._\w+"),
    # Classes of the fallback, which stand for Detectron2's.
    ("py:.*", r"cliptrase_d2\.d2\.fallback\..*"),
]
smartquotes_action = "D"  # dashes only; quotes stay unchanged

myst_enable_extensions = ["alert", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "cliptrase_d2"
html_static_path = ["_static"]
html_css_files = ["guides.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
