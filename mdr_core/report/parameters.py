"""A notebook's parameters: a cell has their defaults, papermill adds a cell with others."""

import ast
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mdr_core.errors import StudyError, unknown
from mdr_core.files import REPOSITORY, check_writable

MARK = "# Parameters."  # opens a notebook's parameters cell
INJECTED = "# Parameters\n"  # opens the cell that papermill adds


def checked_parameters(namespace: dict) -> SimpleNamespace:
    """Return the notebook's parameters, each of its default's type, and their ``defaults``.

    papermill itself only warns of an unknown parameter. A list given as text becomes a list.

    Args:
        namespace: the notebook's ``globals()``. It holds the values and, as ``In``, the source of
            the cells that were run; it stays as it is.

    Raises:
        StudyError: an unknown name, a value of another type, one that :func:`check` refuses, or no
            parameters cell was run.
    """
    cells = namespace["In"]
    own = max((i for i, cell in enumerate(cells) if cell.startswith(MARK)), default=None)
    if own is None:
        raise StudyError("run the parameters cell first")
    defaults = assigned(cells[own])
    for cell in cells[own + 1 :]:
        for node in ast.parse(cell).body if cell.startswith(INJECTED) else ():
            name = ast.unparse(node).split()[0].rstrip(":")  # values may be float('nan')
            if name not in defaults:
                raise unknown("parameter", name, defaults)
    values = {name: typed(name, default, namespace[name]) for name, default in defaults.items()}
    check(values)
    return SimpleNamespace(**values, defaults=defaults)


def check(values: dict[str, Any]) -> None:
    """Refuse before any training what could only fail, or show nothing, after it."""
    if values.get("epochs") == 0:
        raise StudyError("epochs is 0: give at least 1, or -1 for the profile's own number")
    for name in ("top", "queries", "hardest"):
        if values.get(name, 1) < 1:
            raise StudyError(f"{name} must be at least 1, got {values[name]}")
    for name in ("save_root", "index_root"):
        if values.get(name):
            check_writable(path_of(values[name]), name)


def assigned(source: str) -> dict[str, object]:
    """Return the names and literal values that a cell assigns: ``lr = 0.1``, ``lr: float = 1``."""
    found: dict[str, object] = {}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = ast.literal_eval(value)
            case ast.AnnAssign(
                target=ast.Name(id=name), annotation=kind, value=ast.expr() as value
            ):
                number = ast.literal_eval(value)
                found[name] = float(number) if ast.unparse(kind) == "float" else number
    return found


def typed(name: str, default: object, value: object) -> object:
    """Return the value as the default's type; a list's items have that of the default's first."""
    if default is None:  # of a switch
        return value if value is None else checked(name, bool, value)
    if not isinstance(default, list):
        return checked(name, type(default), value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if not isinstance(value, (list, tuple)):
        raise StudyError(f"{name} must be a list, got {value!r}")
    if default and not value:
        raise StudyError(f"{name} is empty: give at least one")
    if len(set(map(str, value))) < len(value):
        raise StudyError(f"{name} names something twice: {list(value)}")
    return [typed(f"each of {name}", default[0], item) if default else item for item in value]


def path_of(folder: str) -> Path:
    """Return a folder's path; a relative one is in the study, wherever the notebook runs."""
    return REPOSITORY / Path(folder).expanduser()


def checked(name: str, kind: type, value: object) -> object:
    """Return a value as a type."""
    try:
        return TypeAdapter(kind, config={"strict": True}).validate_python(value)
    except ValidationError:
        raise StudyError(f"{name} must be of type {kind.__name__}, got {value!r}") from None
