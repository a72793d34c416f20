from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.emoji_scenes.files import build_specs, write_scene, write_scenes
from cliptrase_d2.data.emoji_scenes.names import CLASSES, HELD_OUT, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import sample_layout
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.utils.errors import InputError
from tests.data.prepare.test_archives import read_files

SHIPPED_FOLDER = Path(__file__).resolve().parents[3] / "datasets" / "emoji_scenes"


def test_files_contain_the_drawn_scenes(tmp_path: Path) -> None:
    for counts in ({"seen": 1}, {"held_out": 2}):  # splits can be added later
        write_scenes(tmp_path, counts, size=40, seed=5)
    scene = draw(sample_layout(1, "held_out", seed=5), 40)
    assert np.array_equal(read_image(tmp_path / "images" / "held_out_001.webp"), scene.image)
    assert np.array_equal(read_label(tmp_path / "annotations" / "held_out_001.png"), scene.label)
    assert sorted(read_files(tmp_path)) == [
        "annotations/held_out_000.png", "annotations/held_out_001.png", "annotations/seen_000.png", "dataset.yaml",
        "held_out.yaml", "images/held_out_000.webp", "images/held_out_001.webp", "images/seen_000.webp", "seen.yaml",
    ]  # fmt: skip


def test_every_program_reads_class_indices_from_label_files(tmp_path: Path) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=40)
    for path in [tmp_path / "annotations" / "seen_000.png", *(SHIPPED_FOLDER / "annotations").iterdir()]:
        with Image.open(path) as label:
            assert label.mode == "L"  # Detectron2's mapper reads a palette as grey


def test_groups_have_the_classes_of_their_names() -> None:
    for spec in build_specs(Path("anywhere")).values():
        groups = {name: {CLASSES[index] for index in members} for name, members in spec.class_groups.items()}
        assert groups == {
            "things": set(THINGS),
            "stuff": set(STUFF),
            "held_out_things": set(HELD_OUT),
            "seen_things": set(THINGS) - set(HELD_OUT),
        }


def test_only_missing_scenes_are_drawn(tmp_path: Path) -> None:
    complete, partial = tmp_path / "complete", tmp_path / "partial"
    write_scenes(complete, {"seen": 3}, size=32)
    write_scenes(partial, {"seen": 1}, size=32)
    (partial / "images" / ".seen_001.webp.1.tmp").write_bytes(b"left by an interruption")
    write_scene(partial, 32, 0, ("seen", 2))
    (partial / "images" / "seen_002.webp").unlink()  # a label without its image is not finished
    existing = partial / "images" / "seen_000.webp"
    changed = existing.stat().st_mtime_ns
    write_scenes(partial, {"seen": 3}, size=32)
    assert existing.stat().st_mtime_ns == changed
    (partial / "images" / ".seen_001.webp.1.tmp").unlink()
    assert read_files(partial) == read_files(complete)


def test_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), {"seen": 3, "held_out": 3}, size=32, workers=workers)
    assert read_files(tmp_path / "1") == read_files(tmp_path / "2")


@pytest.mark.parametrize("other", [{"size": 40, "seed": 0}, {"size": 32, "seed": 1}])
def test_folder_of_another_series_is_unchanged(tmp_path: Path, other: dict[str, int]) -> None:
    write_scenes(tmp_path, {"seen": 1}, size=32)
    before = read_files(tmp_path)
    with pytest.raises(InputError, match=rf"seen_000\.png: .*{other['size']} pixels and seed {other['seed']}"):
        write_scenes(tmp_path, {"seen": 2}, **other)
    assert read_files(tmp_path) == before


def test_unusable_output_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_scenes(tmp_path / "file", {"seen": 1}, size=32)
    write_scenes(tmp_path, {"seen": 1}, size=32)
    (tmp_path / "annotations" / "seen_000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"seen_000\.png: unreadable"):
        write_scenes(tmp_path, {"seen": 1}, size=32)
