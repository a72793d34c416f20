import os
from pathlib import Path

import pytest

from cliptrase_d2.evaluation.output_names import find_output_base, get_output_name
from cliptrase_d2.utils.errors import InputError


def test_distinct_stems_are_names() -> None:
    files = ["x/a.jpg", "y/b.b.jpg"]
    assert find_output_base(files, "KEY False") is None
    assert [get_output_name(file, None) for file in files] == ["a", "b.b"]


@pytest.mark.parametrize("root", ["data", "/data"])
def test_images_of_one_stem_keep_their_folders(root: str) -> None:
    files = [f"{root}/x/0/a.jpg", f"{root}/x/1/a.jpg", f"{root}/x/1/b.c.jpg"]
    base = find_output_base(files, "KEY False")
    assert base == os.path.abspath(f"{root}/x")
    assert [get_output_name(file, base) for file in files] == ["0/a", "1/a", "1/b.c"]


def test_names_stay_below_the_folder_of_the_results() -> None:
    files = ["../p/a.jpg", "q/../../p/r/a.jpg"]
    base = find_output_base(files, "KEY False")
    assert not any(".." in Path(get_output_name(file, base)).parts for file in files)


def test_images_that_differ_in_their_suffix_alone_are_rejected() -> None:
    with pytest.raises(InputError, match=r"x/a\.png: .*x/a\.jpg.*KEY False"):
        find_output_base(["x/a.jpg", "x/b.jpg", "x/a.png"], "KEY False")
