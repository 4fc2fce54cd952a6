"""What re-rolling keeps at hand: the straight-line program, where its repeats are, and the ops written so far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from linrec.draws import RANDOM
from linrec.dtypes import INEXACT, LONG
from linrec.frontends.loop.branches import Branch
from linrec.frontends.loop.coefficients import Coefficient, Table, read_once
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.repeats import Repeat
from linrec.ir import Arg, Atom, Op, Time, Type, Use


class Rolling:
    """The ops of the loop program, as they are written."""

    def __init__(self, flat: Flat, repeats: list[Repeat], tables: bool, name: str) -> None:
        self.flat, self.repeats, self.tables, self.name = flat, repeats, tables, name
        self.made = {op.result: op for op in flat.ops}
        self.types: dict[str, Type] = {i.name: i.type for i in flat.inputs}
        self.types |= {op.result: op.type for op in flat.ops if isinstance(op.type, Type)}
        self.where: dict[str, tuple[int, int, int]] = {}  # value -> loop, repeat, op of the body
        for loop, r in enumerate(repeats):
            for i in range(r.count):
                for j in range(r.period):
                    self.where[flat.ops[r.start + i * r.period + j].result] = (loop, i, j)
        self.ops: list[Op] = []
        self.times: list[Time] = []
        self.inits: dict[str, list[Arg]] = {}
        self.renamed: dict[str, Arg] = {}
        self.cache: dict[object, Use] = {}
        self.arrays: dict[str, Arg] = {}
        self.alike: dict[str, Use] = {}

    def _once(self, key: object, kind: str, args: tuple[Arg, ...], type_: Type | None, time: str | None = None) -> Use:
        if key not in self.cache:
            self.cache[key] = self._new(kind, args, type_, time)
        return self.cache[key]

    def _new(self, kind: str, args: tuple[Arg, ...], type_: Type | None, time: str | None = None) -> Use:
        name = f"{kind}{len(self.ops)}"
        self.ops.append(Op(name, kind, args, (), type_, time))
        if type_ is not None:
            self.types[name] = type_
        return Use(name)

    def _written(self, kind: str, args: tuple[Arg, ...], attrs: tuple[tuple[str, Arg], ...], type_: Type) -> Use:
        made = self._new(kind, args, type_)
        self.ops[-1] = replace(self.ops[-1], attrs=attrs)
        return made

    def _zeros(self, type_: Type) -> Use:
        """Zeros of that type, where the first argument is."""
        like = Use(self.flat.inputs[0].name)
        return self._written("new_zeros", (like, type_.shape), (("dtype", Atom(LONG[type_.dtype])),), type_)

    def _table(self, values: tuple[Arg, ...], dtype: str) -> Use:
        """Numbers that differ from step to step, as a tensor over time."""
        table = self._new("tensor", (values,), Type(dtype, (len(values),)))
        self.ops[-1] = replace(self.ops[-1], attrs=(("dtype", Atom(LONG[dtype])),))
        return table

    def _number(self, coefficient: Coefficient) -> Use:
        """A number of one step, or of all, from the expression that makes it."""
        table, dtype, _ = Table(coefficient, 1, self._written).write()
        return self._new("select", (table, 0, 0), Type(dtype, ()))

    def _sized(self, value: Arg, op: Op) -> Arg:
        """A number that the length makes another, from the expression that makes it."""
        flat, place = self.flat, (op.kind, op.source)
        if place not in flat.sized or op.source is None or not isinstance(value, int | float) or op.kind not in NUMERIC:
            return value
        if any(self.types[use.name].dtype not in INEXACT for use in op.uses() if use.name in self.types):
            return value  # a tensor of no axes would make these of another type
        found = read_once(value, flat.frames.get(op.result), op.source, flat.watch)
        if found is None:
            return value
        if (place, value) not in self.cache:
            flat.read |= found.places
            flat.sized[place] = found
            self.cache[place, value] = self._number(found)
        return self.cache[place, value]

    def _body_name(self, loop: int, j: int) -> str:
        """The value of a body is named after its first repeat."""
        return self.flat.ops[self.repeats[loop].start + j].result

    def _ran(self, loop: int, i: int, j: int) -> bool:
        repeat = self.repeats[loop]
        return self.flat.ops[repeat.start + i * repeat.period + j].result not in self.flat.absent

    def _ran_always(self, loop: int, j: int) -> bool:
        return all(self._ran(loop, i, j) for i in range(self.repeats[loop].count))

    def _turns(self, loop: int, op: Op, branch: Branch) -> list[int] | None:
        """The turns of the branch's loop that the repeats are, where these are one after another."""
        place, repeat = self.where.get(op.result), self.repeats[loop]
        if place is None:
            return None
        frames = [self.flat.frames.get(self.flat.ops[repeat.start + i * repeat.period + place[2]].result)
                  for i in range(repeat.count)]  # fmt: skip
        turns = [branch.turns.at(frame.at) for frame in frames if frame is not None]
        known = [turn for turn in turns if turn is not None]
        is_even = len(known) == repeat.count and known == list(range(known[0], known[0] + repeat.count))
        return known if is_even else None

    def _first_alike(self, arg: Arg) -> Arg:
        """The first value made by the same operators of the same arguments: each slot of a ring starts with its own."""
        if not self.alike:
            first: dict[Op, Use] = {}
            for op in self.flat.ops:
                if op.result not in self.where and op.kind not in RANDOM:
                    plain = replace(op.map_uses(lambda use: self.alike.get(use.name, use)), result="")
                    self.alike[op.result] = first.setdefault(plain, Use(op.result))
        return self.alike.get(arg.name, arg) if isinstance(arg, Use) and not arg.delay else arg

    def _delayed(self, signal: str, delay: int, before: Sequence[Arg], time: str | None) -> Use:
        """`signal` read `delay` steps back; `before[k]` is its value k+1 steps before the first, None if never read."""
        known = self.inits.setdefault(signal, [])
        if all(a is None or b is None or a == b for a, b in zip(known, before, strict=False)):
            known[:] = [b if a is None else a for a, b in itertools.zip_longest(known, before)]
            return Use(signal, delay)
        key = ("copy", signal, tuple(before))
        if key not in self.cache:
            copy = self._new("alias", (Use(signal),), self.types.get(signal), time)
            self.ops[-1] = replace(self.ops[-1], time=time or self._time_of(signal))
            self.inits[copy.name] = list(before)
            self.cache[key] = copy
        return Use(self.cache[key].name, delay)

    def _time_of(self, signal: str) -> str:
        return f"t{self.where[signal][0]}"


NUMERIC = frozenset("mul add sub div pow rsub lerp full_like gt lt ge le eq ne remainder maximum minimum".split())
