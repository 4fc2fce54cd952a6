"""Reproducers: the text of a graph, under comments that say how it fails. One file, no weights, nothing to execute.

// linrec reproducer: LR5001 after lower
// passes: find-recurrences,prove-linear,choose-form,lower
// forms: auto
// draw: T=3, reals, seed 0
graph ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linrec.ir import Graph
from linrec.text import parse, show

_LINE = re.compile(r"// (linrec reproducer|passes|forms|draw): ([^\n]*)")
_DRAW = re.compile(r"T=([0-9]{1,9}), (integers|positive|reals|resized|broken), seed ([0-9]{1,9})")
FOLDER = Path("linrec-repro")  # of the working directory
_FORM = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Reproducer:
    """A graph and what is known of its failure: `passes` to run (None for all), `draw` as (T, kind, seed)."""

    graph: Graph
    passes: tuple[str, ...] | None = None
    forms: str = "auto"
    failure: str = ""
    draw: tuple[int, str, int] | None = field(default=None)


def write(found: Reproducer) -> str:
    """The file's text."""
    lines = [f"// linrec reproducer: {found.failure}"] if found.failure else []
    if found.passes is not None:
        lines.append(f"// passes: {','.join(found.passes)}")
    lines.append(f"// forms: {found.forms}")
    if found.draw is not None:
        steps, kind, seed = found.draw
        lines.append(f"// draw: T={steps}, {kind}, seed {seed}")
    return "\n".join(lines) + "\n" + show(found.graph)


def read(text: str, file: str = "<text>") -> Reproducer:
    """What a file holds; any graph is a reproducer of nothing in particular. Raises IRSyntaxError."""
    graph = parse(text, file)
    head: dict[str, str] = {}
    for line in text[: text.find("graph")].splitlines():
        found = _LINE.fullmatch(line.strip())
        if found:
            head[found[1]] = found[2].strip()
    drawn = _DRAW.fullmatch(head.get("draw", ""))
    forms = head.get("forms", "auto")
    return Reproducer(
        graph,
        tuple(p.strip() for p in head["passes"].split(",")) if head.get("passes") else None,
        forms if _FORM.fullmatch(forms) else "auto",
        head.get("linrec reproducer", ""),
        (int(drawn[1]), drawn[2], int(drawn[3])) if drawn else None,
    )


def save(found: Reproducer, file: Path) -> Path:
    """Write it to `file`, making folders as needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(write(found))
    return file


def stem(graph: Graph) -> str:
    """The graph's name as part of a file's name, without the function that a function is local to."""
    return re.sub(r"[^\w.-]", "_", graph.name.rpartition("<locals>.")[2])


def leave(found: Reproducer) -> str:
    """Where a reproducer was left in the working directory, "" if nothing can be written there."""
    code = found.failure.partition(" ")[0]
    try:
        return str(save(found, FOLDER / f"{stem(found.graph)}-{code}.lir"))
    except OSError:
        return ""


def until(passes: Sequence[str], step: str) -> tuple[str, ...]:
    """The passes up to the one that fails."""
    names = list(passes)
    return tuple(names[: names.index(step) + 1] if step in names else names)
