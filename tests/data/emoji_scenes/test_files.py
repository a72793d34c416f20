from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.emoji_scenes.files import dataset_specs, write_scene, write_scenes
from cliptrase_d2.data.emoji_scenes.names import CLASSES, HELD_OUT, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import scene_layout
from cliptrase_d2.data.images import read_image, read_label
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.errors import InputError
from tests.faults import kill_at_file


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_hold_what_was_drawn(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 1, "held_out": 2}, size=40, seed=5)
    scene = draw(scene_layout(1, "held_out", seed=5), 40)
    assert np.array_equal(read_image(tmp_path / "images" / "held_out_001.webp"), scene.image)
    assert np.array_equal(read_label(tmp_path / "annotations" / "held_out_001.png"), scene.label)
    assert sorted(contents(tmp_path)) == [
        "annotations/held_out_000.png", "annotations/held_out_001.png", "annotations/seen_000.png", "dataset.yaml",
        "held_out.yaml", "images/held_out_000.webp", "images/held_out_001.webp", "images/seen_000.webp", "seen.yaml",
    ]  # fmt: skip


def test_labels_have_colours_to_look_at(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=40)
    with Image.open(tmp_path / "annotations" / "seen_000.png") as label:
        assert label.mode == "P"
        colours = np.unique(np.asarray(label.convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) == len(np.unique(np.asarray(label)))


def test_data_set_files_describe_the_folder(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 2, "unseen_combination": 1, "held_out": 1}, size=32)
    specs = dataset_specs(tmp_path)
    names = {file: spec.name for file, spec in specs.items()}
    assert names == {
        "dataset.yaml": "emoji_scenes",
        "seen.yaml": "emoji_scenes_seen",
        "unseen_combination.yaml": "emoji_scenes_unseen_combination",
        "held_out.yaml": "emoji_scenes_held_out",
    }
    for file, count in zip(specs, (4, 2, 1, 1), strict=True):
        spec = read_dataset_file(tmp_path / file)
        assert spec == specs[file]
        records = load_records(spec)
        assert len(records) == count
        for record in records:
            assert Path(record["file_name"]).stem == Path(record["sem_seg_file_name"]).stem


def test_groups_are_what_their_names_say() -> None:
    for spec in dataset_specs(Path("anywhere")).values():
        groups = {name: {CLASSES[index] for index in members} for name, members in spec.class_groups.items()}
        assert groups["things"] == set(THINGS)
        assert groups["stuff"] == set(STUFF)
        assert groups["held_out_things"] == set(HELD_OUT)
        assert groups["seen_things"] == set(THINGS) - set(HELD_OUT)


def test_finished_scenes_stay_and_the_rest_is_drawn(tmp_path: Path) -> None:
    write_scenes(tmp_path / "whole", {"seen": 3}, size=32)
    write_scenes(tmp_path / "parts", {"seen": 1}, size=32)
    (tmp_path / "parts" / "images" / ".seen_001.webp.1.tmp").write_bytes(b"a part of a file, as an interruption leaves")
    write_scene(tmp_path / "parts", 32, 0, ("seen", 2))
    (tmp_path / "parts" / "images" / "seen_002.webp").unlink()  # a label without its image is not finished
    kept = tmp_path / "parts" / "images" / "seen_000.webp"
    changed = kept.stat().st_mtime_ns
    write_scenes(tmp_path / "parts", {"seen": 3}, size=32)
    assert kept.stat().st_mtime_ns == changed
    (tmp_path / "parts" / "images" / ".seen_001.webp.1.tmp").unlink()
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_several_processes_write_the_same_files(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), {"seen": 3, "held_out": 3}, size=32, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("other", [{"size": 40, "seed": 0}, {"size": 32, "seed": 1}])
def test_folder_of_another_series_is_left_alone(tmp_path: Path, other: dict[str, int]) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=32)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"seen_000\.png: a scene of another size or seed"):
        write_scenes(tmp_path, {"seen": 2}, **other)
    assert contents(tmp_path) == before


def test_more_of_another_split_later(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=32)
    write_scenes(tmp_path, {"held_out": 1}, size=32)
    assert {path.name for path in tmp_path.glob("*.yaml")} == {"dataset.yaml", "seen.yaml", "held_out.yaml"}


def test_a_drawing_that_was_killed_goes_on(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_scenes(whole, {"seen": 3}, size=32)
    kill_at_file(4, lambda: write_scenes(parts, {"seen": 3}, size=32))  # two files a scene
    assert len(list(parts.rglob("*.tmp"))) == 1
    write_scenes(parts, {"seen": 3}, size=32)
    assert contents(parts) == contents(whole)


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_scenes(tmp_path / "file", {"seen": 1}, size=32)


def test_broken_scene_that_is_there(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=32)
    (tmp_path / "annotations" / "seen_000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"seen_000\.png: unreadable"):
        write_scenes(tmp_path, {"seen": 1}, size=32)
