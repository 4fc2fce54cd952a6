"""Re-rolling: a straight-line program in which a body repeats becomes a loop over signals.

Repeat i is compared with repeat i + 1, argument by argument:

    the same value of outside              invariant
    a value of the same repeat             a read without delay
    a value of d repeats before            a read with delay d; what stood there before is the init
    x[start + stride*i] along an axis      a signal
    numbers that are a function of t       that function over all steps, a signal
    values that branches choose            a choice, or a variable that keeps what was assigned last (`variables`)
    values or numbers that differ          a table over time (only where no length is general)

What the rest of the program reads of a loop is the list of all repeats (`stack`), the last one
(`last`) or a single one (`pick`). Unrolling the result gives back the program op by op.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from linrec.draws import RANDOM
from linrec.errors import CaptureError, VerifyError
from linrec.frontends.loop import coefficients
from linrec.frontends.loop.branches import GUARDED
from linrec.frontends.loop.declared import is_mark
from linrec.frontends.loop.flatten import Flat
from linrec.frontends.loop.naming import directed, named
from linrec.frontends.loop.reads import Reads, Run
from linrec.frontends.loop.repeats import COMMUTATIVE, PEELED, Repeat
from linrec.frontends.loop.rolling import NUMERIC
from linrec.frontends.loop.variables import Made
from linrec.ir import Arg, Graph, Op, Time, Type, Use, order, uses_in


def reroll(flat: Flat, repeats: list[Repeat], *, tables: bool, name: str) -> Graph:
    """The loop program of a straight-line one whose `repeats` run over time.

    With `tables`, numbers may differ from step to step in any way: the result then holds for this
    length only. Raises CaptureError (LR0405, LR0406) when steps differ in a way no loop has.
    """
    if not repeats and not any(map(is_mark, flat.ops)):
        raise CaptureError("LR0406", "no part of the program repeats over time, so there is nothing to parallelise")
    return _Reroller(flat, repeats, tables, name).run()


class _Reroller(Reads):
    def run(self) -> Graph:
        done = 0
        for loop, repeat in enumerate(self.repeats):
            for op in self.flat.ops[done : repeat.start]:
                self._outside(op)
            self._loop(loop, repeat)
            done = repeat.stop
        for op in self.flat.ops[done:]:
            self._outside(op)
        first = min((r.start for r in self.repeats), default=0)
        apart = {op.result for op in self.flat.ops if op.result not in self.where}
        between = {op.result for op in self.flat.ops[first:]}
        for place, op in enumerate(self.ops):
            if op.result in apart:
                timed = self._timed(op)
                if timed is None and op.result in between:
                    raise self._differs(op, "has a number that depends on t, in a step that is not like the others")
                self.ops[place] = timed or op
        outputs = tuple(self._read_outside(o) for o in self.flat.outputs)
        for signal, inits in self.inits.items():
            if None in inits:  # nothing reads it, but there is a state of that kind before the first step
                zeros = self._zeros(self.types[signal])
                inits[:] = [zeros if init is None else init for init in inits]
            if not all(self._fits(init, signal) for init in inits):
                raise self._differs(self.made[signal], "has a state that is larger before the first step than after it")
        ops = tuple(replace(op, init=tuple(self.inits.get(op.result, ()))) for op in self.ops)
        try:
            ops = order(_without_tries(ops, outputs))
            self.flat.reach = max((self.partial[op.result] + 2 for op in ops if op.result in self.partial), default=0)
        except VerifyError as error:  # a step reads the list of all steps, at one that is neither before nor a row
            raise CaptureError(
                "LR0405", "a step reads a step of its own loop whose place cannot be read from the code",
                help="read earlier steps as past[-1], past[-2] or past[t - m]",
            ) from error  # fmt: skip
        return named(directed(Graph(self.name, tuple(self.flat.inputs), tuple(self.times), ops, outputs)))

    def _fits(self, init: Arg, signal: str) -> bool:
        """Can the state before the first step be broadcast to what it is later?"""
        first, later = self.types.get(init.name) if isinstance(init, Use) else None, self.types.get(signal)
        if not isinstance(first, Type) or not isinstance(later, Type):
            return True
        ends = zip(reversed(first.shape), reversed(later.shape), strict=False)
        return len(first.shape) <= len(later.shape) and all(a in (1, b) for a, b in ends)

    # outside of loops ----------------------------------------------------------------------------

    def _outside(self, op: Op) -> None:
        if op.result in self.flat.absent:
            return
        if op.kind in ("stack", "cat") and isinstance(op.args[0], tuple):
            self.ops.append(self._joined(op))
        else:
            args = tuple(self._sized(self._argument(arg), op) for arg in op.args)
            attrs = tuple((k, self._sized(self._read_outside(a), op)) for k, a in op.attrs)
            self.ops.append(self._without_factor(replace(op, args=args, attrs=attrs)))

    def _timed(self, op: Op) -> Op | None:
        """An op of a step that stands apart, its numbers read from the code as those of the other steps are."""
        found = [c for place, c in self.flat.timed if place == (op.kind, op.source) and op.source is not None]
        if not found:
            return op
        frame = self.flat.frames.get(op.result)
        args, read = list(op.args), set()
        for at, number in enumerate(op.args):
            for k, coefficient in enumerate(found):
                step = coefficient.step_of(frame) if frame is not None else None
                told = coefficient.number(step) if step is not None else None
                if told is not None and type(told) is type(number) and told == number:
                    read.add(k)
                    if args[at] is number and step is not None:
                        args[at] = self._number(coefficient.later(step))
        return replace(op, args=tuple(args)) if len(read) == len(found) and op.kind in NUMERIC else None

    def _argument(self, arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(map(self._argument, arg))
        return self._first_alike(self._read_outside(arg))

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
        kept = self._run_of_variable(items) if self.flat.absent else None
        if kept is not None:
            return kept
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
        return (
            Run(loop, self._body_name(loop, j), step, start, length)
            if length >= max(count - PEELED, 2) or length == count or (length == len(items) and 2 * length >= count)
            else None
        )

    def _stacked(self, run: Run, axis: int, first: Use, flat: bool) -> Use:
        """The values of a run as one tensor, along a new axis, or along their own if `flat`."""
        count = self.repeats[run.loop].count
        t = self.types[first.name]

        def shape(length: int) -> Type:
            return Type(t.dtype, (*t.shape[:axis], length, *t.shape[axis:]))

        key = ("stack", run.loop, run.signal, axis)
        out = self._once(key, "stack", (Use(run.signal), axis), shape(count))
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

    def _loop(self, loop: int, repeat: Repeat) -> None:
        time = Time(f"t{loop}", repeat.count)
        self.times.append(time)
        for j in range(repeat.period):
            ops = [self.flat.ops[repeat.start + i * repeat.period + j] for i in range(repeat.count)]
            if self._invariant(loop, j, ops) or self._array(loop, j, ops):
                continue
            if self._window(loop, ops):
                continue
            read = self._element(loop, j, ops)
            if read is not None:
                self.ops.append(read)
                continue
            if len({self.flat.paths.get(op.result) for op in ops}) > 1:
                raise self._differs(ops[0], "is reached by other branches at some steps than at others")
            is_read = [op.result not in self.flat.absent for op in ops]
            ops = self._turned(loop, ops) if self.flat.branches else ops

            def merged(values: list[Arg], op: Op = ops[0], is_read: list[bool] = is_read) -> Arg:
                return self._merged(loop, values, op, is_read)

            args = tuple(merged([op.args[a] for op in ops]) for a in range(len(ops[0].args)))
            if ops[0].kind in GUARDED and not self._ran_always(loop, j):
                args = self._guarded(loop, j, ops[0], args)
            attrs = tuple((k, merged([op.attrs[a][1] for op in ops])) for a, (k, _) in enumerate(ops[0].attrs))
            body = replace(ops[-1], result=ops[0].result, args=args, attrs=attrs, time=time.name)
            self.ops.append(self._without_factor(body))

    def _without_factor(self, op: Op) -> Op:
        """a + alpha*b as a product and a sum, where alpha is no number: rules and operators take numbers there."""
        factor = dict(op.attrs).get("alpha")
        if not isinstance(factor, Use):
            return op
        scaled = 0 if op.kind == "rsub" else 1
        arg = op.args[scaled]
        type_ = self.types[arg.name] if isinstance(arg, Use) else self.types[factor.name]
        product = self._new("mul", (arg, factor), type_, op.time)
        args = (product, op.args[1]) if scaled == 0 else (op.args[0], product)
        return replace(op, args=args, attrs=tuple((k, v) for k, v in op.attrs if k != "alpha"))

    def _guarded(self, loop: int, j: int, op: Op, args: tuple[Arg, ...]) -> tuple[Arg, ...]:
        """Divide by one in the steps that do not divide: what nobody reads may have no derivative, or overflow."""
        place = GUARDED[op.kind]
        divisor = op.args[place]
        if not isinstance(divisor, Use):
            return args
        path = self.flat.paths.get(self._body_name(loop, j))
        turns = self._turns(loop, op, path[0][0]) if path else None
        if path is None or turns is None:
            raise self._differs(op, "runs in some steps only")
        chosen = (self._condition(loop, path, turns[0]), args[place], 1)
        return (*args[:place], self._new("where", chosen, self.types[divisor.name], f"t{loop}"), *args[place + 1 :])

    def _turned(self, loop: int, ops: list[Op]) -> list[Op]:
        """Products and sums in one order: torch has h*0.5 for 0.5*h, where other steps have a*h."""
        if ops[0].kind not in COMMUTATIVE or any(len(op.args) != 2 or op.attrs for op in ops):
            return ops
        turned = [not isinstance(op.args[1], Use) for op in ops]
        left, right = (
            {self._place(loop, op.args[side]) for op, was in zip(ops, turned, strict=True) if not was}
            for side in (0, 1)
        )
        first = {self._place(loop, op.args[0]) for op, was in zip(ops, turned, strict=True) if was}
        if (first & right) - left - {None}:
            return [replace(op, args=op.args[::-1]) if was else op for op, was in zip(ops, turned, strict=True)]
        return ops

    def _place(self, loop: int, arg: Arg) -> int | None:
        """Which op of the body made it."""
        made = self._made(loop, arg)
        return made.place if isinstance(made, Made) else None

    def _invariant(self, loop: int, j: int, ops: list[Op]) -> bool:
        """An op that does the same on the same outside values in every repeat is done once, before the loop."""
        ran = [op for op in ops if op.result not in self.flat.absent]
        if ops[0].kind in RANDOM or len({self._resolved(o) for o in ran}) != 1:
            return False
        if any(self._is_inside(loop, use) for use in ran[0].uses()):
            return False
        if len(ran) < len(ops) and any(j in places for places in self._assigned(loop)):
            # what a branch assigns is a value of its steps, even if it is always the same
            once = replace(ran[0], result=f"{ran[0].result}.once")
            self.types[once.result] = self.types[ran[0].result]
            self._outside(once)
            self.ops.append(
                replace(
                    ran[0],
                    result=self._body_name(loop, j),
                    kind="alias",
                    args=(Use(once.result),),
                    attrs=(),
                    time=f"t{loop}",
                )
            )
            return True
        self._outside(ran[0])
        first = ran[0].result
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
        ran = {i: op for i, op in enumerate(ops) if op.result not in self.flat.absent}
        op = next(iter(ran.values()))
        source, dim = op.args[0], op.args[1] if len(op.args) > 1 else 0
        if op.kind != "select" or len({self._resolved(o).args[0] for o in ran.values()}) != 1:
            return None
        if not isinstance(source, Use) or not isinstance(dim, int) or self._is_inside(loop, source):
            return None
        indices = {i: o.args[2] for i, o in ran.items()}
        step = _progression(indices)
        if step == 0:
            return None
        whole = self._read_outside(source)
        positions = self._positions(loop, j, indices, op)
        if positions is not None:
            whole, start, step = self._new("index_select", (whole, dim, positions), None), 0, 1
        elif step is None:
            if not self.tables:
                raise self._differs(op, "reads positions that do not advance evenly")
            table = self._table(tuple(indices.values()), "i64")
            whole, start, step = self._new("index_select", (whole, dim, table), None), 0, 1
        else:
            start = next(number - i * step for i, number in indices.items() if isinstance(number, int))
            whole, start = self._padded(whole, self.types[source.name], dim, start, start + step * (len(ops) - 1))
        name = ops[0].result
        signal = replace(op, result=name, kind="signal", args=(whole, dim, start, step), attrs=(), time=f"t{loop}")
        if len(ran) == len(ops):
            return signal
        # what no step reads is no number of the program's, and may be NaN
        path = self.flat.paths.get(name, ())
        turns = self._turns(loop, ops[0], path[0][0]) if path else None
        if turns is None:
            raise self._differs(op, "is read in some steps alone")
        self.ops.append(replace(signal, result=f"{name}.row"))
        test = self._condition(loop, path, turns[0])
        nothing = False if self.types[source.name].dtype == "bool" else 0
        return replace(
            op, result=name, kind="where", args=(test, Use(f"{name}.row"), nothing), attrs=(), time=f"t{loop}"
        )

    def _positions(self, loop: int, j: int, indices: Mapping[int, Arg], op: Op) -> Use | None:
        """Positions that are some other function of time: a[t % 3], a[min(t, 9)]."""
        flat, repeat = self.flat, self.repeats[loop]
        frames = [flat.frames.get(flat.ops[repeat.start + i * repeat.period + j].result) for i in indices]
        if op.source is None or len(indices) < repeat.count:
            return None
        found = coefficients.read([*indices.values()], frames, op.source, flat.watch, [*indices])
        if found is None or coefficients.is_affine(found):
            return None
        flat.read |= found.places
        flat.timed.append(((op.kind, op.source), found))
        return coefficients.Table(found, repeat.count, self._written).vector_of("i64")

    def _padded(self, whole: Arg, type_: Type, dim: int, start: int, stop: int) -> tuple[Arg, int]:
        """The tensor, with zeros where only steps that read nothing would reach beyond its ends; where it is read from."""
        length = type_.shape[dim]
        assert isinstance(length, int)
        before, after = max(-min(start, stop), 0), max(max(start, stop) + 1 - length, 0)
        if not before and not after:
            return whole, start
        longer = Type(type_.dtype, (*type_.shape[:dim], before + length + after, *type_.shape[dim + 1 :]))
        beside = (0, 0) * (len(type_.shape) - dim - 1)
        return self._new("constant_pad_nd", (whole, (*beside, before, after), 0), longer), start + before

    def _window(self, loop: int, ops: list[Op]) -> bool:
        """slice(x, dim, start + stride*i, ... + width) with x from outside: the signal of the windows of x."""
        op = ops[0]
        if op.kind != "slice" or len(op.args) < 4 or (len(op.args) > 4 and op.args[4] != 1):
            return False
        if any(o.result in self.flat.absent for o in ops):
            return False
        begins, ends, dim = [o.args[2] for o in ops], [o.args[3] for o in ops], op.args[1]
        step = _progression(dict(enumerate(begins)))
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
        step = _progression({i: op.args[3] for i, op in enumerate(ops)})
        if any(op.result in self.flat.absent for op in ops):
            raise self._differs(ops[0], "writes an array in some steps alone")
        if not step or any(self._is_read_inside(loop, op) for op in ops[:-1]):
            return False
        dim, start = ops[0].args[2], ops[0].args[3]
        assert isinstance(dim, int) and isinstance(start, int) and isinstance(ops[0].type, Type)
        count, extent = len(ops), ops[0].type.shape[dim]
        written = ops[0].args[1]
        base = self._read_outside(ops[0].args[0])
        values = [op.args[1] for op in ops]
        merged = self._merged(loop, values, ops[0], [True] * count)
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

    def _merged(self, loop: int, values: list[Arg], op: Op, is_read: list[bool]) -> Arg:
        """One argument of a body op from that argument in every repeat that has read one."""
        found = [v for v, was in zip(values, is_read, strict=True) if was]
        if all(isinstance(v, tuple) for v in found):
            lists = [v for v in values if isinstance(v, tuple)]
            if len({len(v) for v in lists}) == 1 and len(lists) == len(values):
                return tuple(self._merged(loop, [v[k] for v in lists], op, is_read) for k in range(len(lists[0])))
        function = self._function_of_time(loop, values, op, is_read)
        if function is not None:
            return function
        if not isinstance(found[-1], Use) and all(
            type(v) is type(found[0]) and (v == found[0] or v != v) for v in found
        ):
            return self._sized(found[0], op)
        chosen = self._chosen(loop, values, op, is_read, self.flat.branches)
        if chosen is not None:
            return chosen
        if self.tables and all(isinstance(v, int | float) and not isinstance(v, Use) for v in values):
            dtype = "i64" if all(isinstance(v, int) for v in values) else "f64"
            if dtype == "f64" or op.kind in NUMERIC:
                table = self._table(tuple(values), dtype)
                return self._new("signal", (table, 0, 0, 1), Type(dtype, ()), f"t{loop}")
        if isinstance(found[-1], Use):
            return self._table_of(loop, self._completed(loop, values, is_read), op)
        raise self._differs(op, "has an argument that differs from step to step")

    def _table_of(self, loop: int, values: list[Arg], op: Op) -> Arg:
        """Outside values that differ from step to step."""
        if any(isinstance(v, Use) and self.where.get(v.name, (None,))[0] == loop for v in values):
            raise self._differs(op, "reads other steps of its own loop in no order that holds for all")
        flipped = self._repeats_of_other(loop, values)
        if flipped is not None:
            return flipped
        types = {self.types.get(v.name) if isinstance(v, Use) else None for v in values}
        if not self.tables or None in types or len(types) > 1:
            raise self._differs(op, "reads different values of outside at different steps")
        first = values[0]
        assert isinstance(first, Use)
        t = self.types[first.name]
        rows = tuple(self._new("unsqueeze", (self._read_outside(v), 0), None) for v in values)
        table = self._new("cat", (rows, 0), Type(t.dtype, (len(values), *t.shape)))
        return self._new("signal", (table, 0, 0, 1), t, f"t{loop}")

    def _completed(self, loop: int, values: list[Arg], is_read: list[bool]) -> list[Arg]:
        """With values of an earlier loop, which some steps read one after the other, what the other steps would read there."""
        made = {k: self.where.get(v.name) if isinstance(v, Use) else None for k, v in enumerate(values) if is_read[k]}
        known = [(k, place) for k, place in made.items() if place is not None and place[0] != loop]
        if all(is_read) or not known:
            return values
        at, (other, i, j) = known[-1]
        repeat = self.repeats[other]
        for slope in (1, -1):
            places = [i + slope * (k - at) for k in range(len(values))]
            inside = [0 <= p < repeat.count for p in places]
            follows = all(place == (other, places[k], j) for k, place in known)
            if follows and sum(inside) >= len(values) - PEELED and self._ran_always(other, j):
                self.flat.guessed |= not all(inside)
                rows = [repeat.start + min(max(p, 0), repeat.count - 1) * repeat.period + j for p in places]
                return [v if is_read[k] else Use(self.flat.ops[rows[k]].result) for k, v in enumerate(values)]
        return values

    def _repeats_of_other(self, loop: int, values: list[Arg]) -> Arg | None:
        """The list of all repeats of an earlier loop, read in order or in reverse, and of steps of it that stand apart."""
        for early, late in itertools.product(range(PEELED + 1), repeat=2):
            middle = values[early : len(values) - late]
            run = self._run_of(middle) if len(middle) > 1 else None
            if run is not None and run.length == len(middle):
                break
        else:
            return None
        first = middle[0]
        assert isinstance(first, Use)
        stacked, ends = self._stacked(run, 0, first, False), (*values[:early], *values[len(values) - late :])
        key = ("signal", loop, stacked.name, *ends)
        if key not in self.cache:
            row = self.types[first.name]
            if any(not isinstance(v, Use) or self.types.get(v.name) != row for v in ends):
                return None
            if ends:
                rows = [
                    self._new("unsqueeze", (self._read_outside(v), 0), Type(row.dtype, (1, *row.shape))) for v in ends
                ]
                whole = Type(row.dtype, (len(values), *row.shape))
                stacked = self._new("cat", ((*rows[:early], stacked, *rows[early:]), 0), whole)
            self.cache[key] = self._new("signal", (stacked, 0, 0, 1), row, f"t{loop}")
        return self.cache[key]

    def _differs(self, op: Op, what: str) -> CaptureError:
        return CaptureError(
            "LR0405",
            f"`{op.kind}` {what}",
            file=op.source.file if op.source else None,
            line=op.source.line if op.source else None,
            help="let every step do the same: index with t, and put special first and last steps outside the loop",
        )


def _without_tries(ops: Sequence[Op], outputs: tuple[Arg, ...]) -> tuple[Op, ...]:
    """Without reads of single steps that nothing took: how many were tried depends on the length."""
    needed = {use.name for use in uses_in(outputs)} | {use.name for op in ops for use in op.all_uses()}
    return tuple(op for op in ops if op.result in needed or op.kind not in ("pick", "last"))


def _progression(values: Mapping[int, Arg]) -> int | None:
    """The constant difference of integers by step; 0 if all are equal, None if there is none."""
    numbers = [(step, v) for step, v in values.items() if isinstance(v, int)]
    if len(numbers) != len(values):
        return None
    if len(numbers) == 1:
        return 1
    (a, first), (b, second) = numbers[:2]
    slope, rest = divmod(second - first, b - a)
    return slope if not rest and all(v == first + slope * (i - a) for i, v in numbers) else None
