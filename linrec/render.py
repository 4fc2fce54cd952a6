"""A report as text for people: every recurrence has a verdict, a place, a reason and a way out.

Three renderings of the same records, none of which depends on the width of a terminal:
`level1` is one screen, a line a recurrence; `brief` adds the reason of whatever was kept as
written; `level2` adds the user's own lines with remarks beside them, and costs. A message is

    missed[LRxxxx] name: a sentence
     --> file.py:21   the user's line
    note: evidence    help: an edit that works    done: what linrec did instead
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linrec.reports import Cost, Recurrence, Report, Verification

_CODE_WIDTH = 88  # a longer line of the user's pushes its remark to the right


def level1(report: Report) -> str:
    """One screen: a line a recurrence, what was verified, what it took."""
    lines = [*_summary(report), *(_refusal(report) if report.code else ()), *_footer(report)]
    codes = list(dict.fromkeys(code for code in (report.code, *(r.code for r in report.recurrences)) if code))
    if codes:
        lines.append(f"more: linrec explain --level 2, linrec explain-code {codes[0]}")
    return _joined(lines)


def brief(report: Report) -> str:
    """Level 1 with the reasons of what was kept as written."""
    lines = [*_summary(report), *(_refusal(report) if report.code else ())]
    for found in report.recurrences:
        if not is_converted(found):
            lines += _message(found)
    return _joined([*lines, *_footer(report)])


def level2(report: Report) -> str:
    """The user's lines with remarks, then a message a recurrence, with costs."""
    lines = [*_summary(report), *(_refusal(report) if report.code else ())]
    listing = list(_listing(report.recurrences))
    lines += ["", *listing, ""] if listing else []
    for found in report.recurrences:
        lines += [*(_converted if is_converted(found) else _message)(found), *_costs(found)]
    return _joined([*lines, *_footer(report)])


def is_converted(found: Recurrence) -> bool:
    """Whether a recurrence runs in another form than the loop the user wrote."""
    return found.form != "sequential"


# ---- parts ----


def _summary(report: Report) -> list[str]:
    total = len(report.recurrences)
    done = sum(map(is_converted, report.recurrences))
    name = report.name or "the program"
    if total:
        head = f"{name}: {total} recurrence{'s' * (total > 1)}, {done} converted, {total - done} left as written"
    elif report.code:
        head = f"{name}: not converted, runs as written"
    else:
        head = f"{name}: no recurrence found, runs as written"
    versions = "  ".join(f"{package} {version}" for package, version in report.versions.items())
    rows = [_row(found) for found in report.recurrences]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [f"{head:<60}  {versions}" if versions else head, *table]


def _row(found: Recurrence) -> tuple[str, str, str, str, str]:
    states = ", ".join(found.states)
    if not is_converted(found):
        return found.name, found.source, states, "kept", _one_line(f"{found.code} {found.reason}")
    pays = found.cost.pays_from if found.cost else None
    details = [_kind(found), found.form, f"pays from {pays:,} steps" if pays is not None else ""]
    return found.name, found.source, states, "CONVERTED", "  ".join(filter(None, details))


def _kind(found: Recurrence) -> str:
    kind = f"{found.kind}/{found.structure}" if found.structure else found.kind
    return kind if found.semiring == "sum-product" else f"{kind} over {found.semiring}"


def _refusal(report: Report) -> Iterator[str]:
    yield f"missed[{report.code}] {_one_line(report.reason)}"
    if report.source:
        yield f" --> {report.source}   {report.line}".rstrip()
    yield from _labelled("help", report.help)
    yield "done: the program runs as written"
    yield f"docs: linrec explain-code {report.code}"


def _message(found: Recurrence) -> Iterator[str]:
    code = f"[{found.code}]" if found.code else ""
    yield f"missed{code} {found.name}: {_one_line(found.reason) or 'no reason is known'}"
    if found.source:
        line, place = _line_of(found), f" --> {found.source}   "
        yield place + line
        start = line.find(found.culprit) if found.culprit else -1
        if start >= 0:
            yield " " * (len(place) + start) + "^" * len(found.culprit)
    for note in found.notes:
        yield from _labelled("note", note)
    yield from _labelled("help", found.help)
    yield from _labelled("done", found.done or "kept as written")
    if found.code:
        yield f"docs: linrec explain-code {found.code}"


