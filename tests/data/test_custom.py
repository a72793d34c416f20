from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.data.custom import DatasetSpec, read_dataset_file, resolve_groups
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.utils.errors import InputError

MINIMAL = "name: my_set\nimages: photos\nclasses: [sky, tree]\n"
ENTRIES = ("sky", "person;man", "tree")
NAMES = ("sky", "person", "tree", "background")


def write(folder: Path, text: str) -> Path:
    path = folder / "set.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read_and_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    text = (
        "name: my_set\nimages: photos\nlabels: ../truth\nclasses: [sky, 'tree;bush']\nignore_label: 254\n"
        "label_map: {0: 254, 1: 0, 7: 1, 9: 2}\nbackground: [wall, floor]\ngroups: {stuff: [sky, background]}\n"
        "image_suffix: _rgb\nlabel_suffix: _ids\nimage_list: /lists/list.txt\nunknown: background\n"
        "bands: [4, 3, 2]\nstretch: [2%, 3000]\n"
    )
    spec = read_dataset_file(write(tmp_path, text))
    assert (spec.images, spec.labels) == (tmp_path / "photos", tmp_path / "../truth")
    assert spec.image_list == Path("/lists/list.txt")
    assert spec.classes == ("sky", "tree;bush")
    assert (spec.ignore_label, spec.label_map) == (254, {0: 254, 1: 0, 7: 1, 9: 2})
    assert spec.vocabulary.classes == ("sky", "tree", "background")
    assert spec.vocabulary.prompts == ("sky", "tree", "bush", "wall", "floor")
    assert spec.class_groups == {"stuff": (0, 2)}
    assert spec.unknown_class == 2
    assert spec.rendering == Rendering((4, 3, 2), ("2%", 3000))
    assert (spec.image_suffix, spec.label_suffix) == ("_rgb", "_ids")


@pytest.mark.parametrize("text", ["", "labels:\nbackground: []\ngroups:\nimage_suffix: ''\nimage_list:\n"])
def test_only_name_images_and_classes_are_required(tmp_path: Path, text: str) -> None:
    spec = read_dataset_file(write(tmp_path, MINIMAL + text))
    assert spec == DatasetSpec("my_set", tmp_path / "photos", ("sky", "tree"))
    assert (spec.labels, spec.ignore_label, spec.label_map, spec.background) == (None, 255, None, ())
    assert (spec.class_groups, spec.image_suffix, spec.image_list) == ({}, "", None)


