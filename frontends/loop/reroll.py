"""Re-rolling: a straight-line program in which a body repeats becomes a loop over signals.

Repeat i is compared with repeat i + 1, argument by argument:

    the same value of outside              invariant
    a value of the same repeat             a read without delay
    a value of d repeats before            a read with delay d; what stood there before is the init
    x[start + stride*i] along an axis      a signal
    numbers that are a function of t       that function over all steps, a signal
    values or numbers that differ          a table over time (only where no length is general)

What the rest of the program reads of a loop is the list of all repeats (`stack`), the last one
(`last`) or a single one (`pick`). Unrolling the result gives back the program op by op.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from linrec.dtypes import LONG
from linrec.errors import CaptureError
from linrec.frontends.loop import coefficients
from linrec.frontends.loop.declared import is_mark
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.naming import directed, named
from linrec.frontends.loop.repeats import PEELED, Repeat
from linrec.ir import Arg, Atom, Graph, Op, Time, Type, Use, order
from linrec.linear.random import RANDOM


@dataclass(frozen=True)
class Run:
    """Part of a list: `length` repeats of value j of a loop's body, from repeat `start` on by `step`."""

    loop: int
    j: int
    step: int
    start: int
    length: int


def reroll(flat: Flat, repeats: list[Repeat], *, tables: bool, name: str) -> Graph:
    """The loop program of a straight-line one whose `repeats` run over time.

    With `tables`, numbers may differ from step to step in any way: the result then holds for this
    length only. Raises CaptureError (LR0405, LR0406) when steps differ in a way no loop has.
    """
    if not repeats and not any(map(is_mark, flat.ops)):
        raise CaptureError("LR0406", "no part of the program repeats over time, so there is nothing to parallelise")
    return _Reroller(flat, repeats, tables, name).run()


