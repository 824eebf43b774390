"""Where an output comes from: the code that it was made by, and this package's version and commit.

The code of a stage is the closure of the imports of the module that builds it, over this project's own sources, also of
imports inside functions. It is read, not run, and hashed without comments, docstrings and layout: neither the folder of
the checkout nor the name that a package is imported by takes part.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gream
from gream.errors import GreamError

_PLUGINS = Path(gream.__file__).resolve().parent.parent
_NAMED = ("gream", "llamafactory_gream", "verl_srpo")
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NO_MATTER = frozenset(("kind", "type_comment", "type_ignores"))
# It says when a stage runs, and nothing about what comes out of it.
_RUNNER = frozenset(f"gream.{name}" for name in ("stage", "command_stage", "lock", "provenance", "record", "supervise"))


def code_of(*entries: Callable[..., Any] | Path) -> dict[str, str]:
    """Hash of the code of each module that ``entries`` are made of.

    Modules of a plugin go by their name (``gream.tasks``), those of other packages by their place in the package
    (``.rows.sft``), since a package may be installed under another name.

    Args:
        entries: Functions whose modules the closure begins at, or modules' files.
    """
    pending = [entry if isinstance(entry, Path) else Path(inspect.getfile(entry)) for entry in entries]
    found: dict[Path, str] = {}
    while pending:
        path = pending.pop().resolve()
        if path in found or _name(path) in _RUNNER:
            continue
        found[path], imported = _read(path)
        pending += imported
    return {_name(path): digest for path, digest in sorted(found.items(), key=lambda one: _name(one[0]))}


def plugin(package: str, module: str) -> Path:
    """File of a module of a plugin, which need not be importable: its framework may be missing."""
    return _PLUGINS / package / f"{module}.py"


def versions(*packages: str) -> dict[str, str]:
    """Version of each of ``packages``, as installed.

    Raises:
        GreamError: One is not installed.
    """
    try:
        return {package: version(package) for package in packages}
    except PackageNotFoundError as error:
        raise GreamError(f"package {error.name} is not installed; run scripts/install.sh") from None


@cache
def commit() -> str | None:
    """The git commit of this package's sources, with ``-dirty`` where they differ from it; None outside git."""
    git = ["git", "-C", str(_PLUGINS)]
    try:
        # The package may be installed into a folder of somebody else's repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", "gream/__init__.py"], check=True, capture_output=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def version_and_commit() -> dict[str, str]:
    """This package's version and, where there is one, its commit."""
    return {"gream": gream.__version__} | ({"commit": known} if (known := commit()) else {})


def _package(path: Path) -> Path:
    """The outermost package that ``path`` lies in."""
    folder = path.parent
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


def _name(path: Path) -> str:
    package = _package(path)
    parts = path.relative_to(package).with_suffix("").parts
    own = [package.name] if package.name in _NAMED else [""]
    return ".".join([*own, *(parts[:-1] if parts[-1] == "__init__" else parts)]) or "."


@cache
def _read(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Hash of a module's normal form, and the files of this project that it imports."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imported = tuple(file for node in _run_time(tree) for file in _imported(node, path))
    # A page's template goes by the name of its module.
    template = path.with_suffix(".html")
    layout = template.read_bytes() if template.exists() else b""
    return hashlib.sha256(_normal(tree).encode() + layout).hexdigest()[:16], imported


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` and the statements below it, without what only type checkers import."""
    yield node
    checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for name in ("orelse",) if checked else ("body", "orelse", "handlers", "finalbody", "cases"):
        # The body of a lambda or of a conditional expression holds no statement.
        if isinstance(below := getattr(node, name, None), list):
            for statement in below:
                yield from _run_time(statement)


def _imported(node: ast.AST, path: Path) -> Iterator[Path]:
    if isinstance(node, ast.Import):
        targets = [alias.name.split(".") for alias in node.names]
        places = [(_root(first, path), rest) for first, *rest in targets]
    elif isinstance(node, ast.ImportFrom):
        parts = node.module.split(".") if node.module else []
        base: Path | None
        if node.level:
            base = path.parents[node.level - 1]
        else:
            base, parts = _root(parts[0], path), parts[1:]
        # What is imported from a package may be a module of it.
        places = [(base, [*parts, *more]) for more in ([], *([alias.name] for alias in node.names))]
    else:
        return
    for base, rest in places:
        if base is None:
            continue
        for depth in range(len(rest) + 1):
            place = base.joinpath(*rest[:depth])
            yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file())


def _root(name: str, path: Path) -> Path | None:
    """Folder of the package ``name``, where it is one of the plugins or the one that ``path`` lies in."""
    package = _package(path)
    return package if package.name == name else _PLUGINS / name if name in _NAMED else None


def _normal(node: object) -> str:
    """``node`` in a form that does not depend on layout, comments, docstrings and the version of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_normal, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name == "body" and isinstance(node, _WITH_DOCSTRING):
            value = [one for one in value if not _says_nothing(one)]
        if value is not None and value != [] and name not in _NO_MATTER:
            fields.append(f"{name}={_normal(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _says_nothing(statement: ast.AST) -> bool:
    """Whether it is a docstring or the package's version."""
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0]) == "__version__"
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
