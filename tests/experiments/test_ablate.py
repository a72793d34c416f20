"""Table 1, of what is there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS
from experiments.ablate import BENCHMARK_KEYS, ROWS, document, main
from tests import forked
from tests.command_line import ROOT
from tests.data.test_benchmarks import write_pair

FULL = {system: 10.0 + index for index, system in enumerate(ROWS)}


@pytest.mark.parametrize("key", [*BENCHMARK_KEYS, "emoji_scenes"])
def test_every_configuration_has_the_rows_of_the_table_in_its_order(key: str) -> None:
    cfg = load_config(ROOT / "configs" / "ablations" / f"table1_{key}.yaml")
    assert list(cfg.TEST.METHODS) == list(ROWS)


def test_ours_stand_beside_the_papers() -> None:
    text = document(dict.fromkeys(BENCHMARK_KEYS, FULL), {})
    assert "| input=224, mIoU | VOC20 | ADE150 | COCO-Stuff | PC59 | Avg. | emoji_scenes |" in text
    row = "| w/o SCR | 10.00 / 67.77 | 10.00 / 3.01 | 10.00 / 5.40 | 10.00 / 10.85 | 10.00 / 21.76 | - |"
    assert row in text  # 21.76 is what the paper prints, the mean of its four


def test_no_average_of_less_than_four() -> None:
    text = document({"voc20": FULL, "emoji_scenes": FULL}, {"pc59": "0 of 5,104 images are there; do this"})
    assert "| CLIPtrase (cosine SCR) | 16.00 / 80.95 | - / 16.35 | - / 22.84 | - / 33.83 | - / 38.49 | 16.00 |" in text
    assert "- PC59 is missing: 0 of 5,104 images are there; do this" in text


@pytest.mark.slow
def test_what_is_there_is_evaluated_and_the_rest_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.repeat([[0, 1, 255]], 240, 0).repeat(80, 1)
    for stem in ("a", "b"):
        write_pair(tmp_path / "data", BENCHMARKS["voc20"], stem, labels)
    model = ("MODEL.CLIP.NAME", "emoji-clip", "MODEL.CLIP.PRETRAINED", "emoji_scenes", "MODEL.CLIP.TEMPLATES", "simple")
    words = ("--datasets", "voc20", "pc59", "--incomplete", "--output", str(tmp_path / "out"))
    options = ("--opts", *model, "DATALOADER.NUM_WORKERS", "0", "MODEL.CLIPTRASE.EPS", "0.9")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["experiments/ablate.py", *words, *options])
    forked.instead_of_subprocesses(monkeypatch, tmp_path)
    main()
    text = (tmp_path / "out" / "table1.md").read_text()
    assert text in capsys.readouterr().out
    assert "- PC59 is missing: 0 of 5,104 images are there; python datasets/prepare_pcontext.py" in text
    assert "| w/o SCR | - /" not in text
    assert "MODEL.CLIPTRASE.EPS 0.9" in text
