"""The study's one exception."""

from collections.abc import Iterable


class StudyError(Exception):
    """Bad input: one clear line that says what is wrong and what to do. Notebooks and commands end with that line."""


def unknown(kind: str, name: object, known: Iterable[str]) -> StudyError:
    """The error for a name that does not exist, listing those that do."""
    return StudyError(f"unknown {kind} {name!r}: choose one of {', '.join(sorted(known))}")
