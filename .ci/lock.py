"""Prints the exact version of everything that `pip install '.[dev]'` would install here, for requirements.lock.

pip resolves, as the machine configures it; only names and versions are kept, never where a package came from, so that
the file serves behind any mirror.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# Exact versions for CPython 3.11 on Linux x86-64; written by `make lock`, used as pip constraints by `make up` and
# `make test`. Not to be edited: change the bounds in pyproject.toml instead."""


def main() -> None:
    """Resolve, then print one `name==version` a line, sorted."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report), ".[dev]"]
        subprocess.run(command, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = sorted(f"{_normal(package['name'])}=={package['version']}" for package in found if package["name"] != "pacs")
    sys.stdout.write("\n".join([HEADER, *pins, ""]))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
