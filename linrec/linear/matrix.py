"""Lowering of rank-one structures: the states of all steps are never stored.

    matrix_scan(T, a, u, w, v, q, delays, s)     (reads..., last state); linrec/kernels/matrix.py

Time comes first, then the passing axes, of size one where a coefficient does not differ along them, then the key or
the value axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Recurrence, Type, Use, order
from linrec.linear.affine import Label, Term
from linrec.linear.analysis import Analysis
from linrec.linear.rank_one import Factors, RankOne, Read
from linrec.linear.system import Writer, product
from linrec.linear.varying import over_time
from linrec.sizes import Dim


def lower_matrix(found: RankOne, recurrence: Recurrence) -> Graph:
    """Replace a recurrence of rank-one structure by its reads."""
    return _Lowering(found, recurrence).run()


class _Lowering:
    def __init__(self, found: RankOne, recurrence: Recurrence) -> None:
        self.found, self.recurrence, self.graph = found, recurrence, found.graph
        self.write = Writer(Analysis(found.graph, (), (), labels=found.labels), found.type.dtype, recurrence.name)
        self.time = found.graph.time(recurrence.time)
        shape = found.type.shape
        self.passing = tuple(shape[i] for i in found.passing)
        self.k = shape[found.key]
        self.v = product([shape[i] for i in found.values])

    def run(self) -> Graph:
        found, write = self.found, self.write
        decay = self.decay()
        lefts = tuple(self.vector((u.left,), (found.key,)) for u in found.updates)
        inners = tuple(self.vector(u.inner, (found.key,)) if u.inner else None for u in found.updates)
        values = tuple(self.vector(u.values, found.values) if u.values else None for u in found.updates)
        reads = [(q, delay) for r in found.reads for q, delay in r.queries]
        queries = tuple(self.vector((q,), (found.key,)) for q, _ in reads)
        delays = tuple(delay for _, delay in reads)
        args = (self.time.trip, decay, lefts, inners, values, queries, delays, self.start())
        row, state = (self.time.trip, *self.passing, self.v), (*self.passing, self.k, self.v)
        whole = Op(
            f"{self.recurrence.name}.matrix_scan", "matrix_scan", args, (),
            (*(Type(write.dtype, row) for _ in reads), Type(write.dtype, state)),
        )  # fmt: skip
        write.ops.append(whole)
        write.times[whole.result] = None
        outs = [write.make("getitem", (Use(whole.result), i), row) for i in range(len(reads))]
        last = write.make("getitem", (Use(whole.result), len(reads)), state)
        return self.replaced(outs, last)

    # coefficients ----------------------------------------------------------------------------------

    def tensor(self, factors: Factors, places: Sequence[int]) -> tuple[Use, tuple[Dim, ...]]:
        """A product over the axes `places` of the state, of size one where nothing differs."""
        found, shape = self.found, self.found.type.shape
        held = {x for f in factors for axis in f.axes for x in axis}
        sizes = tuple(shape[i] if held & set(found.axes[i]) else 1 for i in places)
        rows = [x for i in places if held & set(found.axes[i]) for x in found.axes[i]]
        term = Term(Use(found.state, 1), (), (), _summed_first(factors, rows))
        return self.write.term(term, rows, [], sizes), sizes

    def vector(self, sums: Sequence[Factors], own: Sequence[int]) -> Use:
        """All steps of a sum of products: (T or 1, *P or 1s, size of `own`)."""
        found, write = self.found, self.write
        width = product([found.type.shape[i] for i in own])
        total: Use | None = None
        most: tuple[Dim, ...] = ()
        for factors in sums:
            one, sizes = self.tensor(factors, (*found.passing, *own))
            lead, rest = sizes[: len(found.passing)], tuple(found.type.shape[i] for i in own)
            if sizes[len(lead) :] != rest:
                one = write.make("expand", (one, (*lead, *rest)), (*lead, *rest))
            flat = (*lead, width)
            if (*lead, *rest) != flat:
                one = write.make("reshape", (one, flat), flat)
            most = flat if total is None else tuple(b if a == 1 else a for a, b in zip(most, flat, strict=True))
            total = one if total is None else write.make("add", (total, one), most)
        assert total is not None
        return over_time(write, self.time, total, is_broadcast=True)

    def decay(self) -> Use | None:
        """a[t]: (T or 1, *P or 1s, K or 1, V or 1); None if it is one everywhere."""
        found, write = self.found, self.write
        if any(not factors for factors in found.decays) and len(found.decays) == 1:
            return None
        if not found.decays:
            return write.number(0.0, (1,) * (len(self.passing) + 3))
        places = (*found.passing, found.key, *found.values)
        total: Use | None = None
        most: tuple[Dim, ...] = ()
        for factors in found.decays:
            one, sizes = self.tensor(factors, places)
            most = sizes if total is None else tuple(b if a == 1 else a for a, b in zip(most, sizes, strict=True))
            total = one if total is None else write.make("add", (total, one), most)
        assert total is not None
        lead, rest = most[: len(self.passing) + 1], most[len(self.passing) + 1 :]
        own = tuple(found.type.shape[i] for i in found.values)
        if any(d != 1 for d in rest) and rest != own:
            total, rest = write.make("expand", (total, (*lead, *own)), (*lead, *own)), own
        flat = (*lead, product(rest))
        if flat != (*lead, *rest):
            total = write.make("reshape", (total, flat), flat)
        return over_time(write, self.time, total, is_broadcast=True)

    def start(self) -> Use:
        found, write, shape = self.found, self.write, self.found.type.shape
        value = self.graph.op(found.state).init[0]
        tensor = write.number(value) if not isinstance(value, Use) else write.cast(value)
        if write.types[tensor.name].shape != shape:
            tensor = write.make("expand", (tensor, shape), shape)
        axes = (*found.passing, found.key, *found.values)
        if axes != tuple(range(len(shape))):
            tensor = write.make("permute", (tensor, axes), tuple(shape[i] for i in axes))
        flat = (*self.passing, self.k, self.v)
        return write.make("reshape", (tensor, flat), flat)

    # back to the program ---------------------------------------------------------------------------

    def read(self, read: Read, parts: Sequence[Use]) -> list[Op]:
        """The ops of a value that was read from the state."""
        found, write = self.found, self.write
        total = parts[0]
        row = write.types[total.name].shape
        for part in parts[1:]:
            total = write.make("add", (total, part), row)
        own = tuple(found.type.shape[i] for i in found.values)
        wide = (self.time.trip, *self.passing, *own)
        if wide != row:
            total = write.make("reshape", (total, wide), wide)
        # axes of `total`: time, passing, values -> those of the read; axes of size one come and go
        places = [None if i is None else 1 + (*found.passing, *found.values).index(i) for i in read.order]
        kept = [p for p in places if p is not None]
        dropped = [p for p in range(1, len(wide)) if p not in kept]
        moved = (0, *kept, *dropped)
        if moved != tuple(range(len(wide))):
            total = write.make("permute", (total, moved), tuple(wide[i] for i in moved))
        source = self.graph.op(read.out)
        assert isinstance(source.type, Type)
        shape = (self.time.trip, *source.type.shape)
        if write.types[total.name].shape != shape:
            total = write.make("reshape", (total, shape), shape)
        if source.type.dtype != write.dtype:
            total = write.make("to", (total, Atom(LONG[source.type.dtype])), shape, dtype=source.type.dtype)
        if self.time.direction == "backward":
            total = write.make("flip", (total, (0,)), shape, dtype=source.type.dtype)
        signal = replace(source, kind="signal", args=(total, 0, 0, 1), attrs=())
        offset = self.offset(read, source.type)
        if offset is None:
            return [signal]
        signal = replace(signal, result=f"{read.out}.read", init=())
        return [signal, replace(source, kind="add", args=(Use(signal.result), offset), attrs=())]

    def offset(self, read: Read, type_: Type) -> Arg:
        """What is added to a read, one step of it."""
        write, labels = self.write, self.found.labels
        if read.offset is None or read.products is None:
            return None if read.offset == 0 else read.offset
        total: Use | None = None
        for axes, factors, _ in read.products:
            held = {x for f in factors for axis in f.axes for x in axis}
            rows = [x for axis in axes for x in axis if x in held]
            factors = _summed_first(factors, rows)
            sizes = tuple(labels.extent(tuple(x for x in axis if x in held)) for axis in axes)
            one = write.term(Term(Use(self.found.state, 1), (), (), factors), rows, [], sizes)
            total = one if total is None else write.make("add", (total, one), type_.shape)
        return total

    def replaced(self, outs: Sequence[Use], last: Use) -> Graph:
        found, write, shape = self.found, self.write, self.found.type.shape
        left = iter(outs)
        new: dict[str, list[Op]] = {}
        for read in found.reads:
            new[read.out] = self.read(read, [next(left) for _ in read.queries])
        wide = (*self.passing, self.k, *(shape[i] for i in found.values))
        if wide != write.types[last.name].shape:
            last = write.make("reshape", (last, wide), wide)
        axes = [*found.passing, found.key, *found.values]
        back = tuple(axes.index(i) for i in range(len(shape)))
        if back != tuple(range(len(shape))):
            last = write.make("permute", (last, back), shape)
        gone = _after(self.graph, found.state, {r.out for r in found.reads})
        ops: list[Op] = []
        for op in self.graph.ops:
            if op.result in new:
                ops += new[op.result]
            elif op.kind in ("last", "carry") and isinstance(op.args[0], Use) and op.args[0].name == found.state:
                ops.append(replace(op, kind="alias", args=(last,)))
            elif op.result not in gone:
                ops.append(op)
        return replace(self.graph, ops=order((*ops, *write.ops)))


def _summed_first(factors: Factors, rows: Sequence[Label]) -> Factors:
    """Coefficients that are summed over before the others, so that no product on the way is wider than the result."""
    return tuple(sorted(factors, key=lambda f: all(x in rows for axis in f.axes for x in axis)))


def _after(graph: Graph, state: str, stops: set[str]) -> set[str]:
    """The state and what is computed from it up to the reads: values of which no trace is left."""
    readers = graph.readers()
    gone, open_ = {state}, [state]
    while open_:
        for op in readers.get(open_.pop(), []):
            if op.result not in gone and op.result not in stops and not op.leaves_time:
                gone.add(op.result)
                open_.append(op.result)
    return gone
