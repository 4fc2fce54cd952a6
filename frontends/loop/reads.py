"""Reads: what the ops of a body, and those after the loop, find where several values stand at the same place.

A read finds one value at a fixed delay, or a variable that branches assign (`variables`), or one of two that a branch
chooses between, or numbers that are a function of time (`coefficients`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from linrec.frontends.loop import coefficients
from linrec.frontends.loop.branches import Branch, Path
from linrec.frontends.loop.counters import LONGEST_CYCLE
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.repeats import PEELED, Repeat
from linrec.frontends.loop.rolling import NUMERIC, Rolling
from linrec.frontends.loop.variables import Made, Read, Variable
from linrec.ir import Arg, Op, Type, Use


@dataclass(frozen=True)
class Run:
    """Part of a list: `length` repeats of a loop's signal, from repeat `start` on by `step`."""

    loop: int
    signal: str
    step: int
    start: int
    length: int


@dataclass
class Kept:
    """A variable of a loop, and the signals that are written for it: after each place, and at the end of the step."""

    variable: Variable
    inits: dict[int, Arg]
    after: dict[int, str]


class Reads(Rolling):
    """Reads, each written once."""

    def __init__(self, flat: Flat, repeats: list[Repeat], tables: bool, name: str) -> None:
        super().__init__(flat, repeats, tables, name)
        self.kept: dict[tuple[int, int, tuple[int, ...]], list[Kept]] = {}
        self.together: dict[int, list[frozenset[int]]] = {}
        self.partial: dict[str, int] = {}  # reads of what not all turns make, by how far from an end

    def _read_outside(self, arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(map(self._read_outside, arg))
        if not isinstance(arg, Use):
            return arg
        if arg.name in self.renamed:
            return self.renamed[arg.name]
        if arg.name not in self.where:
            return arg
        loop, i, j = self.where[arg.name]
        repeat = self.repeats[loop]
        signal = self._body_name(loop, j)
        if signal in self.arrays and i == repeat.count - 1:
            return self.arrays[signal]
        kept = self._last_kept(loop, Made(i, j))
        if kept is not None:
            return self._once(("last", kept), "last", (Use(kept),), self.types.get(arg.name))
        kind, args = ("last", ()) if i == repeat.count - 1 else ("pick", (i,))
        read = self._once((kind, signal, i), kind, (Use(signal), *args), self.types.get(arg.name))
        if self.flat.absent and not self._ran_always(loop, j):
            self.partial[read.name] = min(i, repeat.count - 1 - i)
        return read

    def _last_kept(self, loop: int, made: Made) -> str | None:
        """The variable of a loop that holds this value at its end, if branches assign it."""
        if not self.flat.absent:
            return None
        last = self.repeats[loop].count - 1
        if made.step < last and not any(key[0] == loop and made.place in key[2] for key in self.kept):
            self._variable(loop, [made], [True], self.repeats[loop].period, last)
        for (where, stride, _), several in self.kept.items():
            for kept in several:
                if where == loop and stride == 1 and kept.variable.value(kept.variable.last, last) == made:
                    return self._after(loop, kept, kept.variable.last)
        return None

    def _chosen(
        self, loop: int, values: list[Arg], op: Op, is_read: list[bool], branches: Sequence[Branch]
    ) -> Arg | None:
        """A read, or a choice between two by one branch, or a variable, or choices by several branches."""
        read = self._read(loop, values, op, is_read)
        if read is None:
            read = self._split(loop, values, op, is_read, branches, plain=True)
        if read is None and self.flat.absent:
            read = self._read_variable(loop, values, op, is_read)
        return self._split(loop, values, op, is_read, branches, plain=False) if read is None else read

    def _signal_of(self, loop: int, value: Arg) -> str:
        place = self.where.get(value.name) if isinstance(value, Use) else None
        return self._body_name(loop, place[2]) if place is not None and place[0] == loop else ""

    def _split(
        self, loop: int, values: list[Arg], op: Op, is_read: list[bool], branches: Sequence[Branch], *, plain: bool
    ) -> Arg | None:
        # two branches may come out alike in every trace: only those that lead to what is read can tell
        leading = {
            branch for v, was in zip(values, is_read, strict=True) if was
            for branch, _ in self.flat.paths.get(self._signal_of(loop, v), ())
        }  # fmt: skip
        branches = [branch for branch in branches if branch in leading] if leading else branches
        if not branches or (plain and len(leading) > 1):
            return None
        branch, *others = branches
        turns = self._turns(loop, op, branch)
        if turns is not None:
            holds = [branch.holds(turn) for turn in turns]
            halves = [
                [was and is_so == side for was, is_so in zip(is_read, holds, strict=True)] for side in (True, False)
            ]
            if any(halves[0]) and any(halves[1]):
                parts = [
                    self._read(loop, values, op, half) if plain else self._chosen(loop, values, op, half, others)
                    for half in halves
                ]
                types = {self.types.get(p.name) for p in parts if isinstance(p, Use)}
                if parts[0] is not None and parts[1] is not None and len(types) == 1:
                    test = self._condition(loop, ((branch, True),), turns[0])
                    return self._new("where", (test, *parts), types.pop(), f"t{loop}")
        return self._split(loop, values, op, is_read, others, plain=plain)

    def _condition(self, loop: int, path: Path, first: int) -> Use:
        """Whether these branches lead there, as a signal; the first repeat is that turn of theirs."""
        key = ("condition", loop, path, first)
        if key in self.cache:
            return self.cache[key]
        count = self.repeats[loop].count
        whole: Use | None = None
        for branch, is_taken in path:
            vector = coefficients.Table(branch.condition.later(first), count, self._written).vector_of("bool")
            if not is_taken:
                vector = self._new("logical_not", (vector,), Type("bool", (count,)))
            whole = vector if whole is None else self._new("logical_and", (whole, vector), Type("bool", (count,)))
        assert whole is not None
        return self._once(key, "signal", (whole, 0, 0, 1), Type("bool", ()), f"t{loop}")

    def _read(self, loop: int, values: list[Arg], op: Op, is_read: list[bool]) -> Arg | None:
        """The one value, number or variable that is read; None if there are several."""
        values = [self.renamed.get(v.name, v) if isinstance(v, Use) else v for v in values]
        found = [(i, v) for i, (v, was) in enumerate(zip(values, is_read, strict=True)) if was]
        at, last = found[-1]
        if not isinstance(last, Use):
            return last if all(type(v) is type(last) and v == last for _, v in found) else None
        place = self.where.get(last.name)
        if place is None or place[0] != loop:
            return self._read_outside(last) if all(v == last for _, v in found) else None
        _, i, j = place
        delay, signal = at - i, self._body_name(loop, j)
        same = all(
            isinstance(v, Use) and self.where.get(v.name) == (loop, k - delay, j) for k, v in found if k >= delay
        )
        if same and delay == 0:
            return Use(signal)
        if not same or (self.flat.absent and not self._ran_always(loop, j)):
            return None
        before = [self._first_alike(self._read_outside(v)) if was else None
                  for v, was in zip(values[:delay], is_read, strict=False)]  # steps 0 .. delay-1 read these  # fmt: skip
        return self._delayed(signal, delay, list(reversed(before)), op.time)

    def _function_of_time(self, loop: int, values: list[Arg], op: Op, is_read: list[bool]) -> Arg | None:
        """Numbers that are an expression of the loop's counter, as a signal."""
        place = self.where.get(op.result)
        steps = [i for i, was in enumerate(is_read) if was]
        numbers = all(isinstance(values[i], bool | int | float) for i in steps)
        if not numbers or op.source is None or place is None or op.kind not in NUMERIC:
            return None
        repeat, flat = self.repeats[loop], self.flat
        frames = [flat.frames.get(flat.ops[repeat.start + i * repeat.period + place[2]].result) for i in steps]
        found = coefficients.read([values[i] for i in steps], frames, op.source, flat.watch, steps)
        if found is None:
            return None
        flat.read |= found.places
        flat.timed.append(((op.kind, op.source), found))
        table, dtype, backward = coefficients.Table(found, repeat.count, self._written).write()
        at = (repeat.count - 1, -1) if backward else (0, 1)
        return self._new("signal", (table, 0, *at), Type(dtype, ()), f"t{loop}")

    # variables that branches assign --------------------------------------------------------------

    def _read_variable(self, loop: int, values: list[Arg], op: Op, is_read: list[bool]) -> Arg | None:
        """The variable that is assigned at the places of all these values."""
        made = [self._made(loop, v) if was else None for v, was in zip(values, is_read, strict=True)]
        if not any(isinstance(m, Made) for m in made):
            return None
        read = self._variable(loop, made, is_read, self.where[op.result][2], 0)
        if read is None:
            return None
        kept, found = read
        k, delay = found.k, found.delay
        steps = {i for i, was in enumerate(is_read) if was}
        while delay == 0 and k >= 0 and kept.variable.passed(k, steps) == steps:
            k -= 1  # no step that reads has been there
        if k < 0:
            k, delay = kept.variable.last, kept.variable.stride
        signal = self._after(loop, kept, k)
        if signal is None or delay == 0:
            return None if signal is None else Use(signal)
        return self._delayed(signal, delay, [kept.inits.get(age) for age in range(1, delay + 1)], op.time)

    def _assigned(self, loop: int) -> list[frozenset[int]]:
        """Places that may assign one variable, since reads find values of these, some of them of earlier steps.

        The most places first.
        """
        if loop not in self.together:
            repeat = self.repeats[loop]
            sets = set()
            for j in range(repeat.period):
                ran = [i for i in range(repeat.count) if self._ran(loop, i, j)]
                ops = [self.flat.ops[repeat.start + i * repeat.period + j] for i in ran]
                for column in zip(*(op.uses() for op in ops), strict=False):
                    at = [
                        (i, self.where[use.name]) for i, use in zip(ran, column, strict=True) if use.name in self.where
                    ]
                    if any(where == loop and step < i for i, (where, step, _) in at):
                        sets.add(frozenset(place for _, (where, _, place) in at if where == loop))
            for op in self.flat.ops[repeat.stop :]:
                if op.args and isinstance(op.args[0], tuple):
                    found = [
                        self.where[use.name] for use in op.args[0] if isinstance(use, Use) and use.name in self.where
                    ]
                    sets.add(frozenset(place for where, _, place in found if where == loop))
            sets |= {a | b for a, b in itertools.combinations(sets, 2) if self._are_arms(loop, a, b)}
            self.together[loop] = sorted(sets, key=lambda places: (-len(places), sorted(places)))
        return self.together[loop]

    def _are_arms(self, loop: int, these: frozenset[int], those: frozenset[int]) -> bool:
        """Does one branch lead to a place of these or to one of those?"""
        here, there = (
            {step for place in places for step in self.flat.paths.get(self._body_name(loop, place), ())}
            for places in (these, those)
        )
        return any((branch, not is_taken) in there for branch, is_taken in here)

    def _made(self, loop: int, value: Arg) -> Made | Arg:
        """The value as a variable has it: made in this loop, or outside."""
        place = self.where.get(value.name) if isinstance(value, Use) else None
        if place is None or place[0] != loop:
            return self._first_alike(self._read_outside(value))
        return Made(place[1], place[2])

    def _variable(
        self, loop: int, made: Sequence[Made | Arg], is_read: Sequence[bool], position: int, first: int
    ) -> tuple[Kept, Read] | None:
        own = frozenset(m.place for m in made if isinstance(m, Made))
        sets = [*(p for p in self._assigned(loop) if p > own), own]
        for stride, places in itertools.product(range(1, LONGEST_CYCLE + 1), map(sorted, sets)):
            variable = Variable(places, self.repeats[loop].count, lambda i, j: self._ran(loop, i, j), stride)
            found = variable.read(made, is_read, position, first)
            if found is not None:
                break
        if found is None:
            return None
        known = self.kept.setdefault((loop, stride, variable.places), [])
        for kept in known:
            if all(kept.inits.get(age, init) == init for age, init in found.inits.items()):
                kept.inits.update(found.inits)
                return kept, found
        known.append(Kept(variable, dict(found.inits), {}))
        return known[-1], found

    def _after(self, loop: int, kept: Kept, k: int) -> str | None:
        """The signal of a variable after its k-th place; None where that has no form."""
        if k not in kept.after:
            variable = kept.variable
            if not variable.passed(k, set(range(self.repeats[loop].count))):
                kept.after[k] = self._body_name(loop, variable.places[k])
            elif len({self.types.get(self._body_name(loop, place)) for place in variable.places}) > 1:
                return None
            else:
                name = f"kept{len(self.ops)}"
                self.ops.append(Op(name, "alias", (0,), (), None, f"t{loop}"))  # in its place; what it is comes below
                kept.after[k] = name
                index = len(self.ops) - 1
                made = self._choice(loop, kept, k, set(range(self.repeats[loop].count)))
                if made is None:
                    return None
                self.ops[index] = replace(made, result=name)
                if made.type is not None and isinstance(made.type, Type):
                    self.types[name] = made.type
        return kept.after[k]

    def _choice(self, loop: int, kept: Kept, k: int, steps: set[int]) -> Op | None:
        """where(c_k, j_k, what the variable was before), as needed at these steps."""
        variable = kept.variable
        place = variable.places[k]
        type_ = self.types[self._body_name(loop, place)]
        rest = variable.passed(k, steps)
        before: Arg
        ran = set(range(self.repeats[loop].count)) - rest
        if k == 0 and variable.stride == 1 and 1 in kept.inits and ran and max(rest) < min(ran):
            before = kept.inits[1]  # it is read before the first step that assigns it alone
        elif k == 0:
            last = self._after(loop, kept, variable.last)
            if last is None:
                return None
            ages = range(1, variable.stride + 1)
            before = self._delayed(last, variable.stride, [kept.inits.get(age) for age in ages], f"t{loop}")
        elif not variable.passed(k - 1, rest):
            before = Use(self._body_name(loop, variable.places[k - 1]))
        else:
            earlier = self._choice(loop, kept, k - 1, rest)
            if earlier is None:
                return None
            self.ops.append(replace(earlier, result=f"before{len(self.ops)}"))
            before = Use(self.ops[-1].result)
        path = self.flat.paths.get(self._body_name(loop, place))
        turns = self._turns(loop, self.flat.ops[self.repeats[loop].start + place], path[0][0]) if path else None
        if path is None or turns is None:
            return None
        test = self._condition(loop, path, turns[0])
        source = self.made[self._body_name(loop, place)].source
        return Op("", "where", (test, Use(self._body_name(loop, place)), before), (), type_, f"t{loop}", (), source)

    def _run_of_variable(self, items: Sequence[Arg]) -> Run | None:
        """Are the items, in order or in reverse, what a variable holds at the end of all repeats but a few?"""
        loops = {self.where[use.name][0] for use in items if isinstance(use, Use) and use.name in self.where}
        loop = min(loops, default=0)
        repeat = self.repeats[loop]
        made = [self._made(loop, item) for item in items[: repeat.count]]
        while made and not isinstance(made[-1], Made):
            made.pop()
        places = {m.place for m in made if isinstance(m, Made)}
        if not places or (len(places) == 1 and self._ran_always(loop, min(places))):
            return None
        length = len(made)
        for step in (1, -1):
            ordered = made[::step]
            for first in range(repeat.count - length + 1) if length >= max(repeat.count - PEELED, 2) else ():
                read = self._variable(loop, ordered, [True] * length, repeat.period, first)
                if read is not None and read[1].delay == 0:
                    signal = self._after(loop, read[0], read[1].k)
                    if signal is not None:
                        return Run(loop, signal, step, first if step > 0 else first + length - 1, length)
        return None
