import pytest

from cliptrase_d2.clip.prompts import TEMPLATE_SETS, fill
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize(("name", "count"), [("imagenet", 80), ("vild", 14), ("simple", 1)])
def test_sets_have_their_published_sizes_and_no_repeats(name: str, count: int) -> None:
    assert len(set(TEMPLATE_SETS[name])) == len(TEMPLATE_SETS[name]) == count
    assert all(template.count("{}") == 1 for template in TEMPLATE_SETS[name])


def test_fill_puts_the_word_into_every_template() -> None:
    assert fill("simple", "cat") == ["a photo of a cat."]
    filled = fill("imagenet", "cat")
    assert filled[0] == "a bad photo of a cat."
    assert filled[-1] == "a tattoo of the cat."


def test_braces_in_a_word_stay() -> None:
    assert fill("simple", "{0} and {}") == ["a photo of a {0} and {}."]


def test_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'image_net'.*imagenet, vild, simple"):
        fill("image_net", "cat")