def _converted(found: Recurrence) -> Iterator[str]:
    yield f"passed {found.name}: {_kind(found)} runs as {found.form}"
    if found.source:
        yield f" --> {found.source}   {_line_of(found)}"
    if found.code:
        yield from _labelled("note", f"[{found.code}] {_one_line(found.reason)}")
    for note in found.notes:
        yield from _labelled("note", note)
    yield from _labelled("help", found.help)
    yield from _labelled("done", found.done)


def _costs(found: Recurrence) -> Iterator[str]:
    for line in found.closed:
        yield f"response: {line}"
    if found.cost is not None:
        yield f"cost: {_cost(found.cost)}"
    for other in found.alternatives:
        yield f"else: {_cost(other)}"


def _cost(cost: Cost) -> str:
    pays = "" if cost.pays_from is None else f", pays from {cost.pays_from:,} steps"
    work = f"{cost.flops} flops, {cost.bytes} bytes, depth {cost.depth}"
    return f"{cost.form}: {work}, predicted {_duration(cost.seconds)}{pays}"


def _listing(recurrences: list[Recurrence]) -> Iterator[str]:
    """The user's lines, each once, with the remarks of all recurrences beside them."""
    files: dict[str, dict[int, tuple[str, list[str]]]] = {}
    for found in recurrences:
        named = False
        for file, line, code, remark in found.lines:
            _, remarks = files.setdefault(file, {}).setdefault(line, (code.rstrip(), []))
            if remark:
                remarks.append(f"   {remark}" if named else f"{found.name} {remark}")
                named = True
    for file, numbered in files.items():
        digits = max(len(str(line)) for line in numbered)
        rows = [(f"{line:>{digits}}  {code}", remarks) for line, (code, remarks) in sorted(numbered.items())]
        head = file.replace("\\", "/").rpartition("/")[2]
        width = min(_CODE_WIDTH, max(len(head), *(len(code) for code, _ in rows)))
        yield f"  {head:<{width}} | recurrence"
        for code, remarks in rows:
            yield f"  {code:<{width}} | {remarks[0] if remarks else ''}".rstrip()
            for remark in remarks[1:]:
                yield f"  {'':<{width}} | {remark}"


def _line_of(found: Recurrence) -> str:
    """The user's line that `source` names, where the report holds it."""
    for file, line, code, _ in found.lines:
        if found.source in (f"{file}:{line}", f"{file.replace(chr(92), '/').rpartition('/')[2]}:{line}"):
            return code.strip()
    return ""


def _footer(report: Report) -> Iterator[str]:
    if any(map(is_converted, report.recurrences)) or report.verification.ran:
        yield _verified(report.verification)
    captures = f"{report.captures} capture{'s' * (report.captures != 1)}"
    stages = ", ".join(f"{stage} {_duration(seconds)}" for stage, seconds in report.seconds.items())
    if stages:
        yield f"{captures}, {_duration(sum(report.seconds.values()))}: {stages}"
    elif report.captures:
        yield captures


def _verified(found: Verification) -> str:
    note = f" ({_one_line(found.note)})" if found.note else ""
    if not found.ran:
        return f"not verified against the original{note}"
    steps = f"{found.steps:,} step{'s' * (found.steps != 1)}"
    error = f"error {found.error:.1e}, allowed {found.allowed:.1e}"
    grads = "gradients checked" if found.gradients else "gradients not checked"
    if found.passed:
        return f"verified on {steps}: {error}, {grads}, took {_duration(found.seconds)}{note}"
    repro = f"\nrepro: {found.reproducer}   next: linrec bisect {found.reproducer}" * bool(found.reproducer)
    return (
        f"NOT VERIFIED on {steps}: {error}, {grads}, took {_duration(found.seconds)}{note}; the original runs instead"
        + repro
    )


def _labelled(label: str, text: str) -> Iterator[str]:
    """A label and its text; further lines, such as code, stand below its first."""
    for place, line in enumerate(text.strip("\n").splitlines()):
        yield f"{label}: {line}" if place == 0 else " " * (len(label) + 2) + line


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _joined(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines)
