"""Instrumentation: each debugging flag of `linrec opt` is one hook of this file.

They watch any pipeline: `linrec.debug.optimize(graph, hooks=[...])`, or `with linrec.manager.watching(...)` around
`linrec.compile`. `write` takes text without a final newline; nothing here imports torch.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from linrec.ir import Graph
from linrec.manager import Context, Hook, Pass, Remark, Rewrite
from linrec.reproducer import stem
from linrec.text import show

Write = Callable[[str], None]
_SHORT = 24  # a remark up to this long is counted by its words


@dataclass
class PrintIR(Hook):
    """Print the graph before or after passes: named ones, all, those that changed it, one that failed."""

    write: Write
    before_names: Collection[str] = ()
    after_names: Collection[str] = ()
    after_all: bool = False
    after_change: bool = False
    after_failure: bool = False

    def before(self, step: Pass, graph: Graph, context: Context) -> None:
        """Print if asked for by name."""
        if step.name in self.before_names or "all" in self.before_names:
            self.write(f"// ---- before {step.name} ----\n{show(graph).rstrip()}")

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """Print if asked for by name or by what happened."""
        changed = new != old
        if self.after_all or step.name in self.after_names or (self.after_change and changed):
            state = "changed" if changed else "no change"
            self.write(f"// ---- after {step.name} ({state}) ----\n{show(new).rstrip()}")

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception) -> None:
        """Print what the pass was given."""
        if self.after_failure:
            self.write(f"// ---- {step.name} failed on ----\n{show(graph).rstrip()}")


@dataclass
class WriteTree(Hook):
    """One file a pass: FOLDER/GRAPH/00-given.lir, 01-canonicalize.lir, ..."""

    folder: Path
    _count: Counter[str] = field(default_factory=Counter)

    def before(self, step: Pass, graph: Graph, context: Context) -> None:
        """The graph as given, once."""
        if not self._count[graph.name]:
            self._write(graph, "given")

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """One more file."""
        self._write(new, step.name)

    def _write(self, graph: Graph, name: str) -> None:
        folder = self.folder / stem(graph)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._count[graph.name]:02}-{name}.lir").write_text(show(graph))
        self._count[graph.name] += 1


@dataclass
class Row:
    """What one pass took and did, all its runs together."""

    name: str
    seconds: float = 0.0
    rewrites: int = 0
    ops: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    note: str = ""  # of what is no pass

    @property
    def statistics(self) -> str:
        """Counted remarks and the change in operators."""
        parts = [f"{words} {count}" for words, count in self.remarks.most_common(4)]
        return ", ".join(parts + [f"{self.ops:+} ops"] * bool(self.ops) + [self.note] * bool(self.note))


class Measure(Hook):
    """Time, rewrites and statistics of each pass; `rows` are in the order of first runs."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._rewrites = self._remarks = 0

    def before(self, step: Pass, graph: Graph, context: Context) -> None:
        """Where the counters stood."""
        self._rewrites, self._remarks = len(context.rewrites), len(context.remarks)

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """Add to the pass's row."""
        row = self.rows.setdefault(step.name, Row(step.name))
        row.seconds += seconds
        row.rewrites += len(context.rewrites) - self._rewrites
        row.ops += len(new.ops) - len(old.ops)
        for remark in context.remarks[self._remarks :]:
            row.remarks[remark.message if len(remark.message) <= _SHORT else remark.kind] += 1

    def timed(self, name: str, function: Callable[[], str]) -> None:
        """Count what is no pass (verification, say) behind them; `function` says what it did."""
        started = time.perf_counter()
        note = function()
        row = self.rows.setdefault(name, Row(name))
        row.seconds, row.note = row.seconds + time.perf_counter() - started, note

    def table(self, *, timing: bool, statistics: bool) -> list[tuple[str, ...]]:
        """Rows of text under a head."""
        total = sum(row.seconds for row in self.rows.values()) or 1.0
        head = ("pass", *(("wall", "%") if timing else ()), *(("rewrites", "statistics") if statistics else ()))
        lines = [head]
        for row in sorted(self.rows.values(), key=lambda row: bool(row.note)):
            cells = [row.name]
            if timing:
                cells += [f"{row.seconds * 1e3:.1f} ms", f"{100 * row.seconds / total:.0f}"]
            if statistics:
                cells += [str(row.rewrites) if row.rewrites else "-", row.statistics]
            lines.append(tuple(cells))
        return lines


@dataclass
class PrintRemarks(Hook):
    """Print remarks of some kinds, each as its pass ends; `pattern` is searched in pass, place and message."""

    write: Write
    kinds: Collection[str]
    pattern: re.Pattern[str] | None = None
    _seen: int = 0

    def before(self, step: Pass, graph: Graph, context: Context) -> None:
        """Where the list of remarks stood."""
        self._seen = len(context.remarks)

    def after(self, step: Pass, old: Graph, new: Graph, context: Context, seconds: float) -> None:
        """Print the new ones."""
        for remark in context.remarks[self._seen :]:
            line = told(remark)
            if remark.kind in self.kinds and (self.pattern is None or self.pattern.search(line)):
                self.write(line)


def told(remark: Remark) -> str:
    """A remark in one line."""
    return f"remark [{remark.kind}] {remark.by}: {remark.where}: {remark.message}"


@dataclass
class Limit(Hook):
    """Allow the first `limit` rewrites only: what a bisection turns."""

    limit: int

    def allows(self, rewrite: Rewrite) -> bool:
        """Is it one of the first?"""
        return rewrite.number <= self.limit


@dataclass
class PrintRewrites(Hook):
    """One line a rewrite, as LLVM's opt-bisect-limit prints them."""

    write: Write
    limit: int | None = None

    def allows(self, rewrite: Rewrite) -> bool:
        """Say whether it is done; never stops one itself."""
        skipped = self.limit is not None and rewrite.number > self.limit
        self.write(f"BISECT: {'NOT running' if skipped else 'running'} rewrite {rewrite}")
        return True


@dataclass
class Injected(Hook):
    """A seeded bug: what pass `step` makes is changed by `mutate`, as one more rewrite of that pass.

    `mutate` returns None where it does not apply. It is applied to the first graph it applies to.
    """

    step: str
    mutate: Callable[[Graph], Graph | None]
    applied: int = 0

    def made(self, step: Pass, old: Graph, new: Graph, context: Context) -> Graph:
        """The mutated graph, if it is this pass and the rewrite is allowed."""
        changed = self.mutate(new) if step.name == self.step else None
        if changed is None or changed == new or not context.allows("seeded bug"):
            return new
        self.applied += 1
        return changed
