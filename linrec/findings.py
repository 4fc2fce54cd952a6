"""Findings: from the graphs of a compilation to the report that users read."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata

import torch

from linrec import ir, native
from linrec.errors import CaptureError
from linrec.frontends.loop import Capture
from linrec.frontends.loop.counters import Unreadable
from linrec.linear.cost import Estimate
from linrec.manager import Context
from linrec.reports import Cost, Recurrence, Report


def versions() -> dict[str, str]:
    """What ran."""
    try:
        own = metadata.version("linrec")
    except metadata.PackageNotFoundError:
        own = "unknown"
    kernels = "plain" if native.kernels() is None else "compiled"
    return {"torch": torch.__version__.partition("+")[0], "linrec": own, "kernels": kernels}


def build(
    name: str,
    captured: Capture,
    stages: Mapping[str, ir.Graph],
    context: Context,
    seconds: dict[str, float],
    captures: int,
) -> Report:
    """One entry a recurrence, with its source, reason, cost and what was done."""
    graph = stages["choose-form"]
    found = [_entry(graph, stages, r, context) for r in graph.recurrences]
    report = Report(name, found, captures, seconds=seconds, versions=versions())
    if captured.held is not None:
        text = held_because(captured.held, captured.remainder is None)
        report = replace(report, recurrences=[replace(r, notes=(*r.notes, text)) for r in found])
        if not found:  # the loop over time is gone into its operators
            report = replace(report, code=getattr(captured.held, "code", "LR0405"), reason=text)
    return report


def held_because(reason: Unreadable | CaptureError, of_one_length: bool = True) -> str:
    """Why a program holds for the sizes it was traced at only, or for some lengths only."""
    if isinstance(reason, Unreadable):
        where = f"{reason.source.file.rpartition('/')[2]}:{reason.source.line}"
        return f"holds for the sizes of this call only: what `{reason.name}` does at other steps or lengths cannot be read ({where})"
    return f"{'holds for the sizes of this call only: ' * of_one_length}{reason.message} [{reason.code}]"


def rejected(report: Report) -> Report:
    """The report of a program whose check failed: everything runs as written."""
    v = report.verification
    reason = f"the parallel form disagrees with the loop: {v.note} (error {v.error:.1e}, allowed {v.allowed:.1e})"
    changed = [
        replace(
            r, form="sequential", code="LR5001", reason=reason, done="the program runs as written; results stay correct"
        )
        for r in report.recurrences
    ]
    return replace(report, recurrences=changed, code="LR5001", reason=reason)


def _entry(graph: ir.Graph, stages: Mapping[str, ir.Graph], r: ir.Recurrence, context: Context) -> Recurrence:
    by_name = graph.by_name()
    first = next((by_name[m].source for m in (*r.states, *r.members) if by_name[m].source is not None), None)
    culprit = by_name[r.culprit].source if r.culprit in by_name else None
    place = culprit or first
    estimates = [e for e in context.costs.get(r.name, ()) if isinstance(e, Estimate)]
    costs = [Cost(e.form, e.flops, e.bytes, e.depth, e.seconds, e.pays_from) for e in estimates]
    cost = next((c for c in costs if c.form == r.form), None)
    done = ""
    if r.form == "sequential":
        done = _done(graph, stages["find-recurrences"])
    return Recurrence(
        r.name, r.kind, r.semiring, r.structure, r.form, str(place) if place else "", r.code, r.reason, r.help,
        _text(culprit), r.states, done, cost, tuple(c for c in costs if c.form != r.form), r.notes, _lines(graph, r),
    )  # fmt: skip


def _text(source: ir.Source | None) -> str:
    """The user's expression."""
    if source is None:
        return ""
    line = linecache.getline(source.file, source.line).rstrip("\n")
    return (line.encode()[source.start : source.end].decode() if source.end else line.strip()) or line.strip()


def _done(graph: ir.Graph, before: ir.Graph) -> str:
    members = {m for r in graph.recurrences for m in r.members}
    maps = [op for op in before.ops if op.time is not None and op.result not in members and op.kind != "signal"]
    if not maps:
        return "loop kept as written"
    names = ", ".join(dict.fromkeys(f"`{op.kind}`" for op in maps))
    return f"loop kept; {len(maps)} operator{'s' * (len(maps) > 1)} that read no state done for all steps at once ({names})"


def _lines(graph: ir.Graph, r: ir.Recurrence) -> tuple[tuple[str, int, str, str], ...]:
    """The user's lines that the recurrence's loop runs, each with what became of it."""
    found: dict[tuple[str, int], list[str]] = {}
    members = set(r.members)
    others = {m for other in graph.recurrences for m in other.members} - members
    for op in graph.ops:
        if op.source is None or op.time != r.time or op.result in others:
            continue
        remarks = found.setdefault((op.source.file, op.source.line), [])
        if op.result == r.culprit:
            remarks.append(f"`{op.kind}` of the state: not affine")
        elif op.result in members:
            remarks.append(
                f"state {r.name}"
                if op.result in r.states
                else f"affine in {r.name}"
                if r.kind != "nonlinear"
                else f"in {r.name}"
            )
        elif op.kind != "signal":
            remarks.append(f"no state: `{op.kind}` for all steps at once")
    return tuple(
        (file.rpartition("/")[2], line, linecache.getline(file, line).rstrip("\n"), "; ".join(dict.fromkeys(remarks)))
        for (file, line), remarks in sorted(found.items())
    )
