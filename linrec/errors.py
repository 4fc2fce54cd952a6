"""Errors: everything linrec itself raises derives from `LinrecError`.

An error is a place, a fact and a way out. Errors of the user's own model are never wrapped: they
pass through with their type, and a note names the recurrence they came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What Python and torch raise where a computation fails; torch's own errors derive from RuntimeError.
# Not MemoryError, nor what ends a process.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError,
)  # fmt: skip


class LinrecError(Exception):
    """A code, a sentence, and where known the user's file and line and an edit that helps."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        loop: str | None = None,
        file: str | None = None,
        line: int | None = None,
        help: str | None = None,
    ) -> None:
        self.code, self.message, self.loop, self.file, self.line, self.help = code, message, loop, file, line, help
        where = "" if file is None else f"\n --> {file}" + ("" if line is None else f":{line}")
        super().__init__(f"error[{code}] {message}{where}" + (f"\nhelp: {help}" if help else ""))


class CaptureError(LinrecError):
    """The program could not be turned into a graph."""


class ProgramError(CaptureError):
    """The program itself failed in a trial run: its own error is the cause."""


@contextmanager
def trial() -> Iterator[None]:
    """Runs the user's own program where it is free to fail: on stand-ins, on fewer steps, at other lengths.

    A program may raise classes of its own, so this one place catches them all. Raises ProgramError; reasons why the
    program cannot be captured pass through.
    """
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        raise ProgramError(
            "LR9002", f"the program failed in a trial run with {type(error).__name__}: {error}"
        ) from error


class NotLinearError(LinrecError):
    """A recurrence is not linear and `strict=True` asked for a parallel form."""


class DeclarationError(LinrecError):
    """An equation, a system or a diagram that cannot be read."""


class ShapeError(LinrecError):
    """Sizes do not fit together."""


class StateError(LinrecError):
    """A recurrent form that cannot exist, or a state that does not fit it."""


class NumericsError(LinrecError):
    """A result that cannot be represented."""


class VerificationError(LinrecError):
    """Two forms of one program disagree."""


class IRSyntaxError(LinrecError):
    """Text that is not a graph: `file`, `line` and `column` say where."""

    def __init__(self, code: str, message: str, *, file: str, line: int, column: int, text: str, help: str) -> None:
        self.column = column
        start = max(column - 200, 0) if len(text) > 400 else 0  # a part of a very long line
        text, place = text[start : start + 400], column - start
        super().__init__(code, message, file=file, line=line, help=help)
        self.args = (
            f"error[{code}] {file}:{line}:{column}: {message}\n{line:>4} | {text}\n     | {' ' * (place - 1)}^\nhelp: {help}",
        )


class VerifyError(LinrecError):
    """A graph that breaks a law of the intermediate language: a pass or a hand-written text is wrong."""


class InternalError(LinrecError):
    """linrec broke a promise to itself; please report it."""
