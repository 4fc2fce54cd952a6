"""The HTML report: one file that works from disk, without a server and without a link to anywhere.

Each recurrence beside the user's lines; its affine form; the forms considered with their costs; poles and impulse
response of what does not vary; the graph before and after; errors by block of time. `redact` leaves out the user's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from linrec.compiler import Engine, Options
from linrec.debug import plots
from linrec.debug.assets import SCRIPT, STYLE
from linrec.debug.dynamics import Dynamics, block_errors, dynamics
from linrec.debug.hooks import Measure
from linrec.debug.notation import formulas
from linrec.debug.picture import COLOURS, picture
from linrec.ir import Graph
from linrec.ir import Recurrence as Record
from linrec.manager import Stages, watching
from linrec.render import is_converted
from linrec.reports import Recurrence, Report
from linrec.symbolic import with_closed_forms


@dataclass(frozen=True)
class Findings:
    """All that a page shows: the report, the graph after each pass, passes, dynamics by recurrence, errors by block."""

    report: Report
    stages: Mapping[str, Graph]
    measure: Measure
    dynamics: Mapping[str, Dynamics]
    errors: tuple[Sequence[float], Sequence[str], float] | None


def report_page(model: Callable[..., Any], inputs: Sequence[Any], *, redact: bool = False) -> str:
    """The page for `model(*inputs)`. Runs the original and the compiled program once each on the inputs."""
    return page(found(model, inputs), redact=redact)


def found(model: Callable[..., Any], inputs: Sequence[Any]) -> Findings:
    """Compile, watch, and measure what the page shows."""
    module = model if isinstance(model, nn.Module) else None
    function = module.forward if module is not None else getattr(model, "__wrapped__", model)
    name = getattr(model, "__name__", type(model).__name__)
    engine = Engine(function, name, Options(), module)
    stages, measure = Stages(), Measure()
    with watching(stages, measure):
        report = engine.explain(tuple(inputs), {})
    if report.code and not report.recurrences:
        return Findings(report, {}, measure, {}, None)
    compiled = engine.program_for(tuple(inputs), {})
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    report = with_closed_forms(report, compiled)
    names = [i.name for i in compiled.captured.graph.inputs]
    values = dict(zip(names, [*tensors, *(get() for get in compiled.getters)], strict=True))
    before = stages.graphs["prove-linear"]
    known = {r.name: d for r in before.recurrences if (d := dynamics(before, r, values)) is not None}
    errors = None
    steps = (compiled.lengths(tensors) or {}).get("T")
    if steps and any(is_converted(r) for r in report.recurrences):
        with torch.no_grad():
            wanted, made = function(*inputs), Engine(function, name, Options(verify="off"), module)(tuple(inputs), {})
        errors = block_errors(wanted, made, steps)
    return Findings(report, stages.graphs, measure, known, errors)


def page(data: Findings, *, redact: bool = False) -> str:
    """The page as text."""
    report = data.report
    body = [*_head(report), *_recurrences(data, redact), *_graphs(data, redact), *_checks(data), *_passes(data)]
    title = escape(f"linrec: {report.name}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _head(report: Report) -> Iterator[str]:
    done = sum(map(is_converted, report.recurrences))
    total = len(report.recurrences)
    versions = ", ".join(f"{k} {v}" for k, v in report.versions.items())
    yield f"<h1>{escape(report.name)}</h1>"
    yield f'<p class="soft">{total} recurrences, {done} converted, {total - done} left as written. {escape(versions)}</p>'
    if report.code:
        yield f'<div class="card"><p class="kept">{escape(report.code)} {escape(report.reason)}</p>'
        yield f"<p>{escape(report.source)}</p><pre>{escape(report.help)}</pre></div>"


# ---- recurrences ----


def _recurrences(data: Findings, redact: bool) -> Iterator[str]:
    proven = {r.name: r for r in data.stages["prove-linear"].recurrences} if data.stages else {}
    for number, found_ in enumerate(data.report.recurrences):
        colour = COLOURS[number % len(COLOURS)]
        yield f'<section class="card recurrence" id="{escape(found_.name)}" style="border-left:6px solid {colour}">'
        yield from _verdict(found_, redact)
        if not redact:
            yield from _listing(found_)
        record = proven.get(found_.name)
        if record is not None:
            yield from _mathematics(data, record, found_.closed)
        yield from _costs(found_)
        yield "</section>"


def _verdict(r: Recurrence, redact: bool) -> Iterator[str]:
    state = '<span class="good">converted</span>' if is_converted(r) else '<span class="kept">kept as written</span>'
    kind = f"{r.kind}/{r.structure}" if r.structure else r.kind
    over = "" if r.semiring == "sum-product" else f" over {r.semiring}"
    yield f'<h2 style="margin-top:0">{escape(r.name)} {state} <span class="soft">{escape(kind + over)}, {escape(r.form)}</span></h2>'
    yield f"<p>state <code>{escape(', '.join(r.states))}</code> at {escape(r.source)}</p>"
    if r.code:
        yield f"<p><b>{escape(r.code)}</b> {escape(r.reason)}</p>"
        if r.culprit and not redact:
            yield f"<p>blamed: <code>{escape(r.culprit)}</code></p>"
    if r.help:
        yield f"<pre>help: {escape(r.help)}</pre>"
    for note in (*r.notes, r.done):
        if note:
            yield f'<p class="soft">{escape(note)}</p>'


def _listing(r: Recurrence) -> Iterator[str]:
    if not r.lines:
        return
    yield '<div class="wide"><table class="listing mono">'
    for file, line, code, remark in r.lines:
        place = f"{file}:{line}"
        yield (
            f'<tr data-place="{escape(place)}"><td class="number">{line}</td><td>{escape(code)}</td>'
            f'<td class="soft">{escape(remark)}</td></tr>'
        )
    yield "</table></div>"


def _mathematics(data: Findings, record: Record, closed: Sequence[str]) -> Iterator[str]:
    written = formulas(data.stages["prove-linear"], record)
    if written:
        yield '<h3>step</h3><div class="wide">' + "".join(written) + "</div>"
    if closed:
        lines = "".join(f'<p class="formula mono">{escape(line)}</p>' for line in closed)
        yield f'<h3>impulse response after n steps</h3><div class="wide">{lines}</div>'
    known = data.dynamics.get(record.name)
    if known is not None:
        largest = max((abs(p) for p in known.poles), default=0.0)
        yield f'<h3>dynamics</h3><p class="soft">{len(known.poles)} poles, the largest |z| = {largest:.6g}'
        yield "; the state decays</p>" if largest < 1 else "; the state does not decay</p>"
        yield f'<div class="plots">{plots.poles(known.poles)}{plots.lines(known.response, "step", "impulse response")}</div>'


def _costs(r: Recurrence) -> Iterator[str]:
    costs = [c for c in (r.cost, *r.alternatives) if c is not None]
    if not costs:
        return
    yield '<h3>forms considered</h3><div class="wide"><table><tr><th>form</th><th>predicted</th><th>pays from</th>'
    yield "<th>operations</th><th>bytes</th><th>depth</th></tr>"
    for c in costs:
        pays = "" if c.pays_from is None else f"{c.pays_from:,} steps"
        name = f"<b>{escape(c.form)}</b>" if c.form == r.form else escape(c.form)
        yield (
            f"<tr><td>{name}</td><td>{c.seconds * 1e6:,.0f} µs</td><td>{pays}</td>"
            f'<td class="formula mono">{escape(c.flops)}</td><td class="formula mono">{escape(c.bytes)}</td>'
            f'<td class="formula mono">{escape(c.depth)}</td></tr>'
        )
    yield "</table></div>"


# ---- graphs, checks, passes ----


def _graphs(data: Findings, redact: bool) -> Iterator[str]:
    if not data.stages:
        return
    before, after = data.stages["prove-linear"], data.stages["lower"]
    # what lowering made of a recurrence keeps its colour
    kept = tuple(
        replace(r, members=tuple(op.result for op in after.ops if op.result in r.members or op.result.startswith(f"{r.name}.")))
        for r in after.recurrences
    )  # fmt: skip
    yield '<h2>graph</h2><div class="tabs"><button data-shows="before" aria-pressed="true">before</button>'
    yield '<button data-shows="after" aria-pressed="false">after</button></div>'
    yield '<div class="viewer"><div class="tools"><button data-zoom="1.4" aria-label="larger">+</button>'
    yield '<button data-zoom="0.714" aria-label="smaller">&minus;</button><button aria-label="whole">fit</button></div>'
    yield (
        '<svg width="0" height="0" style="position:absolute"><defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#66737c"/></marker></defs></svg>'
    )
    yield picture(before, "before", redact=redact)
    yield picture(replace(after, recurrences=kept), "after", redact=redact).replace("<svg ", "<svg hidden ", 1)
    yield '</div><div id="detail" class="card">Click a value to see it, what it reads, and your line.</div>'
    yield '<p class="soft">Dashed red: reads of an earlier step. Colours: one recurrence each, as above.</p>'


def _checks(data: Findings) -> Iterator[str]:
    v = data.report.verification
    if not v.ran:
        return
    state = '<span class="good">agrees</span>' if v.passed else '<span class="kept">disagrees</span>'
    grads = "gradients compared" if v.gradients else "values only"
    yield f"<h2>verification</h2><p>The compiled program {state} with the original on {v.steps} steps: error {v.error:.1e}, "
    yield f"allowed {v.allowed:.1e}, {grads}. {escape(v.note if not v.passed else '')}</p>"
    if data.errors is not None and data.errors[0]:
        values, labels, allowed = data.errors
        yield f'<div class="plots">{plots.bars(values, labels, allowed, "largest error by block of time")}</div>'


def _passes(data: Findings) -> Iterator[str]:
    rows = data.measure.table(timing=True, statistics=True)
    if len(rows) < 2:
        return
    yield '<h2>passes</h2><div class="wide"><table>'
    for number, row in enumerate(rows):
        cell = "th" if number == 0 else "td"
        yield "<tr>" + "".join(f"<{cell}>{escape(c)}</{cell}>" for c in row) + "</tr>"
    yield "</table></div>"
