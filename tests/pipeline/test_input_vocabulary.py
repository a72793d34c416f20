"""The classes of an input: its own, those of its data set, or those of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.d2 import DatasetCatalog, MetadataCatalog
from cliptrase_d2.pipeline.input_vocabulary import InputVocabulary, get_dataset_vocabulary
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline.tiny_segmenter import tiny_config

CAT_DOG, CAR = Vocabulary.parse(["cat;kitten", "dog"]), Vocabulary.parse(["car"])


@pytest.fixture
def datasets() -> Iterator[dict[str, str]]:
    """Register data sets as Detectron2 users do: ``animals``, ``more_animals`` and ``cars``, with two files each."""
    names = {"animals": ["cat;kitten", "dog"], "more_animals": ["cat;kitten", "dog"], "cars": ["car"]}
    for name, classes in names.items():
        records = [{"file_name": f"{name}/{index}.png"} for index in range(2)]
        DatasetCatalog.register(f"{name}_of_test", lambda records=records: records)
        MetadataCatalog.get(f"{name}_of_test").set(stuff_classes=classes)
    yield {name: f"{name}_of_test" for name in names}
    for name in names:
        DatasetCatalog.remove(f"{name}_of_test")
        MetadataCatalog.remove(f"{name}_of_test")


@pytest.mark.parametrize(
    "own",
    [CAT_DOG, ["cat;kitten", "dog"], ("cat;kitten", "dog"), {"cat": "kitten", "dog": []}],
    ids=["parsed", "list", "tuple", "dict"],
)
def test_own_vocabulary_comes_first(datasets: dict[str, str], own: Any) -> None:
    inputs = {"vocabulary": own, "meta": {"dataset_name": datasets["cars"]}, "file_name": "elsewhere.png"}
    assert InputVocabulary(CAR).find(inputs) == CAT_DOG


@pytest.mark.parametrize(
    "own",
    ["cat, dog", [], ["cat", "cat"], ["cat", 3], ["cat, dog"], {"cat": {}}],
    ids=["text", "empty", "twice", "number", "comma", "nested"],
)
def test_faulty_own_vocabulary_is_refused(own: Any) -> None:
    with pytest.raises(InputError, match="vocabulary"):
        InputVocabulary(CAR).find({"vocabulary": own})


def test_data_set_of_the_record_comes_before_the_vocabulary_of_the_model(datasets: dict[str, str]) -> None:
    inputs = {"meta": {"dataset_name": datasets["animals"]}}
    assert InputVocabulary(CAR, evaluation=(datasets["cars"],)).find(inputs) == CAT_DOG


@pytest.mark.parametrize("meta", [{"dataset_name": "unregistered"}, {}, None, "a note of the user"], ids=str)
def test_unknown_data_set_of_the_record_is_ignored(meta: Any) -> None:
    assert InputVocabulary(CAR).find({"meta": meta}) == CAR


def test_vocabulary_of_the_model_comes_before_the_data_sets(datasets: dict[str, str]) -> None:
    assert InputVocabulary(CAR, evaluation=(datasets["animals"],)).find({"file_name": "elsewhere.png"}) == CAR


def test_commas_in_the_official_names_of_a_data_set_are_part_of_them(datasets: dict[str, str]) -> None:
    MetadataCatalog.get("towns_of_test").set(stuff_classes=["building, edifice", "sky"])
    try:
        found = InputVocabulary().find({"meta": {"dataset_name": "towns_of_test"}})
    finally:
        MetadataCatalog.remove("towns_of_test")
    assert found.classes == ("building, edifice", "sky")


def test_training_and_evaluation_have_their_own_data_sets(datasets: dict[str, str]) -> None:
    found = InputVocabulary(training=(datasets["animals"],), evaluation=(datasets["cars"],))
    assert found.find({}) == CAR
    assert found.find({}, in_training=True) == CAT_DOG


def test_file_selects_among_data_sets_of_different_classes(datasets: dict[str, str]) -> None:
    found = InputVocabulary(evaluation=(datasets["animals"], datasets["cars"]))
    assert found.find({"file_name": "animals/1.png"}) == CAT_DOG
    assert found.find({"file_name": "cars/0.png"}) == CAR


@pytest.mark.parametrize("inputs", [{}, {"file_name": "elsewhere.png"}], ids=["no file", "another file"])
def test_input_of_an_unknown_data_set_is_refused(datasets: dict[str, str], inputs: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"DATASETS\.TEST.*animals_of_test, cars_of_test.*vocabulary"):
        InputVocabulary(evaluation=(datasets["animals"], datasets["cars"])).find(inputs)


def test_file_of_another_data_set_is_refused(datasets: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"DATASETS\.TEST.*cars/0\.png"):
        InputVocabulary(evaluation=(datasets["animals"],)).find({"file_name": "cars/0.png"})


def test_data_sets_of_equal_classes_need_no_file(datasets: dict[str, str]) -> None:
    assert InputVocabulary(evaluation=(datasets["animals"], datasets["more_animals"])).find({}) == CAT_DOG


def test_one_file_in_data_sets_of_different_classes_is_refused(datasets: dict[str, str]) -> None:
    name = "finer_animals_of_test"
    DatasetCatalog.register(name, lambda: [{"file_name": "animals/1.png"}])
    MetadataCatalog.get(name).set(stuff_classes=["cat", "poodle"])
    try:
        found = InputVocabulary(evaluation=(datasets["animals"], name))
        assert found.find({"file_name": "animals/0.png"}) == CAT_DOG
        with pytest.raises(InputError, match=r"DATASETS\.TEST.*different classes"):
            found.find({"file_name": "animals/1.png"})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("names", [(), ("mistyped",)], ids=["none", "mistyped"])
def test_no_class_names_anywhere_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=rf"vocabulary.*DATASETS\.TEST.*{''.join(names)}"):
        InputVocabulary(evaluation=names).find({})
    assert get_dataset_vocabulary("mistyped") is None
    assert "mistyped" not in MetadataCatalog.list()


def test_configuration_names_the_sources(tmp_path: Path) -> None:
    words = ["MODEL.CLIPTRASE.VOCABULARY", "['cat;kitten', 'dog']", "MODEL.CLIPTRASE.BACKGROUND", "['wall', '@voc']"]
    names = ["DATASETS.TRAIN", "('a',)", "DATASETS.TEST", "('b', 'c')"]
    found = InputVocabulary.from_config(tiny_config(tmp_path, *words, *names))
    assert found.default == Vocabulary.parse(["cat;kitten", "dog"], ["wall", "@voc"])
    assert (found.training, found.evaluation) == (("a",), ("b", "c"))
    assert InputVocabulary.from_config(tiny_config(tmp_path)).default is None
