"""The command line flags, beside Detectron2's own parser where it is installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from cliptrase_d2.d2.arguments import default_argument_parser
from cliptrase_d2.d2.backend import is_installed

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {"ours": default_argument_parser}
if is_installed():
    from detectron2.engine import default_argument_parser as detectron2s_parser

    PARSERS["detectron2"] = detectron2s_parser


@pytest.mark.parametrize("build_parser", PARSERS.values(), ids=PARSERS)
def test_flags_and_options_are_parsed(build_parser: Callable[[], argparse.ArgumentParser]) -> None:
    words = ["--config-file", "a.yaml", "--eval-only", "--num-gpus", "2", "SEED", "3", "MODEL.WEIGHTS", "a.pth"]
    args = build_parser().parse_args(words)
    assert (args.config_file, args.eval_only, args.resume, args.num_gpus) == ("a.yaml", True, False, 2)
    assert (args.num_machines, args.machine_rank) == (1, 0)
    assert args.opts == ["SEED", "3", "MODEL.WEIGHTS", "a.pth"]
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    args = build_parser().parse_args([])
    assert (args.config_file, args.opts, args.num_gpus) == ("", [], 1)


def test_help_advertises_yaml_files_only() -> None:
    assert "LazyConfig" not in default_argument_parser().format_help()
