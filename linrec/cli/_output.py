"""Output of commands: results on stdout, remarks on stderr, colour only for a terminal.

The text is the same for every width, on a terminal or in a pipe; NO_COLOR switches colour off.
An `Ending` is bad usage or a bad input file: a fact and a way out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import click

FINE, SEQUENTIAL, USAGE, MISMATCH, INTERNAL = range(5)

_STYLES = {
    r"^(missed|warning)(\[LR\d+\])?": "bold yellow",
    r"^error(\[LR\d+\])?:?": "bold red",
    r"^passed\b|\bCONVERTED\b": "bold green",
    r"\bkept(?=  )|\bNOT VERIFIED\b": "bold yellow",
    r"^(note|help|done|docs|cost|else|more):|^ -->": "bold cyan",
    r"\bLR\d{4}\b": "bold",
    r"^ +\^+$": "bold red",
}


class Ending(click.ClickException):
    """The command ends here, with `error: fact` and `help: way out` on stderr."""

    exit_code = USAGE

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help

    def show(self, file: IO[Any] | None = None) -> None:
        remark(f"error: {self.message}\nhelp: {self.help}")


def result(text: str) -> None:
    """Print what was asked for."""
    _print(text, sys.stdout)


def remark(text: str) -> None:
    """Print what is worth knowing beside it."""
    _print(text, sys.stderr)


def result_json(data: Any) -> None:
    """Print plain data as JSON; numbers that JSON does not have become null."""
    click.echo(json.dumps(_finite(data), indent=2, ensure_ascii=True))


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what takes time, on a terminal only; call the value to say how far it is."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    console = Console(stderr=True, no_color="NO_COLOR" in os.environ)
    with console.status(what) as status:
        yield lambda text: status.update(f"{what}: {text}")


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Columns as wide as they need to be; the last is not padded."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in listed)
    return "\n".join(line.rstrip() for line in lines)


def _print(text: str, stream: IO[str]) -> None:
    if "NO_COLOR" in os.environ or not stream.isatty():
        click.echo(text, file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    coloured = Text()
    for line in text.splitlines(keepends=True):
        part = Text(line)
        for pattern, style in _STYLES.items():
            part.highlight_regex(pattern, style)
        coloured.append_text(part)
    Console(file=stream, soft_wrap=True, highlight=False).print(coloured)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
