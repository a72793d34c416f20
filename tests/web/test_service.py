"""What is answered to a question, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.examples import draw_examples
from cliptrase_d2.web.service import Answers, Choice, Point, Question
from cliptrase_d2.web.uploads import read_words

CHOICES = [Choice("emoji", "cliptrase"), Choice("emoji", "clip")]


def test_sides_are_answered_one_after_the_other(answers: Answers, scene_file: str) -> None:
    question = Question(scene_file, "pig, hamburger, lava", "")
    counts, last = [], []
    for message, found in answers.labels(question, CHOICES):
        assert message == ""
        counts.append(len(found))
        last = found
    assert counts == [1, 2]
    for answer in last:
        assert answer.picture is not None
        assert answer.picture.shape == (224, 224, 3)
    assert "hamburger" in last[0].html
    assert "hamburger" not in last[1].html  # plain CLIP sees lava alone


@pytest.mark.parametrize(
    ("photo", "classes", "said"),
    [(None, "pig", "Drop one into its place"), ("scene", "", "no class"), ("scene", "pig, pig", "twice")],
)
def test_what_cannot_be_answered_is_said_once(
    answers: Answers, scene_file: str, photo: str | None, classes: str, said: str
) -> None:
    question = Question(scene_file if photo else None, classes, "")
    ((message, found),) = answers.labels(question, CHOICES)
    assert said in message
    assert [answer.picture for answer in found] == [None, None]


def test_a_side_that_fails_leaves_the_other_alone(answers: Answers, scene_file: str) -> None:
    *_, (message, found) = answers.labels(Question(scene_file, "pig", ""), [Choice("none", "clip"), CHOICES[1]])
    assert message == ""
    assert found[0].picture is None
    assert 'role="alert"' in found[0].html
    assert found[1].picture is not None


def test_an_answer_is_worked_out_once(answers: Answers, scene_file: str) -> None:
    question = Question(scene_file, "pig, lava", "")
    (_, first), (_, again) = (list(answers.labels(question, CHOICES))[-1] for _ in range(2))
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_a_photograph_is_read_once(answers: Answers, scene_file: str) -> None:
    own = Answers(answers.models, 10**6)
    own.point_at(scene_file, (0, 0))
    Path(scene_file).rename(scene_file + ".gone")
    try:
        assert own.point_at(scene_file, (0, 0)) == Point(0, 0)
    finally:
        Path(scene_file + ".gone").rename(scene_file)


def test_a_pixel_is_a_point_in_percent(answers: Answers, scene_file: str) -> None:
    assert answers.point_at(scene_file, (111, 223)) == Point(50, 100)
    with pytest.raises(InputError):
        answers.point_at(None, (0, 0))


def test_an_explanation_marks_the_patch_under_the_point(answers: Answers, scene_file: str) -> None:
    found = answers.explanation(scene_file, Point(100, 0), ["emoji"])
    assert found.picture is not None
    assert (found.picture[14, 207] == 255).all()  # the frame of the patch in the corner, top right
    assert found.correlation.count("<figure>") == 6  # attention and recovered of three blocks
    assert found.clustering.count("<figure>") == 4


def test_models_that_are_the_same_are_explained_once(answers: Answers, scene_file: str) -> None:
    found = answers.explanation(scene_file, Point(50, 50), ["emoji", "emoji"])
    assert found.correlation.count("<section") == 1


def test_what_cannot_be_explained_is_said(answers: Answers) -> None:
    found = answers.explanation(None, Point(0, 0), ["emoji"])
    assert found.picture is None
    assert 'role="alert"' in found.correlation


def test_examples_are_drawn_with_words_that_are_a_vocabulary(tmp_path: Path) -> None:
    examples = draw_examples(tmp_path)
    assert len(examples) >= 6
    for example in examples:
        assert example.file.is_file()
        assert len(read_words(example.classes, "").classes) >= 2
        assert all(0 <= share <= 100 for share in example.point)
