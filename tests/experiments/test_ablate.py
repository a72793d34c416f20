"""Table 1 from the available data sets."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS
from experiments.ablate import BENCHMARK_KEYS, ROWS, format_page, main
from tests import forked
from tests.data.test_benchmarks import write_pair

RESULTS = {method: 10.0 + index for index, method in enumerate(ROWS)}


@pytest.mark.parametrize("key", [*BENCHMARK_KEYS, "emoji_scenes"])
def test_every_configuration_has_the_rows_in_order(key: str) -> None:
    cfg = load_config(forked.ROOT / "configs" / "ablations" / f"table1_{key}.yaml")
    assert list(cfg.TEST.METHODS) == list(ROWS)


def test_cells_have_our_result_and_the_papers() -> None:
    text = re.sub(" +", " ", format_page(dict.fromkeys(BENCHMARK_KEYS, RESULTS), {}))
    assert "| input=224, mIoU | VOC20 | ADE150 | COCO-Stuff | PC59 | Avg. | emoji_scenes |" in text
    row = "| w/o SCR | 10.00 / 67.77 | 10.00 / 3.01 | 10.00 / 5.40 | 10.00 / 10.85 | 10.00 / 21.76 | - |"
    assert row in text  # 21.76, the mean of the four, is also in the paper


def test_average_requires_all_four_benchmarks() -> None:
    text = re.sub(" +", " ", format_page({"voc20": RESULTS, "emoji_scenes": RESULTS}, {"pc59": "reason"}))
    assert "| CLIPtrase (cosine SCR) | 16.00 / 80.95 | - / 16.35 | - / 22.84 | - / 33.83 | - / 38.49 | 16.00 |" in text
    assert "- PC59 is missing: reason" in text


@pytest.mark.slow
def test_available_data_sets_are_evaluated_and_others_are_marked(
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
    forked.fork_subprocesses(monkeypatch, tmp_path)
    main()
    text = (tmp_path / "out" / "table1.md").read_text()
    assert text in capsys.readouterr().out
    assert "- PC59 is missing: 0 of 5,104 images were found; python datasets/prepare_pcontext.py" in text
    assert not re.search(r"\| w/o SCR +\| +- /", text)
    assert "MODEL.CLIPTRASE.EPS 0.9" in text