def test_classes_are_read_from_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeffsky\n tree;bush \nno\n\n", encoding="utf-8")
    spec = read_dataset_file(write(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n"))
    assert spec.classes == ("sky", "tree;bush", "no")


def test_classes_may_be_a_dict_and_the_background_a_ready_list(tmp_path: Path) -> None:
    minimal = MINIMAL.replace("[sky, tree]", "{person: [man, woman], sky: [], tree: bush, road: }")
    spec = read_dataset_file(write(tmp_path, minimal + "background: voc\ngroups: {things: [person]}\n"))
    assert spec.classes == ("person;man;woman", "sky", "tree;bush", "road")
    assert spec.vocabulary.classes == ("person", "sky", "tree", "road", "background")
    assert spec.class_groups == {"things": (0,)}
    background = spec.vocabulary.words[-1]
    assert "sea" in background
    assert not {"sky", "tree", "road"} & set(background)
    mixed = read_dataset_file(write(tmp_path, minimal + "background: [lava, '@voc']\n"))
    assert mixed.vocabulary.words[-1] == ("lava", *background)


def test_official_names_with_commas_are_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("building, edifice\nsky\n")
    spec = read_dataset_file(write(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n"))
    assert spec.vocabulary.classes == ("building, edifice", "sky")
    with pytest.raises(InputError, match=r"set\.yaml.*'sky,' contains a comma"):
        read_dataset_file(write(tmp_path, MINIMAL.replace("[sky, tree]", "['sky,', tree]")))


@pytest.mark.parametrize(("text", "match"), [("sky\n\ntree\n", "line 2"), (None, "no such file")])
def test_invalid_class_file_is_rejected(tmp_path: Path, text: str | None, match: str) -> None:
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=rf"classes\.txt: {match}"):
        read_dataset_file(write(tmp_path, "name: a\nimages: b\nclasses: classes.txt\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "NoneType"),
        ("- a\n- b\n", "list"),
        ("just text\n", "str"),
        *((text, "YAML") for text in ("name: [a\n", "a: b: c\n", "\tname: a\n")),
        (MINIMAL + "labels: !!python/object/apply:os.getcwd []\n", "YAML"),  # would run code
        ("name: a\n", "no images and no classes"),
        (MINIMAL + "name: other\n", "name twice"),
        *(
            (MINIMAL.replace("my_set", name), "invalid name")
            for name in ("yes", "12", "1.5", "''", "a/b", "..", "'a b'")
        ),
        *(
            (MINIMAL.replace("[sky, tree]", classes), match)
            for classes, match in (
                *(("[sky, no]", "False"), ("[]", "no class"), ("[sky, tree, sky]", "'sky'")),
                *(("5", "classes 5"), ("{sky: [no]}", "False"), ("{a: 1}", "'a' have the type int")),
            )
        ),
        *(
            (f"{MINIMAL}labels: truth\nlabel_map: {label_map}\n", "label_map")
            for label_map in (
                *("{0: 2}", "{0: -1}", "{'0': 1}", "{0: '1'}"),
                *("{0: yes}", "{no: 1}", "{0: 1.0}", "{}", "[0]"),
            )
        ),
        *(
            (f"{MINIMAL}{line}\n", match)
            for line, match in (
                ("labelz: truth", "'labelz'.*'labels'"),  # the closest key
                ("zzz: 1", "'zzz'.*Remove it"),
                ("label_map: {3: 0, 3: 1}", "3 twice"),
                ("background: wall", "background list is named 'wall'"),
                ("background: {wall: []}", "background {'wall'"),
                ("image_suffix: 5", "image_suffix 5"),
                ("image_list: [a]", "image_list"),
                ("labels: 5", "labels 5"),
                ("labels: ~nobody_of_this_name/truth", "labels '~nobody"),
                ("labels: truth\nignore_label: x", "ignore_label 'x'"),
                ("labels: truth\nignore_label: 1", "ignore_label 1"),  # a class index
                ("groups: [sky]", "groups"),
                ("groups: sky", "groups 'sky'"),
                ("groups: {things: sky}", "things.*'sky'"),
                ("groups: {things: [car]}", "'car' in group 'things'"),
            )
        ),
    ],
)
def test_invalid_dataset_files_are_rejected(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=rf"set\.yaml: .*{match}"):
        read_dataset_file(write(tmp_path, text))


def test_unreadable_dataset_file(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    for name, match in (("none.yaml", "no such file"), ("", "unreadable"), ("binary.yaml", "unreadable")):
        with pytest.raises(InputError, match=match):
            read_dataset_file(tmp_path / name)


def test_groups_become_class_indices() -> None:
    groups = {"things": ["tree", "person"], "stuff": ["sky", "background"], "all": ["sky", "person;man", "tree"]}
    assert resolve_groups(groups, ENTRIES, NAMES, "set.yaml") == {"things": (2, 1), "stuff": (0, 3), "all": (0, 1, 2)}


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"things": ["car"]}, "'car' in group 'things'. Allowed: sky, person, tree, background"),
        ({"things": ["man"]}, "'man'"),  # a synonym is not the name of a class
        ({"things": [3]}, "3 in group"),
        ({"things": [["sky"]]}, r"\['sky'\] in group"),
        ({"things": ["person", "person;man"]}, "'person'.*'things'"),
        ({"things": []}, "'things'"),
        ({"": ["sky"]}, "''"),
        ({True: ["sky"]}, "True"),  # yes, in YAML
    ],
)
def test_invalid_groups_are_rejected(groups: Any, match: str) -> None:
    with pytest.raises(InputError, match=rf"^set\.yaml: .*{match}"):
        resolve_groups(groups, ENTRIES, NAMES, "set.yaml")


@pytest.mark.parametrize("value", ["car", "[sky]", "1"])
def test_the_unknown_class_is_one_of_the_classes(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"set\.yaml: unknown: .*sky, tree"):
        read_dataset_file(write(tmp_path, f"{MINIMAL}unknown: {value}\n"))


@pytest.mark.parametrize("line", ["bands: [1, 2]", "bands: 4", "bands: [a]", "stretch: [5]", "stretch: 2%"])
def test_faulty_bands_and_stretches_name_the_file(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=rf"set\.yaml.*{line.split(':')[0]}"):
        read_dataset_file(write(tmp_path, MINIMAL + line))
