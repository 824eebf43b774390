"""Whether the packages of pin files are installed whole, by the standard library alone: status 1 and a line where not.

usage: VENV/bin/python -I scripts/installed.py requirements/cpu.txt ...
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

PIN = re.compile(r"^([\w.-]+)==([^\s;]+) *(?:; *(.*?))? *\\?$")


def missing(files: list[str]) -> str | None:
    """The first package that is not there as pinned, in words.

    Args:
        files: Pin files; what their markers leave out on this machine is not looked for.
    """
    found = {_plain(each.name): each for each in distributions()}
    for file in files:
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            pin = PIN.match(line)
            if pin is None or not _applies(pin[3]):
                continue
            each = found.get(_plain(pin[1]))
            if each is None or each.version != pin[2]:
                return f"{pin[1]}=={pin[2]}: {f'{each.version} is installed' if each else 'not installed'}"
            # The first part of every path: a package whose folder is gone leaves its description behind.
            parts = {Path(path).parts[0] for path in each.files or ()} - {".."}
            gone = sorted(part for part in parts if not Path(str(each.locate_file(part))).exists())
            if gone:
                return f"{pin[1]}=={pin[2]}: its {gone[0]} is gone"
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _applies(marker: str | None) -> bool:
    if marker is None:
        return True
    from packaging.markers import Marker  # pinned in every set

    return bool(Marker(marker).evaluate())


if __name__ == "__main__":
    try:
        problem = missing(sys.argv[1:])
    except ImportError as error:
        problem = f"{error.name}: not installed"
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
