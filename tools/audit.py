"""Ask the advisory database of the package index about every installed package, and say plainly what is known.

    python tools/audit.py

pip-audit, which asks, says "no known vulnerabilities" where an index without advisories answers it, too. Here that is
a failure: nothing is known. Ends with 1 there, and where a package has an advisory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

_PROBE = "Pillow"  # is asked about first, so that a database that cannot be had is told after one question
_OURS = ("cliptrase-d2", "cliptrase_d2")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=int, default=15, metavar="S", help="seconds for one answer (default 15)")
    return parser.parse_args()


class Verdict(NamedTuple):
    """What an answer of pip-audit comes to.

    Attributes:
        refused: why there is no answer, "" where there is one.
        unknown: packages that the index does not have, such as those built here.
        advisories: one line each.
    """

    refused: str
    unknown: list[str]
    advisories: list[str]


def verdict(answer: str, complaint: str) -> Verdict:
    """Read an answer.

    Args:
        answer: pip-audit's, as JSON.
        complaint: what it wrote besides, for an answer that is none.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Verdict((complaint.strip().splitlines() or ["no answer"])[-1][:300], [], [])
    unknown = [package["name"] for package in packages if "skip_reason" in package and package["name"] not in _OURS]
    advisories = [
        f"{package['name']} {package['version']}: {advisory['id']}, repaired in: "
        f"{', '.join(advisory.get('fix_versions', [])) or 'none yet'}"
        for package in packages
        for advisory in package.get("vulns", [])
    ]
    return Verdict("", unknown, advisories)


def ask(arguments: list[str], timeout: int) -> Verdict:
    """The verdict on what pip-audit says."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--timeout", str(timeout), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return verdict(done.stdout, done.stderr)


def main() -> int:
    """Ask; 1 if nothing is known, or something bad."""
    timeout = parse_arguments().timeout
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.txt"
        probe.write_text(f"{_PROBE}=={version(_PROBE)}\n")
        found = ask(["--requirement", str(probe), "--no-deps", "--disable-pip"], timeout)
    if not found.refused and not found.unknown:
        found = ask(["--skip-editable"], timeout)
    elif not found.refused:
        found = Verdict(f"the index has no record of {_PROBE}", [], [])
    if found.refused:
        print(
            f"audit: The advisory database cannot be asked from here ({found.refused}), so nothing is known of the "
            "installed packages. Run it on a machine that reaches pypi.org."
        )
        return 1
    if found.unknown:
        print(f"audit: Nothing is known of what the index does not have: {', '.join(found.unknown)}")
    for line in found.advisories:
        print(f"audit: {line}")
    return int(bool(found.advisories))


if __name__ == "__main__":
    sys.exit(main())
