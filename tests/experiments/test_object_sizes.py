"""The measure of where objects are lost: its steps by hand, and one run of the tiny model."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.clip.tokens import DenseFeatures, TextFeatures
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import register_dataset, register_spec
from cliptrase_d2.pipeline.classify import Classification
from cliptrase_d2.pipeline.model import Segmentation
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.utils.errors import InputError
from experiments import object_sizes
from experiments.object_sizes import SIZES, STEPS
from tests.drawn_scenes import write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_options

IGNORE = 255
TEXT = TextFeatures(torch.eye(3), torch.arange(3), ("grass", "fox", "bus"))
# 4x4 patches of one pixel. The fox is 2x2, the bus a row below; the rest is grass.
TRUTH = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, IGNORE]])


def segmentation(words: list[list[int]], masks: list[list[int]] | None, named: list[list[int]]) -> Segmentation:
    """Return the result of an image whose patches are these words, with these masks and this label map."""
    patches = torch.eye(3)[torch.tensor(words).flatten()][None]  # [1,16,3]
    assignment = torch.tensor(masks if masks else [[0] * 4] * 4)
    proposals = MaskProposals(torch.zeros(int(assignment.max()) + 1 if masks else 0, 4, 4), assignment)
    logits = patches.transpose(1, 2).unflatten(2, (4, 4))
    prediction = Classification(torch.tensor(named), torch.zeros(len(proposals), 3))
    return Segmentation(DenseFeatures(patches, (4, 4)), None, [proposals], logits, [prediction])


def hits(result: Segmentation) -> dict[int, dict[str, bool | None]]:
    objects = object_sizes.list_objects(TRUTH, IGNORE, [1, 2])
    found = list(object_sizes.find_hits(objects, result, TEXT, TRUTH, IGNORE, [1, 2]))
    return {
        own.class_index: dict(zip(STEPS, steps, strict=True)) for own, (_, steps) in zip(objects, found, strict=True)
    }


def test_objects_of_the_chosen_classes_have_their_pixels_and_size() -> None:
    (fox,) = object_sizes.list_objects(TRUTH, IGNORE, [1])
    assert (fox.class_index, SIZES[fox.size]) == (1, "over 12 %")
    assert torch.equal(fox.mask, TRUTH == 1)
    small = torch.zeros(100, 100, dtype=torch.int64)
    small[:5, :59], small[50:55, :60], small[80:90, :60] = 1, 1, 1
    found = object_sizes.list_objects(small, IGNORE, [1])
    assert [SIZES[own.size] for own in found] == [
        "under 3 %",
        "3 to 6 %",
        "6 to 12 %",
    ]  # 295, 300 and 600 of 10,000 pixels


def test_a_thing_that_is_nowhere_named_is_lost_in_the_features() -> None:
    grass, masks = [[0] * 4] * 4, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    steps = hits(segmentation(grass, masks, grass))
    assert steps[1] == dict(zip(STEPS, [False, False, False, False, True, True], strict=True))
    assert steps[2] == dict(zip(STEPS, [False, False, False, False, False, True], strict=True))  # no own cluster


def test_a_thing_can_be_lost_by_its_cluster_alone() -> None:
    words = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0]]
    one_mask = [[0] * 4] * 4
    steps = hits(segmentation(words, one_mask, [[0] * 4] * 4))
    assert steps[1] == dict(zip(STEPS, [True, True, True, False, False, True], strict=True))


def test_without_clusters_there_are_no_true_names() -> None:
    words = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 0]]
    steps = hits(segmentation(words, None, words))
    assert steps[1] == dict(zip(STEPS, [True, False, False, False, None, True], strict=True))
    assert steps[2] == dict(zip(STEPS, [True, False, False, False, None, False], strict=True))  # a fox, not stuff


def test_clusters_are_named_by_their_scored_pixels() -> None:
    assignment = torch.tensor([[0, 0, 0, 1, 1, 2]])
    truth = torch.tensor([[2, IGNORE, IGNORE, 1, 1, 0]])
    assert object_sizes.name_clusters(assignment, truth, 3, 3, IGNORE).tolist() == [[2, 2, 2, 1, 1, 0]]


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Two drawn scenes and the tiny model."""
    spec = replace(read_dataset_file(write_scenes(tmp_path / "scenes", 2)), name=f"objects_{tmp_path.name}")
    return tiny_config(tmp_path, "DATASETS.TEST", f"('{register_spec(spec)}',)", "INPUT.MIN_SIZE_TEST", "64")


def test_windows_have_the_size_of_the_whole_image(cfg: CfgNode) -> None:
    for changed in (cfg, object_sizes.settings(cfg)["slide, 128"]):
        found = object_sizes.settings(changed)
        assert list(found) == ["whole, 64", "slide, 128"]
        windows = found["slide, 128"]
        assert (windows.TEST.PROTOCOL, windows.TEST.WINDOW, windows.INPUT.MIN_SIZE_TEST) == ("slide", 64, 128)


def test_main_writes_both_tables(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.yaml").write_text("{}")
    output = tmp_path / "table.md"
    words = ["--config-file", str(tmp_path / "empty.yaml"), "--group", "", "--output", str(output), "--steps", "sclip"]
    options = [*tiny_options(tmp_path), "DATASETS.TEST", str(cfg.DATASETS.TEST), "INPUT.MIN_SIZE_TEST", "64"]
    options += ["TEST.METHODS", "['clip', 'sclip']"]
    monkeypatch.setattr(sys, "argv", ["object_sizes.py", *words, "--", *options])
    object_sizes.main()
    text = output.read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    means = [row for row in rows if len(row) == 3 + len(SIZES) and row[1] in ("clip", "sclip")]
    assert [row[:2] for row in means] == [
        [setting, method] for setting in ("whole, 64", "slide, 128") for method in ("clip", "sclip")
    ]
    steps = [row for row in rows if len(row) == 4 + len(STEPS) and row[1] == "sclip"]
    assert [row[2] for row in steps] == [*SIZES, *SIZES]
    assert {row[-2] for row in steps} == {"-"}  # true names: no clusters
    assert sum(int(row[3]) for row in steps[: len(SIZES)]) == count_regions(tmp_path / "scenes")


def count_regions(folder: Path) -> int:
    labels = [np.array(Image.open(path)) for path in sorted((folder / "annotations").iterdir())]
    return sum(len(object_sizes.list_objects(torch.from_numpy(one).long(), IGNORE, range(9))) for one in labels)


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    name = register_dataset(f"group_{tmp_path.name}", tmp_path, ["a", "b"], tmp_path, groups={"far": ["b"]})
    assert list(object_sizes.select_classes(name, "far", 2)) == [1]
    assert list(object_sizes.select_classes(name, "", 2)) == [0, 1]
    with pytest.raises(InputError, match=r"--group: 'things'.*far"):
        object_sizes.select_classes(name, "things", 2)
