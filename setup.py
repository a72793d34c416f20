"""Settings that `setup.cfg` cannot express: packages that are folders of a clone, and absolute links of the README."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

FOLDER = Path(__file__).resolve().parent
SETTINGS = ConfigParser()
SETTINGS.read(FOLDER / "setup.cfg", encoding="utf-8")
REPOSITORY = SETTINGS["metadata"]["url"]
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")  # the target of a relative link or picture

# Package -> folder of a clone. The code finds the files in both places.
FOLDERS = {"cliptrase_d2.configs": "configs", "cliptrase_d2.data.prepare.scripts": "datasets"}


def make_links_absolute(text: str) -> str:
    """Return Markdown whose relative links lead to the repository. An index page has no other files."""

    def replace(link: re.Match[str]) -> str:
        kind = "raw" if link[1].endswith((".jpg", ".png")) else "blob"  # a page with the file, or only the file
        return f"]({REPOSITORY}/{kind}/main/{link[1]})"

    return LINK.sub(replace, text)


if __name__ == "__main__":
    setup(
        packages=[*find_packages(include=["cliptrase_d2*"]), *FOLDERS],
        package_dir=FOLDERS,
        long_description=make_links_absolute((FOLDER / "README.md").read_text(encoding="utf-8")),
    )
