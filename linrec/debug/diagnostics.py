"""Diagnostics: remarks and errors at lines of a text, and whether they are those that the text expects.

    %n = tanh(%w) : f32[B] @t init(%zero)      // expected-remark {{the state passes through `tanh`}}

`@+1`, `@-2`, `@above` and `@below` speak of another line. An expectation is met by a diagnostic of its kind on its line
whose message contains its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from linrec.ir import Graph
from linrec.manager import Remark

_EXPECTED = re.compile(r"expected-(error|remark)(?:@([+-][0-9]{1,6}|above|below))?\s*\{\{(.*?)\}\}")
_MARK = re.compile(r"(?m)^// -----[^\n]*$")


@dataclass(frozen=True)
class Diagnostic:
    """A remark or an error at a line."""

    kind: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.kind}: {self.message}"


def pieces(text: str) -> list[str]:
    """The parts of a file between lines `// -----`; each keeps its line numbers by leading blank lines."""
    found, start = [], 0
    for mark in (*_MARK.finditer(text), None):
        end = mark.start() if mark is not None else len(text)
        found.append("\n" * text.count("\n", 0, start) + text[start:end])
        start = mark.end() if mark is not None else end
    return found


def expectations(text: str) -> list[Diagnostic]:
    """What the comments of a text expect."""
    near = {"above": -1, "below": 1, None: 0}
    return [
        Diagnostic(kind, number + (near[at] if at in near else int(at)), words)
        for number, line in enumerate(text.split("\n"), 1)
        for kind, at, words in (m.groups() for m in _EXPECTED.finditer(line.partition("//")[2]))
    ]


def placed(remarks: Iterable[Remark], graph: Graph, text: str) -> list[Diagnostic]:
    """Remarks at the lines that define what they speak of; a recurrence stands where its first state does."""
    states = {r.name: r.states[0] for r in graph.recurrences if r.states}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        found = re.match(r'\s*(?:%("?)([^"=\s]+)\1\s*=|graph\s+([\w.]+))', line)
        if found:
            lines.setdefault(found[2] or found[3], number)
    return [
        Diagnostic("remark", lines.get(states.get(r.where, r.where), 1), f"{r.by}: {r.where}: {r.message}")
        for r in remarks
    ]


def compared(expected: list[Diagnostic], found: list[Diagnostic], *, complete: bool) -> list[str]:
    """What is missing, and what came unasked: every error, and with `complete` every remark."""
    left = list(found)
    complaints: list[str] = []
    for wanted in expected:
        hit = next((d for d in left if _meets(d, wanted)), None)
        if hit is None:
            complaints.append(f"expected {wanted.kind} not produced: line {wanted.line}: {wanted.message}")
        else:
            left.remove(hit)
    return complaints + [f"unexpected {d}" for d in left if complete or d.kind == "error"]


def _meets(found: Diagnostic, wanted: Diagnostic) -> bool:
    return found.kind == wanted.kind and found.line == wanted.line and wanted.message in found.message
