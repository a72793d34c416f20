import pytest

from cliptrase_d2.clip.prompts import TEMPLATE_SETS, fill


@pytest.mark.parametrize(("name", "count"), [("imagenet", 80), ("vild", 14), ("simple", 1)])
def test_sets_have_their_published_sizes_and_no_repeats(name: str, count: int) -> None:
    assert len(set(TEMPLATE_SETS[name])) == len(TEMPLATE_SETS[name]) == count
    assert all(template.count("{}") == 1 for template in TEMPLATE_SETS[name])


def test_fill_inserts_the_word_into_every_template() -> None:
    prompts = fill("imagenet", "cat")
    assert (prompts[0], prompts[-1]) == ("a bad photo of a cat.", "a tattoo of the cat.")
    assert fill("simple", "{0} and {}") == ["a photo of a {0} and {}."], "braces in a word stay"
