"""Declared recurrences: a step that is traced once, between marks, instead of being found in a loop.

While a program is traced, `linrec.scan` runs its step a single time and records four operators of linrec's own:

    element(x, scan, length, backward)    the row of x that step k reads
    previous(initial, scan, slot)         a state before the step, `initial` before the first
    final(new, scan, slot)                that state after the last step
    stacked(y, scan, length)              an output of every step

`declared` turns them into a time domain: what depends on an element or on a previous state is done at every step, all
else once. Nothing is guessed: delays, lengths and initial values are those that the call states. Costs one walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch import library as custom

from linrec.errors import CaptureError
from linrec.ir import Arg, Graph, Op, Time, Type, Use, order, uses_in
from linrec.sizes import Dim, Size

# numbers the scans of the trace that is being taken; None while programs run, and inside of a step that is traced
numbers: ContextVar[Iterator[int] | None] = ContextVar("linrec_scans", default=None)

_operators: Any = custom.Library("linrec", "DEF")  # type: ignore[no-untyped-call]
_operators.define("element(Tensor x, int scan, int length, bool backward) -> Tensor")
_operators.define("previous(Tensor initial, int scan, int slot) -> Tensor")
_operators.define("final(Tensor new, int scan, int slot) -> Tensor")
_operators.define("stacked(Tensor y, int scan, int length) -> Tensor")
MARKS = frozenset({"element", "previous", "final", "stacked"})
PREFIX = "scan_"


def _element(x: Tensor, scan: int, length: int, backward: bool) -> Tensor:
    return x.select(0, 0).clone()


def _state(state: Tensor, scan: int, slot: int) -> Tensor:
    return state.clone()


def _stacked(y: Tensor, scan: int, length: int) -> Tensor:
    return y.unsqueeze(0).repeat(length, *(1 for _ in y.shape))


# made of torch's own operators, so that dtypes, gradients and fake tensors follow
_operators.impl("element", _element, "CompositeImplicitAutograd")
_operators.impl("previous", _state, "CompositeImplicitAutograd")
_operators.impl("final", _state, "CompositeImplicitAutograd")
_operators.impl("stacked", _stacked, "CompositeImplicitAutograd")


def is_mark(op: Op) -> bool:
    """Is this one of the four operators?"""
    return op.kind.startswith(PREFIX)


def spans(ops: Sequence[Op]) -> list[tuple[int, int]]:
    """Where each scan's marks begin and end in a list of ops."""
    places: dict[Arg, list[int]] = {}
    for place, op in enumerate(ops):
        if is_mark(op):
            places.setdefault(op.args[1], []).append(place)
    return [(min(at), max(at)) for at in places.values()]


def nested(ops: Sequence[Op]) -> CaptureError:
    """The reason where a program has more scans at more steps."""
    return CaptureError(
        "LR0502", "a scan runs inside the steps of a loop over time", **where(next(filter(is_mark, ops))),
        help="give the inner scan's work to one scan, or move it out of the loop",
    )  # fmt: skip


def declared(graph: Graph) -> Graph:
    """The graph with each declared scan as a time domain. Raises CaptureError where a step is not closed in itself."""
    return _Declared(graph).run() if any(map(is_mark, graph.ops)) else graph


@dataclass
class _Scan:
    time: str
    trip: Dim = 0
    backward: bool = False
    previous: dict[int, Op] = field(default_factory=dict)
    final: dict[int, Op] = field(default_factory=dict)


