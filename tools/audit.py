"""Check all installed packages against the advisories of the Python package index.

    python tools/audit.py

pip-audit reports "no known vulnerabilities" even if the index publishes no advisories. Here that is a failure. The exit
code is 1 if the advisories are unavailable or a package has one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

_PROBE = "Pillow"  # checked first, to detect an unavailable database after one query
_OURS = ("cliptrase-d2", "cliptrase_d2")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=int, default=15, metavar="S", help="seconds per query (default 15)")
    return parser.parse_args()


class Audit(NamedTuple):
    """The result of pip-audit.

    Attributes:
        error: why there is no result; "" if there is one.
        unknown: packages that the index lacks, such as local builds.
        advisories: one line each.
    """

    error: str
    unknown: list[str]
    advisories: list[str]


def parse_output(output: str, errors: str) -> Audit:
    """Parse the output of pip-audit.

    Args:
        output: JSON.
        errors: its error messages. The last line is reported if the output is invalid.
    """
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Audit((errors.strip().splitlines() or ["no output"])[-1][:300], [], [])
    unknown = [package["name"] for package in packages if "skip_reason" in package and package["name"] not in _OURS]
    advisories = [
        f"{package['name']} {package['version']}: {advisory['id']}, fixed in: "
        f"{', '.join(advisory.get('fix_versions', [])) or 'no release yet'}"
        for package in packages
        for advisory in package.get("vulns", [])
    ]
    return Audit("", unknown, advisories)


def run_pip_audit(arguments: list[str], timeout: int) -> Audit:
    """Run pip-audit."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--timeout", str(timeout), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_output(process.stdout, process.stderr)


def main() -> int:
    """Audit the installation. Return the exit code."""
    timeout = parse_arguments().timeout
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "probe.txt"
        requirements.write_text(f"{_PROBE}=={version(_PROBE)}\n")
        audit = run_pip_audit(["--requirement", str(requirements), "--no-deps", "--disable-pip"], timeout)
    error = audit.error or (f"the index has no record of {_PROBE}" if audit.unknown else "")
    if not error:
        audit = run_pip_audit(["--skip-editable"], timeout)
        error = audit.error
    if error:
        print(f"audit: The advisories are unavailable ({error}). Run this on a machine with access to pypi.org.")
        return 1
    if audit.unknown:
        print(f"audit: The index has no record of these packages: {', '.join(audit.unknown)}")
    for line in audit.advisories:
        print(f"audit: {line}")
    return int(bool(audit.advisories))


if __name__ == "__main__":
    sys.exit(main())
