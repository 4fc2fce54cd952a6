"""Repeats: where the body of a loop over time stands in a straight-line program.

Two ops may be the same step of a body if they have the same *token*: operator, the user's lines
from the outermost call inwards, result type, and everything in the arguments but numbers and reads.
A period p repeats where token i equals token i + p. Of all repeats we want the one that runs over
time: its count is near a length T of the program (an inner loop of 3, or two whole loops taken as
one period, are not).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from linrec.frontends.loop.declared import spans
from linrec.frontends.loop.flatten import Flat
from linrec.ir import Arg, Op, Source, Use

COMMUTATIVE = ("add", "mul")
PEELED = 3  # how many steps at either end of a loop may differ from the rest
_LONGEST = 4000  # ops in one step


@dataclass(frozen=True)
class Repeat:
    """Ops start .. start + period*count are `count` repeats of one body."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.count


@dataclass(frozen=True)
class _Run:
    """Ops start .. stop, each like the one a period before."""

    period: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return (self.stop - self.start) // self.period


def over_time(flats: Sequence[Flat], lengths: Sequence[Mapping[object, int]]) -> list[list[Repeat]]:
    """The repeats of each trace that are one loop over time: found in all, their counts growing with a length."""
    candidates: list[tuple[int, list[Repeat]]] = []
    for name in lengths[0]:
        runs = [_runs(_tokens(flat), at[name]) for flat, at in zip(flats, lengths, strict=True)]
        # an inner loop of 7 is near to every length, but does not grow with it
        growing = set.intersection(
            *({(r.period, r.count - at[name]) for r in several} for several, at in zip(runs, lengths, strict=True))
        )
        marked = [
            _marked(
                flat,
                _chosen(flat, [r for r in several if (r.period, r.count - at[name]) in growing], at[name], []),
                at[name],
            )
            for flat, several, at in zip(flats, runs, lengths, strict=True)
        ]
        for key in set(marked[0]).intersection(*marked[1:]):
            candidates.append((key[0], [m[key] for m in marked]))
    chosen: list[list[Repeat]] = []  # three steps of a loop over S may go into T - 1, where S goes into itself
    for _, repeats in sorted(candidates, key=lambda c: (abs(c[0]), c[1][0].period, c[1][0].start)):
        if not any(
            r.start < c.stop and c.start < r.stop
            for known in chosen for r, c in zip(repeats, known, strict=True)
        ):  # fmt: skip
            chosen.append(repeats)
    return [
        sorted(known, key=lambda r: r.start) for known in (zip(*chosen, strict=True) if chosen else [()] * len(flats))
    ]


def _marked(flat: Flat, repeats: list[Repeat], length: int) -> dict[tuple[int, object, int], Repeat]:
    """What tells one loop from another, whatever the length: how many more steps it has, its lines, and its turn there."""
    found: dict[tuple[int, object, int], Repeat] = {}
    for r in sorted(repeats, key=lambda r: r.start):
        first = flat.ops[r.start]
        mark = (first.kind, tuple((s.file, s.line, s.start) for s in flat.stacks[first.result]), r.period)
        turn = sum(known[1] == mark for known in found)
        found[r.count - length, mark, turn] = r
    return found


def sets_apart(flat: Flat, repeats: Sequence[Repeat]) -> bool:
    """Does an op stand outside of the loops that is of a line of theirs, as of a first step that differs from others?"""
    inside = {op.result for r in repeats for op in flat.ops[r.start : r.stop]}
    lines = {(s.file, s.line) for name in inside for s in flat.stacks[name][-1:]}
    rest = (s for op in flat.ops if op.result not in inside for s in flat.stacks[op.result][-1:])
    return any((s.file, s.line) in lines for s in rest)


def is_unrolled(flat: Flat, repeats: Sequence[Repeat], steps: int) -> bool:
    """Are there operators of one place in the code, outside of the repeats, for more than half of the steps?"""
    inside = {op.result for r in repeats for op in flat.ops[r.start : r.stop]}
    outside = Counter((op.kind, flat.stacks[op.result]) for op in flat.ops if op.result not in inside)
    return max(outside.values(), default=0) > max(steps // 2, 2 * PEELED)


def find_repeats(flat: Flat, lengths: Sequence[int]) -> list[Repeat]:
    """Non-overlapping repeats over time, in program order."""
    tokens = _tokens(flat)
    found: list[Repeat] = []
    for length in lengths:
        found += _chosen(flat, _runs(tokens, length), length, found)
    return sorted(found, key=lambda r: r.start)


def _tokens(flat: Flat) -> np.ndarray:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(token(flat, op), len(numbers)) for op in flat.ops], dtype=np.int64)


def token(flat: Flat, op: Op) -> object:
    """What two ops have in common that may be the same step of a body."""
    # what a branch chooses may be a number or a tensor
    is_choice = bool(flat.branches) and op.kind in COMMUTATIVE and len(op.args) == 2
    return (
        op.kind,
        tuple((s.file, s.line, s.start) for s in flat.stacks[op.result]),
        "%%" if is_choice else _skeleton(op.args),
        tuple((k, _skeleton(v)) for k, v in op.attrs),
        op.type,
    )