class _Reroller:
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

    def run(self) -> Graph:
        done = 0
        for loop, repeat in enumerate(self.repeats):
            for op in self.flat.ops[done : repeat.start]:
                self._outside(op)
            self._loop(loop, repeat)
            done = repeat.stop
        for op in self.flat.ops[done:]:
            self._outside(op)
        outputs = tuple(self._read_outside(o) for o in self.flat.outputs)
        ops = tuple(replace(op, init=tuple(self.inits.get(op.result, ()))) for op in self.ops)
        graph = Graph(self.name, tuple(self.flat.inputs), tuple(self.times), ops, outputs)
        return named(directed(replace(graph, ops=order(graph.ops))))

    # outside of loops ----------------------------------------------------------------------------

    def _outside(self, op: Op) -> None:
        if op.kind in ("stack", "cat") and isinstance(op.args[0], tuple):
            self.ops.append(self._joined(op))
        else:
            self.ops.append(replace(op, args=tuple(map(self._read_outside, op.args)), attrs=self._attrs(op)))

    def _attrs(self, op: Op) -> tuple[tuple[str, Arg], ...]:
        return tuple((k, self._read_outside(a)) for k, a in op.attrs)

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
        kind, args = ("last", ()) if i == repeat.count - 1 else ("pick", (i,))
        return self._once((kind, signal, i), kind, (Use(signal), *args), self.types.get(arg.name))

    def _once(self, key: object, kind: str, args: tuple[Arg, ...], type_: Type | None) -> Use:
        if key not in self.cache:
            self.cache[key] = self._new(kind, args, type_)
        return self.cache[key]

    def _new(self, kind: str, args: tuple[Arg, ...], type_: Type | None, time: str | None = None) -> Use:
        name = f"{kind}{len(self.ops)}"
        self.ops.append(Op(name, kind, args, (), type_, time))
        return Use(name)

    def _joined(self, op: Op) -> Op:
        """stack or cat of a list that holds whole loops, or all of one but a few steps: those become one `stack`."""
        items = op.args[0]
        assert isinstance(items, tuple) and isinstance(op.type, Type)
        dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
        assert isinstance(dim, int)
        axis = dim % len(op.type.shape)
        parts: list[Arg] = []
        i = 0
        while i < len(items):
            run = self._run_of(items[i:])
            if run is None:
                item = self._read_outside(items[i])
                if op.kind == "stack":
                    item = self._new("unsqueeze", (item, axis), self._wider(items[i], axis))
                parts.append(item)
                i += 1
                continue
            first = items[i]
            assert isinstance(first, Use)
            parts.append(self._stacked(run, axis, first, op.kind == "cat"))
            i += run.length
        if len(parts) == 1 and isinstance(parts[0], Use):
            return replace(op, kind="alias", args=(parts[0],), attrs=())
        return replace(op, kind="cat", args=(tuple(parts), axis), attrs=())

    def _wider(self, arg: Arg, axis: int) -> Type | None:
        if not isinstance(arg, Use) or arg.name not in self.types:
            return None
        t = self.types[arg.name]
        return Type(t.dtype, (*t.shape[:axis], 1, *t.shape[axis:]))

    def _run_of(self, items: Sequence[Arg]) -> Run | None:
        """Do the items begin with the repeats of one body value, in order or in reverse, but for a few at the ends?"""
        first = items[0]
        if not isinstance(first, Use) or first.name not in self.where:
            return None
        loop, start, j = self.where[first.name]
        count = self.repeats[loop].count
        second = items[1] if len(items) > 1 else None
        following = self.where.get(second.name) if isinstance(second, Use) else None
        step = -1 if following == (loop, start - 1, j) else 1
        length = 0
        while length < len(items):
            item = items[length]
            if not isinstance(item, Use) or self.where.get(item.name) != (loop, start + step * length, j):
                break
            length += 1
        return Run(loop, j, step, start, length) if length >= max(count - PEELED, 2) or length == count else None

    def _stacked(self, run: Run, axis: int, first: Use, flat: bool) -> Use:
        """The values of a run as one tensor, along a new axis, or along their own if `flat`."""
        count = self.repeats[run.loop].count
        t = self.types[first.name]

        def shape(length: int) -> Type:
            return Type(t.dtype, (*t.shape[:axis], length, *t.shape[axis:]))

        key = ("stack", run.loop, run.j, axis)
        out = self._once(key, "stack", (Use(self._body_name(run.loop, run.j)), axis), shape(count))
        begin = run.start if run.step > 0 else run.start - run.length + 1
        if run.length != count:
            cut = ("cut", out.name, begin, run.length)
            out = self._once(cut, "slice", (out, axis, begin, begin + run.length), shape(run.length))
        if run.step < 0:
            out = self._once(("flip", out.name), "flip", (out, (axis,)), shape(run.length))
        if flat:
            merged = Type(t.dtype, (*t.shape[:axis], run.length * t.shape[axis], *t.shape[axis + 1 :]))
            out = self._once(("flat", out.name), "flatten", (out, axis, axis + 1), merged)
        return out

    # inside of loops -----------------------------------------------------------------------------

    def _body_name(self, loop: int, j: int) -> str:
        """The value of a body is named after its first repeat."""
        return self.flat.ops[self.repeats[loop].start + j].result

    def _loop(self, loop: int, repeat: Repeat) -> None:
        time = Time(f"t{loop}", repeat.count)
        self.times.append(time)
        for j in range(repeat.period):
            ops = [self.flat.ops[repeat.start + i * repeat.period + j] for i in range(repeat.count)]
            if self._invariant(loop, ops) or self._array(loop, j, ops):
                continue
            if self._window(loop, ops):
                continue
            read = self._element(loop, j, ops)
            if read is not None:
                self.ops.append(read)
                continue
            args = tuple(self._merged(loop, [op.args[a] for op in ops], ops[0]) for a in range(len(ops[0].args)))
            attrs = tuple(
                (k, self._merged(loop, [op.attrs[a][1] for op in ops], ops[0])) for a, (k, _) in enumerate(ops[0].attrs)
            )
            self.ops.append(replace(ops[-1], result=ops[0].result, args=args, attrs=attrs, time=time.name))

    def _invariant(self, loop: int, ops: list[Op]) -> bool:
        """An op that does the same on the same outside values in every repeat is done once, before the loop."""
        if ops[0].kind in RANDOM or len({self._resolved(o) for o in ops}) != 1:
            return False
        if any(self._is_inside(loop, use) for use in ops[0].uses()):
            return False
        self._outside(ops[0])
        first = ops[0].result
        for op in ops:
            del self.where[op.result]
            self.renamed[op.result] = Use(first)
        return True

    def _resolved(self, op: Op) -> Op:
        """The op without what tells repeats apart: its name, and which copy of an invariant it reads."""
        return replace(op.map_uses(lambda use: self.renamed.get(use.name, use)), result="")

    def _is_inside(self, loop: int, use: Use) -> bool:
        return use.name in self.where and self.where[use.name][0] == loop

    def _element(self, loop: int, j: int, ops: list[Op]) -> Op | None:
        """select(x, dim, start + stride*i) with x from outside: the signal x read along dim."""
        op = ops[0]
        if op.kind != "select" or len({self._resolved(o).args[0] for o in ops}) != 1 or not isinstance(op.args[0], Use):
            return None
        if self._is_inside(loop, op.args[0]):
            return None
        indices = [o.args[2] for o in ops]
        step = _progression(indices)
        source, dim = self._read_outside(op.args[0]), op.args[1]
        if step == 0:
            return None
        if step is None:
            if not self.tables:
                raise self._differs(op, "reads positions that do not advance evenly")
            table = self._table(tuple(indices), "i64")
            source = self._new("index_select", (source, dim, table), None)
            indices, step = [0], 1
        return replace(op, kind="signal", args=(source, dim, indices[0], step), attrs=(), time=f"t{loop}")

    def _window(self, loop: int, ops: list[Op]) -> bool:
        """slice(x, dim, start + stride*i, ... + width) with x from outside: the signal of the windows of x."""
        op = ops[0]
        if op.kind != "slice" or len(op.args) < 4 or (len(op.args) > 4 and op.args[4] != 1):
            return False
        begins, ends, dim = [o.args[2] for o in ops], [o.args[3] for o in ops], op.args[1]
        step = _progression(begins)
        widths = {e - b for b, e in zip(begins, ends, strict=True) if isinstance(b, int) and isinstance(e, int)}
        if not step or len(widths) != 1 or not isinstance(dim, int) or not isinstance(op.type, Type):
            return False
        source, first, width = op.args[0], begins[0], widths.pop()
        if not isinstance(source, Use) or self._is_inside(loop, source) or not isinstance(first, int) or width < 1:
            return False
        dim %= len(op.type.shape)
        around = (*op.type.shape[:dim], *op.type.shape[dim + 1 :])
        outside, signal = self._read_outside(source), f"{op.result}.row"
        if width == 1:
            row = Type(op.type.dtype, around)
            self.ops.append(Op(signal, "signal", (outside, dim, first, step), (), row, f"t{loop}", (), op.source))
            self.ops.append(replace(op, kind="unsqueeze", args=(Use(signal), dim), attrs=(), time=f"t{loop}"))
            return True
        # unfold puts the windows along `dim` and what is in them last
        start, size = min(first, first + step * (len(ops) - 1)), abs(step)
        stop = start + size * (len(ops) - 1) + width
        cut = self._new(
            "slice", (outside, dim, start, stop), Type(op.type.dtype, (*around[:dim], stop - start, *around[dim:]))
        )
        windows = Type(op.type.dtype, (*around[:dim], len(ops), *around[dim:], width))
        unfolded = self._new("unfold", (cut, dim, width, size), windows)
        row = Type(op.type.dtype, (*around, width))
        at = (0, 1) if step > 0 else (len(ops) - 1, -1)
        self.ops.append(Op(signal, "signal", (unfolded, dim, *at), (), row, f"t{loop}", (), op.source))
        order_ = (*range(dim), len(around), *range(dim, len(around)))
        self.ops.append(replace(op, kind="permute", args=(Use(signal), order_), attrs=(), time=f"t{loop}"))
        return True

    def _array(self, loop: int, j: int, ops: list[Op]) -> bool:
        """An output array written at start + stride*i: `stack`, or a scatter into what was there."""
        if ops[0].kind != "select_scatter":
            return False
        for i, op in enumerate(ops[1:], 1):
            if op.args[0] != Use(ops[i - 1].result):
                return False
        step = _progression([op.args[3] for op in ops])
        if not step or any(self._is_read_inside(loop, op) for op in ops[:-1]):
            return False
        dim, start = ops[0].args[2], ops[0].args[3]
        assert isinstance(dim, int) and isinstance(start, int) and isinstance(ops[0].type, Type)
        count, extent = len(ops), ops[0].type.shape[dim]
        written = ops[0].args[1]
        base = self._read_outside(ops[0].args[0])
        values = [op.args[1] for op in ops]
        merged = self._merged(loop, values, ops[0])
        if not (
            isinstance(merged, Use) and merged.delay == 0 and isinstance(written, Use) and written.name in self.where
        ):
            copy = replace(ops[0], result=f"{ops[0].result}.row", kind="alias", args=(merged,), time=f"t{loop}")
            self.ops.append(replace(copy, type=self._row_type(ops[0], dim)))
            merged = Use(copy.result)
        row = self._row_type(ops[0], dim)
        whole = Type(row.dtype, (*row.shape[:dim], count, *row.shape[dim:]))
        stacked = self._new("stack", (Use(merged.name), dim), whole)
        if step < 0:
            stacked, start, step = self._new("flip", (stacked, (dim,)), whole), start + step * (count - 1), -step
        if (start, step, count) != (0, 1, extent):
            stop = start + step * (count - 1) + 1
            stacked = self._new("slice_scatter", (base, stacked, dim, start, stop, step), ops[0].type)
        self.arrays[ops[0].result] = stacked
        return True

    def _row_type(self, op: Op, dim: int) -> Type:
        assert isinstance(op.type, Type)
        return Type(op.type.dtype, (*op.type.shape[:dim], *op.type.shape[dim + 1 :]))

    def _is_read_inside(self, loop: int, op: Op) -> bool:
        """Is this version of the array read by anything but the next write?"""
        readers = self._readers().get(op.result, [])
        return len(readers) > 1

    def _readers(self) -> dict[str, list[str]]:
        if not hasattr(self, "_reader_table"):
            self._reader_table: dict[str, list[str]] = {}
            for op in self.flat.ops:
                for use in op.uses():
                    self._reader_table.setdefault(use.name, []).append(op.result)
        return self._reader_table

    def _merged(self, loop: int, values: list[Arg], op: Op) -> Arg:
        """One argument of a body op from that argument in every repeat."""
        if all(isinstance(v, tuple) for v in values):
            lists = [v for v in values if isinstance(v, tuple)]
            if len({len(v) for v in lists}) == 1:
                return tuple(self._merged(loop, [v[k] for v in lists], op) for k in range(len(lists[0])))
        if isinstance(values[-1], Use):
            return self._merged_reads(loop, values, op)
        function = self._function_of_time(loop, values, op)
        if function is not None:
            return function
        if all(type(v) is type(values[0]) and (v == values[0] or v != v) for v in values):
            return values[0]
        if self.tables and all(isinstance(v, int | float) and not isinstance(v, Use) for v in values):
            dtype = "i64" if all(isinstance(v, int) for v in values) else "f64"
            if dtype == "f64" or op.kind in _NUMERIC:
                table = self._table(tuple(values), dtype)
                return self._new("signal", (table, 0, 0, 1), Type(dtype, ()), f"t{loop}")
        raise self._differs(op, "has an argument that differs from step to step")

    def _function_of_time(self, loop: int, values: list[Arg], op: Op) -> Arg | None:
        """Numbers that are an expression of the loop's counter, as a signal."""
        place = self.where.get(op.result)
        numbers = all(isinstance(v, bool | int | float) for v in values)
        if not numbers or op.source is None or place is None or op.kind not in _NUMERIC:
            return None
        repeat, flat = self.repeats[loop], self.flat
        steps = [flat.ops[repeat.start + i * repeat.period + place[2]].result for i in range(repeat.count)]
        found = coefficients.read(values, [flat.frames.get(s) for s in steps], op.source, flat.watch)
        if found is None:
            return None
        flat.read |= found.places
        table, dtype, backward = coefficients.Table(found, repeat.count, self._written).write()
        at = (repeat.count - 1, -1) if backward else (0, 1)
        return self._new("signal", (table, 0, *at), Type(dtype, ()), f"t{loop}")

    def _written(self, kind: str, args: tuple[Arg, ...], attrs: tuple[tuple[str, Arg], ...], type_: Type) -> Use:
        made = self._new(kind, args, type_)
        self.ops[-1] = replace(self.ops[-1], attrs=attrs)
        return made

    def _table(self, values: tuple[Arg, ...], dtype: str) -> Use:
        """Numbers that differ from step to step, as a tensor over time."""
        table = self._new("tensor", (values,), Type(dtype, (len(values),)))
        self.ops[-1] = replace(self.ops[-1], attrs=(("dtype", Atom(LONG[dtype])),))
        return table

    def _merged_reads(self, loop: int, values: list[Arg], op: Op) -> Arg:
        values = [self.renamed.get(v.name, v) if isinstance(v, Use) else v for v in values]
        last = values[-1]
        assert isinstance(last, Use)
        place = self.where.get(last.name)
        count = len(values)
        if place is None or place[0] != loop:
            if all(v == last for v in values):
                return self._read_outside(last)
            return self._table_of(loop, values, op)
        _, i, j = place
        delay = count - 1 - i
        signal = self._body_name(loop, j)
        for k in range(delay, count):
            v = values[k]
            if not isinstance(v, Use) or self.where.get(v.name) != (loop, k - delay, j):
                raise self._differs(op, "reads different values at different steps")
        if delay == 0:
            return Use(signal)
        before = [self._first_alike(self._read_outside(v)) for v in values[:delay]]  # steps 0 .. delay-1 read these
        return self._delayed(signal, delay, list(reversed(before)), op)

    def _first_alike(self, arg: Arg) -> Arg:
        """The first value made by the same operators of the same arguments: each slot of a ring starts with its own."""
        if not self.alike:
            first: dict[Op, Use] = {}
            for op in self.flat.ops:
                if op.result not in self.where and op.kind not in RANDOM:
                    plain = replace(op.map_uses(lambda use: self.alike.get(use.name, use)), result="")
                    self.alike[op.result] = first.setdefault(plain, Use(op.result))
        return self.alike.get(arg.name, arg) if isinstance(arg, Use) and not arg.delay else arg

    def _delayed(self, signal: str, delay: int, before: list[Arg], op: Op) -> Use:
        """`signal` read `delay` steps back; `before[k]` is its value k+1 steps before the first."""
        known = self.inits.setdefault(signal, [])
        if all(a == b for a, b in zip(known, before, strict=False)):
            known.extend(before[len(known) :])
            return Use(signal, delay)
        key = ("copy", signal, tuple(before))
        if key not in self.cache:
            made = self.made[signal]
            copy = self._new("alias", (Use(signal),), made.type if isinstance(made.type, Type) else None, op.time)
            self.ops[-1] = replace(self.ops[-1], time=f"t{self.where[signal][0]}")
            self.inits[copy.name] = before
            self.cache[key] = copy
        return Use(self.cache[key].name, delay)

    def _table_of(self, loop: int, values: list[Arg], op: Op) -> Arg:
        """Outside values that differ from step to step."""
        flipped = self._repeats_of_other(loop, values)
        if flipped is not None:
            return flipped
        if not self.tables or not all(isinstance(v, Use) for v in values):
            raise self._differs(op, "reads different values of outside at different steps")
        first = values[0]
        assert isinstance(first, Use)
        t = self.types[first.name]
        rows = tuple(self._new("unsqueeze", (self._read_outside(v), 0), None) for v in values)
        table = self._new("cat", (rows, 0), Type(t.dtype, (len(values), *t.shape)))
        return self._new("signal", (table, 0, 0, 1), t, f"t{loop}")

    def _repeats_of_other(self, loop: int, values: list[Arg]) -> Arg | None:
        """The list of all repeats of an earlier loop, read in order or in reverse."""
        run = self._run_of(values)
        if run is None or run.length != len(values):
            return None
        first = values[0]
        assert isinstance(first, Use)
        stacked = self._stacked(run, 0, first, False)
        key = ("signal", loop, stacked.name)
        if key not in self.cache:
            self.cache[key] = self._new("signal", (stacked, 0, 0, 1), self.types[first.name], f"t{loop}")
        return self.cache[key]

    def _differs(self, op: Op, what: str) -> CaptureError:
        return CaptureError(
            "LR0405",
            f"`{op.kind}` {what}",
            file=op.source.file if op.source else None,
            line=op.source.line if op.source else None,
            help="let every step do the same: index with t, and put special first and last steps outside the loop",
        )


_NUMERIC = frozenset("mul add sub div pow rsub lerp full_like gt lt ge le eq ne remainder maximum minimum".split())


def _progression(values: Sequence[Arg]) -> int | None:
    """The constant difference of integers; 0 if all are equal, None if there is none."""
    if not all(isinstance(v, int) for v in values):
        return None
    numbers = [v for v in values if isinstance(v, int)]
    if len(numbers) == 1:
        return 1
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    return steps.pop() if len(steps) == 1 else None
