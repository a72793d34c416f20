from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.data.custom import DatasetSpec, read_dataset_file
from cliptrase_d2.utils.errors import InputError

MINIMAL = "name: my_set\nimages: photos\nclasses: [sky, tree]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "set.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        read_dataset_file(path)
    assert str(path) in str(caught.value) or "classes.txt" in str(caught.value)
    return str(caught.value)


def test_every_key_is_read_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: my_set\nimages: photos\nlabels: ../truth\nclasses: [sky, 'tree;bush']\nignore_label: 254\n"
        "label_map: {0: 254, 1: 0, 7: 1, 9: 2}\nbackground: [wall, floor]\ngroups: {stuff: [sky, background]}\n",
    )
    spec = read_dataset_file(path)
    assert spec.images == tmp_path / "photos"
    assert spec.labels == tmp_path / "../truth"
    assert spec.classes == ("sky", "tree;bush")
    assert spec.ignore_label == 254
    assert spec.label_map == {0: 254, 1: 0, 7: 1, 9: 2}
    assert spec.vocabulary.classes == ("sky", "tree", "background")
    assert spec.vocabulary.prompts == ("sky", "tree", "bush", "wall", "floor")
    assert spec.class_groups == {"stuff": (0, 2)}


def test_only_name_images_and_classes_are_needed(tmp_path: Path) -> None:
    spec = read_dataset_file(write(tmp_path, MINIMAL))
    assert (spec.labels, spec.ignore_label, spec.label_map, spec.background) == (None, 255, None, ())
    assert spec.class_groups == {}


def test_absolute_paths_stay(tmp_path: Path) -> None:
    text = MINIMAL.replace("photos", str(tmp_path / "elsewhere"))
    assert read_dataset_file(write(tmp_path, text)).images == tmp_path / "elsewhere"


def test_classes_may_come_from_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeffsky\n tree;bush \nno\n\n", encoding="utf-8")
    spec = read_dataset_file(write(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n"))
    assert spec.classes == ("sky", "tree;bush", "no")


def test_empty_line_inside_a_class_file_would_shift_the_numbering(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\n\ntree\n")
    assert "line 2 is empty" in refused(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n")


def test_missing_class_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n")


def test_misspelt_key_names_the_closest(tmp_path: Path) -> None:
    assert "'labelz'" in refused(tmp_path, MINIMAL + "labelz: truth\n")
    assert "Did you mean 'labels'?" in refused(tmp_path, MINIMAL + "labelz: truth\n")


def test_key_like_no_other(tmp_path: Path) -> None:
    assert "Remove it." in refused(tmp_path, MINIMAL + "zzz: 1\n")


def test_missing_keys(tmp_path: Path) -> None:
    assert "no images and no classes" in refused(tmp_path, "name: a\n")


def test_missing_dataset_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_dataset_file(tmp_path / "none.yaml")


def test_folder_in_place_of_the_dataset_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unreadable"):
        read_dataset_file(tmp_path)


def test_binary_in_place_of_the_dataset_file(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="UTF-8"):
        read_dataset_file(path)


@pytest.mark.parametrize("text", ["name: [a\n", "a: b: c\n", "\tname: a\n"])
def test_broken_yaml(tmp_path: Path, text: str) -> None:
    assert "no valid YAML" in refused(tmp_path, text)


def test_yaml_that_would_run_code(tmp_path: Path) -> None:
    assert "no valid YAML" in refused(tmp_path, MINIMAL + "labels: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n"])
def test_yaml_without_keys(tmp_path: Path, text: str) -> None:
    assert "in place of keys" in refused(tmp_path, text)


def test_key_given_twice(tmp_path: Path) -> None:
    assert "the key name twice" in refused(tmp_path, MINIMAL + "name: other\n")
    assert "the key 3 twice" in refused(tmp_path, MINIMAL + "label_map: {3: 0, 3: 1}\n")


@pytest.mark.parametrize("name", ["yes", "12", "1.5", "''", "a/b", "..", "'a b'"])
def test_name_that_is_no_name(tmp_path: Path, name: str) -> None:
    assert "the name" in refused(tmp_path, MINIMAL.replace("my_set", name))


def test_class_that_yaml_reads_as_no(tmp_path: Path) -> None:
    assert "quote it in YAML" in refused(tmp_path, MINIMAL.replace("[sky, tree]", "[sky, no]"))


def test_empty_vocabulary(tmp_path: Path) -> None:
    assert "no class" in refused(tmp_path, MINIMAL.replace("[sky, tree]", "[]"))


def test_duplicated_vocabulary(tmp_path: Path) -> None:
    assert "'sky' twice" in refused(tmp_path, MINIMAL.replace("[sky, tree]", "[sky, tree, sky]"))


@pytest.mark.parametrize("line", ["groups: [sky]", "groups: sky", "groups: {things: sky}", "groups: {things: [car]}"])
def test_groups_that_cannot_be(tmp_path: Path, line: str) -> None:
    message = refused(tmp_path, f"{MINIMAL}{line}\n")
    assert "group" in message
    assert str(tmp_path / "set.yaml") in message


@pytest.mark.parametrize("line", ["classes: 5", "classes: {a: 1}", "background: wall"])
def test_names_that_are_no_list(tmp_path: Path, line: str) -> None:
    text = "name: a\nimages: b\n" + ("" if line.startswith("classes") else "classes: [sky]\n")
    assert "a list of names" in refused(tmp_path, f"{text}{line}\n")


def test_path_that_is_no_text(tmp_path: Path) -> None:
    assert "images 5" in refused(tmp_path, MINIMAL.replace("photos", "5"))


@pytest.mark.parametrize(
    "label_map", ["{0: 2}", "{0: -1}", "{'0': 1}", "{0: '1'}", "{0: yes}", "{no: 1}", "{0: 1.0}", "{}", "[0, 1]"]
)
def test_label_map_that_cannot_be(tmp_path: Path, label_map: str) -> None:
    assert "label_map" in refused(tmp_path, f"{MINIMAL}labels: truth\nlabel_map: {label_map}\n")


def test_ignore_label_that_is_no_number(tmp_path: Path) -> None:
    assert "ignore_label 'x'" in refused(tmp_path, MINIMAL + "labels: truth\nignore_label: x\n")


def test_ignore_label_that_is_a_class(tmp_path: Path) -> None:
    assert "also the index of one of the 2 classes" in refused(tmp_path, MINIMAL + "labels: truth\nignore_label: 1\n")


def test_equal_specs_are_equal_wherever_they_came_from(tmp_path: Path) -> None:
    written = read_dataset_file(write(tmp_path, MINIMAL))
    assert written == DatasetSpec("my_set", tmp_path / "photos", ("sky", "tree"))
    assert written != DatasetSpec("my_set", tmp_path / "photos", ("tree", "sky"))