def _skeleton(arg: Arg) -> object:
    if isinstance(arg, tuple):
        return tuple(map(_skeleton, arg))
    if isinstance(arg, Use):
        return "%"
    return type(arg) if isinstance(arg, int | float) and not isinstance(arg, bool) else arg


def _runs(tokens: np.ndarray, length: int) -> list[_Run]:
    """Stretches of equal bodies, about as many as `length`."""
    n, least = len(tokens), max(length - PEELED, 2)
    runs: list[_Run] = []
    for period in range(1, min(n // least, _LONGEST) + 1):
        same = np.concatenate(([False], tokens[period:] == tokens[:-period], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if least <= (stop - start) // period + 1 <= length + 1:
                runs.append(_Run(period, int(start), int(stop) + period))
    return runs


def _chosen(flat: Flat, runs: list[_Run], length: int, taken: list[Repeat]) -> list[Repeat]:
    declared = spans(flat.ops)  # equal layers that are scans, or equal parts of a step, are no loop over time
    chosen: list[Repeat] = []
    # the count nearest to the length first (an inner loop of 3 never wins over time), then the smallest period
    for run in sorted(runs, key=lambda r: (-min(r.count, length), r.period)):
        if any(r.start < run.stop and run.start < r.stop for r in (*chosen, *taken)):
            continue
        if any(first < run.stop and run.start <= last for first, last in declared):
            continue
        slack = (run.stop - run.start) - run.count * run.period
        offset = min(range(slack + 1), key=lambda o: _place(flat, run.start + o))
        count = (run.stop - run.start - offset) // run.period
        chosen.append(_from_numbers(flat, Repeat(run.start + offset, run.period, count)))
    return chosen


def _from_numbers(flat: Flat, repeat: Repeat) -> Repeat:
    """One repeat more at the front, if it differs only in numbers (`h = 0`) where the others read a state."""
    first = repeat.start - repeat.period
    if first < 0:
        return repeat
    numbers = False
    turned: list[Op] = []
    made = {op.result for op in flat.ops[first : repeat.start + repeat.period]}
    inside = {op.result for op in flat.ops[repeat.start : repeat.start + repeat.period]}
    for before, after in zip(flat.ops[first : repeat.start], flat.ops[repeat.start :], strict=False):
        if _is_turned(before, after, inside):
            before = replace(before, args=(before.args[1], before.args[0], *before.args[2:]))
        turned.append(before)
        lines = [[(s.file, s.line, s.start) for s in flat.stacks[op.result]] for op in (before, after)]
        if before.kind != after.kind or lines[0] != lines[1] or len(before.args) != len(after.args):
            return repeat
        for old, new in zip(before.args, after.args, strict=True):
            number = isinstance(new, Use) and isinstance(old, int | float) and not isinstance(old, bool)
            numbers |= number
            if isinstance(new, Use) and new.name not in made and old != new:
                return repeat  # what the loop reads of outside, this step does not
            if not number and _skeleton(old) != _skeleton(new):
                return repeat
    if not numbers:
        return repeat
    flat.ops[first : repeat.start] = turned
    return Repeat(first, repeat.period, repeat.count + 1)


def _is_turned(before: Op, after: Op, inside: set[str]) -> bool:
    """Is `before` u + 0, from 0 + u, where the other repeats are h + u?"""
    if before.kind not in COMMUTATIVE or len(before.args) < 2 or len(after.args) < 2 or before.attrs:
        return False
    second = after.args[1]
    number = isinstance(before.args[1], int | float) and isinstance(before.args[0], Use)
    return number and isinstance(second, Use) and second.name in inside


def without_idle(flat: Flat, repeats: Sequence[Repeat]) -> list[Repeat]:
    """Take out what is never run: of a loop the arms for first or last steps alone, of these, set apart, the other arms."""
    inside = {i for r in repeats for i in range(r.start, r.stop)}
    gone = {i for i, op in enumerate(flat.ops) if op.result in flat.absent and i not in inside}
    idle: dict[Repeat, int] = {}
    for r in repeats:
        steps = [range(r.start + j, r.stop, r.period) for j in range(r.period)]
        unused = [step for step in steps if all(flat.ops[i].result in flat.absent for i in step)]
        gone.update(*unused)
        idle[r] = len(unused)
    found = [Repeat(r.start - sum(i < r.start for i in gone), r.period - idle[r], r.count) for r in repeats]
    flat.ops = [op for i, op in enumerate(flat.ops) if i not in gone]
    return found


def _place(flat: Flat, index: int) -> tuple[object, ...]:
    """The user's lines of an op, outermost first: the first op of a body has the smallest.

    An expression's outermost operator runs last, so that of one line's ops the first that runs is meant.
    """
    stack, lines, ran = _run(flat, index)
    same = index > 0 and (lines, ran) == _run(flat, index - 1)[1:]
    return lines, same, tuple((s.start, s.end) for s in stack)


def _run(flat: Flat, index: int) -> tuple[tuple[Source, ...], tuple[int, ...], object]:
    """The user's lines of an op, and what tells this run of theirs from others: lines run before it, and counters."""
    name = flat.ops[index].result
    stack, frame = flat.stacks[name], flat.frames.get(name)
    return stack, tuple(s.line for s in stack), frame and (frame.at, sorted(frame.values.items()))
