"""The study's one kind of exception."""

from collections.abc import Iterable


class StudyError(Exception):
    """Bad input: one line that says what is wrong and what to do. Notebooks and commands end so."""

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).splitlines()))  # a file's name may hold a line break

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class NothingStored(StudyError):
    """A report has no stored run to show, and none is to be trained."""


def unknown(kind: str, name: object, known: Iterable[str]) -> StudyError:
    """Return the error for a name that does not exist, listing those that do."""
    return StudyError(f"unknown {kind} {name!r}: choose one of {', '.join(sorted(known))}")
