"""Maps: ops that vary over time but have no state, for all steps at once.

Directly where an operator does not care for one more axis, under torch.func.vmap elsewhere; delayed reads are shifts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from linrec.draws import RANDOM
from linrec.emit.writer import Writer
from linrec.ir import Arg, Op, Type, Use

# operators that treat every axis before the ones they name alike: one more leading axis changes nothing
_POINTWISE = frozenset(
    "add sub rsub mul div neg abs exp log log1p expm1 sqrt rsqrt sin cos tanh sigmoid relu gelu silu softplus elu selu "
    "leaky_relu pow square reciprocal lerp where clamp clamp_min clamp_max maximum minimum to sign round floor ceil "
    "addcmul addcdiv detach clone conj _conj conj_physical real imag gt lt ge le eq ne logical_not logical_and logical_or erf atan".split()
)


class Maps(Writer, ABC):
    """Writes ops for all steps at once."""

    done: set[str]  # what exists by now

    @abstractmethod
    def is_map(self, component: list[str]) -> bool:
        """Is this component one op that varies over time and has no state?"""

    @abstractmethod
    def needs(self, component: list[str]) -> set[str]:
        """What must exist before it can run."""

    @abstractmethod
    def loop(self, component: list[str]) -> None:
        """Write a component as a loop over steps."""

    def maps(self, ready: list[list[str]], waiting: list[list[str]]) -> set[str]:
        """All maps of one time domain that can run now, those that the first ones enable too."""
        first = self.by_name[ready[0][0]]
        group: list[Op] = []
        chosen: set[str] = set()
        for c in waiting:
            op = self.by_name[c[0]]
            if self.is_map(c) and op.time == first.time and all(n in self.done or n in chosen for n in self.needs(c)):
                if op.kind in RANDOM or any(u.delay and u.name in chosen for u in op.uses()):
                    continue
                group.append(op)
                chosen.add(op.result)
        if not group:
            return self.random_map(first)
        batch: list[Op] = []
        for op in group:
            axis = self.direct_axis(op, {o.result for o in batch})
            if axis is None:
                batch.append(op)
                continue
            self.line(f"{self.name(op.result)} = {self.call(op)}")
            self.axis[op.result] = axis
        if batch:
            self.vmapped(batch, chosen)
        return chosen

    def random_map(self, op: Op) -> set[str]:
        """Random numbers are drawn step by step, in the order of the loop."""
        self.loop([op.result])
        return {op.result}

    def direct_axis(self, op: Op, batched: set[str]) -> int | None:
        """The time axis with which `op` can run on whole signals as it is, or None."""
        if (op.kind not in _POINTWISE and op.kind != "linear") or not isinstance(op.type, Type):
            return None
        signals = self.signals(op)
        if not signals or any(
            u.delay or u.name in batched or u.name in self.lists or u.name not in self.axis for u in signals
        ):
            return None
        axes = {self.axis[u.name] for u in signals}
        rank = len(op.type.shape)
        types = [self.by_name[u.name].type for u in signals]
        if len(axes) != 1 or any(not isinstance(t, Type) or len(t.shape) != rank for t in types):
            return None
        (axis,) = axes
        if op.kind == "linear":
            return axis if signals == [op.args[0]] and axis < rank and len(signals) == 1 else None
        for use in op.uses():
            if use not in signals and self.rank_of(use) > rank - axis:
                return None
        return axis

    def rank_of(self, use: Use) -> int:
        if use.name in self.by_name:
            type_ = self.by_name[use.name].type
            return len(type_.shape) if isinstance(type_, Type) else 99
        return next(len(i.type.shape) for i in self.graph.inputs if i.name == use.name)

    def vmapped(self, ops: list[Op], chosen: set[str]) -> None:
        inside = {op.result for op in ops}
        inputs: dict[Use, str] = {}
        for op in ops:
            for use in self.signals(op):
                if use.name in inside and use.delay == 0:
                    continue
                if use.delay:
                    self.shift(use)
                elif use.name in self.lists:
                    self.unlist(use.name)
                inputs[use] = f"{use.name}[-{use.delay}]" if use.delay else use.name
        returned = [
            op for op in ops
            if op.result in self.graph.roots() or any(r.result not in inside for r in self.readers.get(op.result, []))
        ]  # fmt: skip
        outs = [self.out_axis(op) for op in returned]
        function = self.unique("step")
        arguments = ", ".join(f"{self.name(v)}_t" for v in inputs.values())
        self.line(f"def {function}({arguments}):")
        self.indent += 1

        def write(arg: Arg) -> str:
            if isinstance(arg, Use) and arg in inputs:
                return f"{self.name(inputs[arg])}_t"
            if isinstance(arg, tuple):
                return "[" + ", ".join(map(write, arg)) + "]"
            if isinstance(arg, Use) and arg.name in inside:
                return f"{self.name(arg.name)}_t"
            return self.literal(arg)

        for op in ops:
            self.line(f"{self.name(op.result)}_t = {self.call(op, write)}")
        self.line(f"return {self.tupled(self.name(op.result) + '_t' for op in returned)}")
        self.indent -= 1
        axes = self.tupled(str(self.axis[v]) for v in inputs.values())
        self.line(
            f"{self.tupled(self.name(op.result) for op in returned)} = vmap({function}, {axes}, {self.tupled(map(str, outs))})"
            f"({', '.join(self.name(v) for v in inputs.values())})"
        )
        for op, axis in zip(returned, outs, strict=True):
            self.axis[op.result] = axis

    def out_axis(self, op: Op) -> int:
        wanted = {r.args[1] for r in self.readers.get(op.result, []) if r.leaves_time and r.kind == "stack"}
        axis = next(iter(wanted)) if len(wanted) == 1 else 0
        return axis if isinstance(axis, int) and axis >= 0 else 0

    def shift(self, use: Use) -> None:
        key = f"{use.name}[-{use.delay}]"
        if key in self.axis:
            return
        if use.name in self.lists:
            self.unlist(use.name)
        op = self.by_name[use.name]
        assert op.time is not None
        backward = self.graph.time(op.time).direction == "backward"
        axis = self.axis[use.name]
        self.line(
            f"{self.name(key)} = shifted({self.name(use.name)}, {axis}, {use.delay}, {self.before(op)}, {backward})"
        )
        self.axis[key] = axis

    def unlist(self, name: str) -> None:
        """Stack a signal that a loop left as a list of steps."""
        op = self.by_name[name]
        assert op.time is not None
        backward = self.graph.time(op.time).direction == "backward"
        listed = self.name(name)
        self.line(f"{listed} = torch.stack({listed}{'[::-1]' if backward else ''}, 0)")
        self.lists.discard(name)
        self.axis[name] = 0

    def before(self, op: Op) -> str:
        return self.tupled(self.literal(a) for a in op.init)

    def delayed(self, value: str, delay: int) -> str:
        return self.name(f"{value}[-{delay}]")