class _Declared:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = graph.by_name()
        self.scans: dict[int, _Scan] = {}
        self.domain: dict[str, int] = {}  # value -> the scan at every step of which it is made
        self.inits: dict[str, tuple[Arg, ...]] = {}
        self.states: dict[str, Use] = {}  # previous state -> the read of the new one that it stands for
        self.held: dict[tuple[int, int], Arg] = {}  # states that no step changes
        self.rows: list[Op] = []

    def run(self) -> Graph:
        for op in self.graph.ops:
            self._place(op)
        for number, scan in self.scans.items():
            late = {slot: op for slot, op in scan.previous.items() if self._old(scan, slot) is not None}
            for slot, op in scan.previous.items():
                if slot not in late:
                    self._state(number, slot, op, scan.final[slot])
            while late:  # (x_t, one, two) from (one, two, three): the delays of one value
                ready = [s for s in late if self._old(scan, s) in self.states] or list(late)[:1]
                for slot in ready:
                    self._state(number, slot, late.pop(slot), scan.final[slot])
        ops = [new for op in self.graph.ops for new in self._written(op)]
        ops = [op.map_uses(self._now) for op in [*ops, *self.rows]]
        ops = [replace(op, init=self.inits.get(op.result, op.init)) for op in ops]
        times = tuple(Time(s.time, s.trip, "backward" if s.backward else "forward") for s in self.scans.values())
        for use in uses_in(self.graph.outputs):
            if use.name in self.domain:
                raise _leak(self.made[use.name])
        return replace(self.graph, ops=order(tuple(ops)), times=(*self.graph.times, *times))

    def _place(self, op: Op) -> None:
        """Note the scan an op belongs to."""
        reads = {self.domain[u.name] for u in op.all_uses() if u.name in self.domain}
        if is_mark(op):
            number = op.args[1]
            assert isinstance(number, int)
            scan = self.scans.setdefault(number, _Scan(f"s{number}"))
            if reads - {number}:
                raise _leak(op)
            if op.kind == "scan_element":
                trip = op.args[2]
                assert isinstance(trip, int | Size)
                scan.trip, scan.backward = trip, bool(op.args[3])
            elif op.kind == "scan_previous":
                scan.previous[op.args[2]] = op  # type: ignore[index]
            elif op.kind == "scan_final":
                scan.final[op.args[2]] = op  # type: ignore[index]
            if op.kind in ("scan_element", "scan_previous"):
                self.domain[op.result] = number
        elif reads:
            if op.time is not None or len(reads) > 1:
                raise _leak(op)
            self.domain[op.result] = reads.pop()

    def _old(self, scan: _Scan, slot: int) -> str | None:
        """The state whose old value is the new one of this slot."""
        new = scan.final[slot].args[0]
        assert isinstance(new, Use)
        return new.name if any(new.name == op.result for op in scan.previous.values()) else None

    def _state(self, number: int, slot: int, previous: Op, final: Op) -> None:
        """Which value, read one step later, the previous state is."""
        new, initial = final.args[0], previous.args[0]
        assert isinstance(new, Use)
        if new.name == previous.result:
            self.states[previous.result] = initial  # type: ignore[assignment]
            self.held[number, slot] = initial
            return
        older = self.states.get(new.name)
        if older is not None and older.delay and len(self.inits[older.name]) == older.delay:
            self.inits[older.name] += (initial,)
            self.states[previous.result] = Use(older.name, older.delay + 1)
            row = self._row(number, older, previous.type, final)
            self.scans[number].final[slot] = replace(final, args=(Use(row), *final.args[1:]))
            return
        shared = new.name in self.inits or self.domain.get(new.name) != number or is_mark(self.made[new.name])
        name = self._row(number, new, previous.type, final) if shared else new.name
        self.inits[name] = (initial,)
        self.states[previous.result] = Use(name, 1)
        self.scans[number].final[slot] = replace(final, args=(Use(name), *final.args[1:]))

    def _row(self, number: int, use: Use, type_: object, op: Op) -> str:
        """A value of its own at every step, equal to `use`."""
        name = f"{op.result}.row"
        assert isinstance(type_, Type)
        self.rows.append(Op(name, "alias", (use,), (), type_, self.scans[number].time, (), op.source))
        return name

    def _written(self, op: Op) -> Iterator[Op]:
        if not is_mark(op):
            inside = self.domain.get(op.result)
            yield op if inside is None else replace(op, time=self.scans[inside].time)
            return
        number = op.args[1]
        assert isinstance(number, int)
        time, value = self.scans[number].time, op.args[0]
        if op.kind == "scan_element":
            yield replace(op, kind="signal", args=(value, 0, 0, 1), time=time)
        elif op.kind == "scan_final":
            slot = op.args[2]
            assert isinstance(slot, int)
            if (number, slot) in self.held:
                yield replace(op, kind="alias", args=(self.held[number, slot],))
            else:
                yield replace(op, kind="last", args=(self.scans[number].final[slot].args[0],))
        elif op.kind == "scan_stacked":
            assert isinstance(value, Use) and isinstance(op.type, Type)
            now = self._now(value)
            plain = isinstance(now, Use) and now.delay == 0 and now.name in self.domain
            row = Type(op.type.dtype, op.type.shape[1:])
            if now == value and value.name not in self.domain:  # the same at every step
                wide = Op(
                    f"{op.result}.row",
                    "unsqueeze",
                    (value, 0),
                    (),
                    Type(row.dtype, (1, *row.shape)),
                    None,
                    (),
                    op.source,
                )
                yield wide
                yield replace(op, kind="expand", args=(Use(wide.result), op.type.shape))
            else:
                yield replace(op, kind="stack", args=(value if plain else Use(self._row(number, value, row, op)), 0))

    def _now(self, use: Use) -> Arg:
        """Reads of previous states as reads with a delay."""
        while use.name in self.states:
            state = self.states[use.name]
            use = Use(state.name, state.delay + use.delay)
        return use


def _leak(op: Op) -> CaptureError:
    return CaptureError(
        "LR0501", "a value of one step of a scan is read outside of its step", **where(op),
        help="return it from the step, as part of its state or of its output",
    )  # fmt: skip


def where(op: Op) -> dict[str, Any]:
    """The place of an error about `op`."""
    return {"file": op.source.file, "line": op.source.line} if op.source else {}
