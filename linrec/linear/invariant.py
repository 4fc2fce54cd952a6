"""Lowering of time-invariant systems: the recurrence as ops on whole tensors.

    lti_impulse(A, G, C, D, T)     K[0] = D, K[k] = C A^(k-1) G       (T, g, q, p)
    lti_states(A, G, T)            A^(k-1) G, and lti_read(states, C, D) makes K of them
    lti_convolution(w, K, F, ...)  y[t] = sum_k K[k] w[t-k], F the transform of K    (b, T, g, q)
    lti_final(w, R)                y[T-1] alone, R = K reversed       (b, 1, g, q)
    lti_chunked(w, A, G, C, D)     the same as the convolution, chunk by chunk
    lti_free(s, A, C, c, e, T)     the response to the initial state s and to constants c, e

Drives become one (b, T, g, p) tensor, matrices are ops on coefficients, and the result becomes the signals that
the rest of the program reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Recurrence, Type, Use, order
from linrec.linear.system import BATCH, GROUP, MIXED, MatrixWriter, System, Vector, product
from linrec.sizes import Dim

REAL = {"c64": "f32", "c128": "f64"}
_ZEROS = frozenset({"zeros", "new_zeros", "zeros_like"})


def lower_invariant(graph: Graph, system: System, recurrence: Recurrence, *, keep_states: bool = False) -> Graph:
    """Replace a time-invariant recurrence by its form.

    `keep_states` makes the response of the states a value of its own, which can be kept while readouts change.
    """
    return _Lowering(graph, system, recurrence, keep_states).run()


class _Lowering:
    def __init__(self, graph: Graph, system: System, recurrence: Recurrence, keep_states: bool) -> None:
        self.graph, self.system, self.recurrence, self.keep_states = graph, system, recurrence, keep_states
        self.write = MatrixWriter(system, recurrence.name)
        state = system.states[0]
        self.batch_axes = [i for i, part in enumerate(state.parts) if part == BATCH]
        self.batch = tuple(state.type.shape[i] for i in self.batch_axes)
        self.group = product(state.sizes(GROUP))
        self.trip = system.time.trip
        self.backward = system.time.direction == "backward"
        self.is_real = recurrence.form in ("final", "convolution") and self._is_read_as_real()
        self.dtype = REAL[system.dtype] if self.is_real else system.dtype  # of drives and results

    def _is_read_as_real(self) -> bool:
        """Is a complex state driven by reals, and of what is read only the real part? Then so is its response."""
        system, roots, readers = self.system, self.graph.roots(), self.graph.readers()
        members = set(self.recurrence.members)
        outside = [op for v in system.outputs for op in readers.get(v.use.name, []) if op.result not in members]
        return (
            system.dtype in REAL
            and bool(system.drives)
            and all(v.type.dtype[0] != "c" for v in system.drives)
            and not any(v.use.name in roots for v in system.outputs)
            and all(op.kind == "real" for op in outside)
        )

    def run(self) -> Graph:
        system, write = self.system, self.write
        states, drives, outputs = system.states, system.drives, system.outputs
        n, p, q = (system.width(v) for v in (states, drives, outputs))
        state_rows = [(v, v.use.name if v.use.delay == 1 else None) for v in states]
        # row (state, delay d) of the next vector is the state itself for d = 1, else the state at d - 1
        a = write.matrix([(v, row) for v, row in state_rows], states)
        g = write.matrix([(v, row) for v, row in state_rows], drives) if drives else None
        plain = len(states) == 1 and [o.use.name for o in outputs] == [states[0].use.name]
        c = a if plain else write.matrix([(o, o.use.name) for o in outputs], states)
        d = g if plain else write.matrix([(o, o.use.name) for o in outputs], drives) if drives else None
        assert a is not None
        result: Use | None = None
        shape = (product(self.batch), 1 if self.recurrence.form == "final" else self.trip, self.group, q)
        if drives and (g is not None or d is not None):
            w = self._drive_tensor()
            write.dtype = system.dtype
            filled = [
                m if m is not None else write.make("zeros", (s,), s, (("dtype", self._dtype()),))
                for m, s in ((g, (self.group, n, p)), (c, (self.group, q, n)), (d, (self.group, q, p)))
            ]
            if self.recurrence.form == "chunked":
                result = write.make("lti_chunked", (w, a, *filled, plain), shape)
            else:
                k = self._response(a, filled, plain, (self.trip, self.group, q, p))
                if self.recurrence.form == "final":
                    layout = write.make("lti_reversed", (k,), (self.group, self.trip * p, q), dtype=self.dtype)
                    result = write.make("lti_final", (w, layout), shape, dtype=self.dtype)
                else:
                    spectrum = write.make("lti_spectrum", (k, self.trip), ())
                    result = write.make("lti_convolution", (w, k, spectrum, a, *filled, plain), shape, dtype=self.dtype)
        free = self._free(a, c, n, q)
        if free is not None and self.is_real:
            free = write.make("real", (free,), shape, dtype=self.dtype)
        if free is not None:
            result = free if result is None else write.make("add", (result, free), shape)
        if result is None:
            result = write.make("zeros", (shape,), shape, (("dtype", self._dtype()),))
        write.dtype = self.dtype
        return self._replaced(self._outputs(result, shape))

    def _response(self, a: Use, filled: Sequence[Use], plain: bool, shape: tuple[Dim, ...]) -> Use:
        if self.system.is_elementwise:
            a = self.write.diagonal()
        elif not plain and self.keep_states and not self.is_real:
            return self._read(a, filled, shape)
        real = (True,) if self.is_real else ()
        return self.write.make("lti_impulse", (a, *filled, self.trip, plain, *real), shape, dtype=self.dtype)

    def _read(self, a: Use, filled: Sequence[Use], shape: tuple[Dim, ...]) -> Use:
        g, c, d = filled
        n = self.system.width(self.system.states)
        states = self.write.make("lti_states", (a, g, self.trip), (self.trip - 1, shape[1], n, shape[3]))
        return self.write.make("lti_read", (states, c, d), shape)

    def _dtype(self) -> Arg:
        return Atom(LONG[self.system.dtype])

    # drives ----------------------------------------------------------------------------------------

    def _drive_tensor(self) -> Use:
        """All drives as one (b, T, g, p) tensor in the order of steps."""
        self.write.dtype = self.dtype
        parts = [self._drive(v) for v in self.system.drives]
        if len(parts) == 1:
            return parts[0]
        p = self.system.width(self.system.drives)
        shape = (product(self.batch), self.trip, self.group, p)
        return self.write.make("cat", (tuple(parts), -1), shape)

    def _drive(self, v: Vector) -> Use:
        write = self.write
        count = len(v.axes(BATCH))
        axis = count if v.axes(BATCH) == tuple(range(count)) else 0  # time goes after the batch axes if they lead
        stacked_shape = (*v.type.shape[:axis], self.trip, *v.type.shape[axis:])
        tensor = write.make("stack", (v.use, axis), stacked_shape, dtype=v.type.dtype)
        if self.backward:
            tensor = write.make("flip", (tensor, (axis,)), stacked_shape, dtype=v.type.dtype)
        if v.type.dtype != self.dtype:
            tensor = write.make("to", (tensor, Atom(LONG[self.dtype])), stacked_shape)
        place = {link: i + (i >= axis) for i, link in enumerate(v.links) if link is not None and v.parts[i] == BATCH}
        group = [i + (i >= axis) for i in v.axes(GROUP)]
        mixed = [i + (i >= axis) for i in v.axes(MIXED)]
        order_ = [*(place[i] for i in self.batch_axes if i in place), axis, *group, *mixed]
        now = tuple(stacked_shape[i] for i in order_)
        if order_ != list(range(len(stacked_shape))):
            tensor = write.make("permute", (tensor, tuple(order_)), now)
        groups: Dim = product([stacked_shape[i] for i in group])
        lead = tuple(self.system.states[0].type.shape[i] if i in place else 1 for i in self.batch_axes)
        p = product([stacked_shape[i] for i in mixed])
        if lead != self.batch:
            wide = (*lead, self.trip, groups, p)
            tensor = write.make("reshape", (tensor, wide), wide)
            full = (*self.batch, self.trip, groups, p)
            tensor = write.make("expand", (tensor, full), full)
        shape = (product(self.batch), self.trip, groups, p)
        tensor = write.make("reshape", (tensor, shape), shape)
        if groups != self.group:
            # a drive of (B, 3) into states of (B, 3, 2): each of its channels drives a row of groups
            state = self.system.states[0]
            have = {v.links[i]: v.type.shape[i] for i in v.axes(GROUP)}
            partial = (*shape[:2], *(have.get(axis, 1) for axis in state.axes(GROUP)), p)
            full = (*shape[:2], *state.sizes(GROUP), p)
            shape = (shape[0], self.trip, self.group, p)
            tensor = write.make("reshape", (tensor, partial), partial)
            tensor = write.make("expand", (tensor, full), full)
            tensor = write.make("reshape", (tensor, shape), shape)
        return tensor

    # initial states and constants --------------------------------------------------------------------

    def _free(self, a: Use, c: Use | None, n: Dim, q: Dim) -> Use | None:
        """The response without drives; None if the initial state and all constants are zero."""
        initial = self._vector([(v, self.graph.op(v.use.name).init[v.use.delay - 1]) for v in self.system.states], n)
        constant = self._vector(
            [(v, self.system.offsets.get(v.use.name) if v.use.delay == 1 else None) for v in self.system.states], n
        )
        added = self._vector([(o, self.system.offsets.get(o.use.name)) for o in self.system.outputs], q)
        if initial is None and constant is None and added is None:
            return None
        form = self.recurrence.form
        shape = (product(self.batch), 1 if form == "final" else self.trip, self.group, q)
        return self.write.make("lti_free", (initial, a, c, constant, added, self.trip, form == "final"), shape)

    def _vector(self, parts: Sequence[tuple[Vector, Arg]], width: Dim) -> Use | None:
        """Values of states, side by side as (b or 1, g, width); None if all are zero."""
        if all(value is None or self._is_zero(value) for _, value in parts):
            return None
        cells: list[Arg] = []
        for v, value in parts:
            size = product(v.sizes(MIXED))
            cells.append(self._cell(v, 0.0 if value is None else value, size))
        batched = {self._leading(c) for c in cells}
        lead = product(self.batch) if len(batched) > 1 else batched.pop()
        wide: list[Arg] = []
        for (v, _), cell in zip(parts, cells, strict=True):
            shape = (lead, self.group, product(v.sizes(MIXED)))
            wide.append(cell if self._leading(cell) == lead else self.write.make("expand", (cell, shape), shape))
        if len(wide) == 1:
            assert isinstance(wide[0], Use)
            return wide[0]
        return self.write.make("cat", (tuple(wide), -1), (lead, self.group, width))

    def _leading(self, cell: Arg) -> Dim:
        assert isinstance(cell, Use)
        made = next(op.type for op in reversed(self.write.ops) if op.result == cell.name)
        assert isinstance(made, Type)
        return made.shape[0]

    def _cell(self, v: Vector, value: Arg, size: Dim) -> Use:
        write, shape = self.write, v.type.shape
        if not isinstance(value, Use):
            tensor = write.make("full", ((1,) * len(shape), value), (1,) * len(shape), (("dtype", self._dtype()),))
        else:
            found = self.system.analysis.type(value)
            tensor = value
            if found.dtype != self.system.dtype:
                tensor = write.make("to", (tensor, self._dtype()), found.shape)
            padded = (1,) * (len(shape) - len(found.shape)) + found.shape
            if padded != found.shape:
                tensor = write.make("reshape", (tensor, padded), padded)
        own = next(
            (op.type.shape for op in reversed(write.ops) if op.result == tensor.name and isinstance(op.type, Type)),
            None,
        )
        if own is None:
            own = self.system.analysis.type(tensor).shape
        full = tuple(
            1 if part == BATCH and have == 1 else want for have, want, part in zip(own, shape, v.parts, strict=True)
        )
        if any(d != 1 for d, part in zip(full, v.parts, strict=True) if part == BATCH):
            full = shape
        if own != full:
            tensor = write.make("expand", (tensor, full), full)
        axes = (*v.axes(BATCH), *v.axes(GROUP), *v.axes(MIXED))
        if axes != tuple(range(len(shape))):
            tensor = write.make("permute", (tensor, axes), tuple(full[i] for i in axes))
        lead = product([full[i] for i in v.axes(BATCH)])
        groups = product(v.sizes(GROUP))
        tensor = write.make("reshape", (tensor, (lead, groups, size)), (lead, groups, size))
        return tensor

    def _is_zero(self, value: Arg) -> bool:
        if not isinstance(value, Use):
            return value == 0
        op = self.graph.by_name().get(value.name)
        if op is None:
            return False
        if op.kind in ("expand", "reshape", "view", "unsqueeze", "to", "alias", "clone", "mul") and op.args:
            return self._is_zero(op.args[0])
        if op.kind in ("full", "new_full", "full_like"):
            return op.args[-1] in (0, 0.0)
        return op.kind in _ZEROS

    # outputs ---------------------------------------------------------------------------------------

    def _outputs(self, result: Use, shape: tuple[Dim, ...]) -> dict[str, list[Op]]:
        """For each output the ops that make it from (b, T, g, q)."""
        found: dict[str, list[Op]] = {}
        write, start = self.write, 0
        final = self.recurrence.form == "final"
        for v in self.system.outputs:
            size = product(v.sizes(MIXED))
            part = result
            if size != shape[-1]:
                assert isinstance(size, int)
                part = write.make("slice", (result, 3, start, start + size), (*shape[:3], size))
                start += size
            # a batch axis that the output does not have is of size one
            lead = [axis for axis in self.batch_axes if axis in v.links]
            sizes = tuple(self.system.states[0].type.shape[axis] for axis in lead)
            rows = (*sizes, *(() if final else (self.trip,)), *v.sizes(GROUP), *v.sizes(MIXED))
            tensor = write.make("reshape", (part, rows), rows)
            # axes of `rows`: batch axes, time, group, mixed -> the output's own order, time first kept apart
            batch = {axis: k for k, axis in enumerate(lead)}
            offset = len(lead) + (not final)
            places: list[int] = []
            others = [*v.axes(GROUP), *v.axes(MIXED)]
            for i, part_name in enumerate(v.parts):
                link = v.links[i]
                places.append(batch[link] if part_name == BATCH and link is not None else offset + others.index(i))
            axis = len(lead) if v.axes(BATCH) == tuple(range(len(lead))) else 0
            order_ = places if final else [*places[:axis], len(lead), *places[axis:]]
            now = tuple(rows[i] for i in order_)
            if order_ != list(range(len(rows))):
                tensor = write.make("permute", (tensor, tuple(order_)), now)
            type_ = Type(self.dtype, v.type.shape) if self.is_real else v.type
            if type_.dtype != self.dtype:
                tensor = write.make("to", (tensor, Atom(LONG[type_.dtype])), now, dtype=type_.dtype)
            if final:
                found[v.use.name] = [Op(v.use.name, "alias", (tensor,), (), type_)]
                continue
            if self.backward:
                tensor = write.make("flip", (tensor, (axis,)), now)
            source = self.graph.op(v.use.name)
            found[v.use.name] = [
                replace(
                    source, kind="signal", args=(tensor, axis, 0, 1), attrs=(), type=type_, time=self.system.time.name
                )
            ]
        return found

    def _replaced(self, outputs: dict[str, list[Op]]) -> Graph:
        graph, final = self.graph, self.recurrence.form == "final"
        shared = self._shared()
        ops: list[Op] = []
        for op in graph.ops:
            if op.result in outputs:
                ops += outputs[op.result]
            elif op.result not in self.recurrence.members or op.result in shared:
                if final and op.kind == "last" and isinstance(op.args[0], Use) and op.args[0].name in outputs:
                    op = replace(op, kind="alias")
                ops.append(op)
        written = [op for op in self.write.ops if op.result not in outputs]
        return replace(graph, ops=order((*ops, *written)))

    def _shared(self) -> set[str]:
        """Folded maps before the states that others read too: they stay."""
        members = set(self.recurrence.members)
        ours = [op for op in self.graph.ops if op.result in members]
        after: set[str] = set()  # what depends on a state goes
        for op in ours:
            if any(u.delay or u.name in after for u in op.uses() if u.name in members):
                after.add(op.result)
        shared: set[str] = set()
        needed = {u.name for op in self.graph.ops if op.result not in members for u in op.all_uses()}
        for op in reversed(ours):
            if op.result in needed and op.result not in after:
                shared.add(op.result)
                needed |= {u.name for u in op.uses()}
        return shared
