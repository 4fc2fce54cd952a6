"""Levels 3 and 4 of `linrec explain`: the step in the intermediate language before and after, then passes and guards.

Both are read off what hooks saw of the compilation: `Stages` the graphs, `Measure` the passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from linrec.debug.hooks import Measure
from linrec.ir import Graph, Op, Recurrence
from linrec.render import level2
from linrec.reports import Report
from linrec.text import show_op


def level3(report: Report, stages: Mapping[str, Graph]) -> str:
    """Level 2, then each recurrence's step before and after."""
    return "\n".join([level2(report), *_steps(stages)])


def level4(report: Report, stages: Mapping[str, Graph], measure: Measure) -> str:
    """Level 3, then what each pass took and did, and what a compiled call checks."""
    rows = measure.table(timing=True, statistics=True)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([level3(report, stages), "", *table, "", *guards(stages)])


def _steps(stages: Mapping[str, Graph]) -> Iterator[str]:
    last = stages.get("lower")
    if last is None:
        return
    first = stages["find-recurrences"]
    for recurrence in last.recurrences:
        yield ""
        yield f"{recurrence.name}: the step as captured, {recurrence.time} = 0 .. {first.time(recurrence.time).trip} - 1"
        yield from (f"  {_plain(first.op(m))}" for m in recurrence.members if m in first.by_name())
        made = _made(last, recurrence)
        if made:
            yield f"{recurrence.name}: all steps at once, as {recurrence.form}"
            yield from (f"  {_plain(op)}" for op in made)
        else:
            yield f"{recurrence.name}: runs as captured"


def _made(graph: Graph, recurrence: Recurrence) -> list[Op]:
    """The ops that lowering wrote: its own names, and the outputs that read them."""
    if recurrence.form in ("", "sequential"):
        return []
    return [op for op in graph.ops if op.result.startswith(f"{recurrence.name}.") or op.result in recurrence.outputs]


def _plain(op: Op) -> str:
    return show_op(replace(op, source=None))


def guards(stages: Mapping[str, Graph]) -> Iterator[str]:
    """What must be as it was for the compiled program to run; another call is captured anew."""
    graph = next(iter(stages.values()), None)
    if graph is None:
        return
    yield "guards: a call that differs in one of these is captured anew"
    for i in graph.inputs:
        where = "argument" if i.role == "input" else f"{i.role} {i.path}".rstrip()
        yield f"  {i.name}: {i.type}, device, layout, requires_grad   ({where})"
    sizes = sorted(graph.sizes() - {"T"})
    if sizes:
        yield f"  {', '.join(sizes)} > 1: a size of one broadcasts, which is another program"
    for time in graph.times:
        yield f"  {time.trip} >= 1: the loop over {time.name} runs"
    yield "  numbers, strings and flags among the arguments, attributes, globals and closures; grad mode, autocast, default dtype"
