"""Stateful: a program that starts from a given state and returns the state to go on from.

The state is every value that a read reaches back to before the first step: one leaf for each delay. A
program can be continued if each of its axes of time is walked forward from position 0 in step with the
others, and everything before and after its loops treats steps one by one. What looks ahead (a backward loop,
a mean over time, the last value fed back to all steps) raises StateError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from linrec.errors import StateError
from linrec.ir import Arg, Graph, Input, Op, Source, Type, Use, uses_in
from linrec.sizes import Dim, Size, names_of, size

# operators that treat every position along any axis alike
_ELEMENTWISE = frozenset(
    "add sub rsub mul div neg abs exp log log1p expm1 sqrt rsqrt sin cos tan tanh sigmoid relu gelu silu softplus elu selu "
    "leaky_relu pow square reciprocal lerp where clamp clamp_min clamp_max maximum minimum to _to_copy sign round floor ceil "
    "addcmul addcdiv detach clone alias contiguous conj real imag gt lt ge le eq ne logical_not logical_and logical_or erf "
    "dropout zeros_like ones_like full_like hardtanh mish logit sin_ isnan nan_to_num masked_fill bitwise_not".split()
)
_LAST_AXES = frozenset({"linear", "layer_norm", "softmax", "log_softmax", "_softmax", "rms_norm", "embedding"})


@dataclass(frozen=True)
class Leaf:
    """One tensor of the state: a value and how far back it is read; `input` is its name in the graph."""

    name: str
    input: str
    value: str
    delay: int
    type: Type
    initial: Arg


@dataclass(frozen=True)
class Stateful:
    """The program with its state as inputs and outputs.

    `inputs[i]` and `outputs[j]` are the time axis of the program's arguments and results: an axis, "last" for a
    result that is a value of the last step, None for what does not vary.
    """

    graph: Graph  # inputs: the program's, then one for each leaf; outputs: the program's, then the leaves
    initial: Graph  # the leaves' first values from the program's inputs
    leaves: tuple[Leaf, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[int | str | None, ...]


def stateful(graph: Graph) -> Stateful:
    """Make the state of a captured program explicit. Raises StateError (LR4003) where that cannot be."""
    for time in graph.times:
        if time.direction == "backward":
            raise _ahead(graph, next(op for op in graph.ops if op.time == time.name), "the loop runs backward in time")
        if time.trip != size("T"):
            first = next(op for op in graph.ops if op.time == time.name)
            raise _ahead(graph, first, f"the loop runs {time.trip} steps, not one for each of T", code="LR4004")
    axes = _Axes(graph)
    axes.walk()
    leaves = _leaves(graph, axes)
    names = {(leaf.value, leaf.delay): leaf.input for leaf in leaves}
    inputs = tuple(Input(leaf.input, leaf.type, "captured", f"state:{leaf.name}") for leaf in leaves)
    ops: list[Op] = []
    for op in graph.ops:
        if op.init:
            op = replace(op, init=tuple(Use(names[op.result, d]) for d in range(1, len(op.init) + 1)))
        ops.append(op)
    carried: list[Arg] = []
    for leaf in leaves:
        ops.append(Op(f"{leaf.input}.next", "carry", (Use(leaf.value), leaf.delay), (), leaf.type))
        carried.append(Use(f"{leaf.input}.next"))
    whole = replace(graph, inputs=(*graph.inputs, *inputs), ops=tuple(ops), outputs=(*graph.outputs, *carried))
    start = replace(graph, outputs=tuple(leaf.initial for leaf in leaves), effects=())
    given = tuple(axes.of(Use(i.name)) if i.role == "input" else None for i in graph.inputs)
    results = tuple(axes.result(o) for o in graph.outputs)
    return Stateful(whole, start, leaves, given, results)


def _leaves(graph: Graph, axes: _Axes) -> tuple[Leaf, ...]:
    found: list[Leaf] = []
    for op in graph.ops:
        for d, initial in enumerate(op.init, 1):
            assert isinstance(op.type, Type)
            for use in uses_in(initial):
                if axes.of(use) is not None and not isinstance(axes.of(use), int):
                    raise _ahead(graph, op, "the initial state depends on later steps")
            name = op.result if len(op.init) == 1 else f"{op.result}.{d}"
            found.append(Leaf(name, f"state.{name}", op.result, d, op.type, initial))
    return tuple(found)


def _ahead(graph: Graph, op: Op, why: str, code: str = "LR4003") -> StateError:
    source: Source | None = op.source
    return StateError(
        code, f"{graph.name} has no recurrent form: {why}",
        file=source.file if source else None, line=source.line if source else None,
        help="a step sees one x_t and the state; move what needs the whole sequence out of the model",
    )  # fmt: skip


class _Axes:
    """Which axis of each tensor outside the loops is time, and that no op mixes it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.axis: dict[str, int | str] = {}
        self.types: dict[str, Type] = {i.name: i.type for i in graph.inputs}
        self.types |= {op.result: op.type for op in graph.ops if isinstance(op.type, Type)}
        for i in graph.inputs:
            if i.role == "input":
                along = [axis for axis, dim in enumerate(i.type.shape) if "T" in names_of(dim)]
                if along:
                    self.axis[i.name] = along[0]

    def of(self, use: Use) -> int | None:
        """The time axis of a tensor, None if it does not vary."""
        found = self.axis.get(use.name)
        return found if isinstance(found, int) else None

    def result(self, arg: Arg) -> int | str | None:
        """The time axis of an output, "last" for a value of the last step."""
        return self.axis.get(arg.name) if isinstance(arg, Use) else None

    def walk(self) -> None:
        """Follow time through the ops outside the loops."""
        for op in self.graph.ops:
            if op.kind == "signal":
                source, axis, start, stride = op.args
                assert isinstance(source, Use)
                known = self.axis.get(source.name)
                if known is not None and (known != axis or start != 0 or stride != 1):
                    raise _ahead(self.graph, op, f"it reads {_affine(start, stride)} at step t")
            elif op.leaves_time:
                self.axis[op.result] = op.args[1] if op.kind == "stack" and isinstance(op.args[1], int) else "last"
                if op.kind == "pick":
                    raise _ahead(self.graph, op, f"it reads step {op.args[1]} of the loop by its number", code="LR4004")
            elif op.time is None:
                self._outside(op)
            else:
                self._inside(op)

    def _inside(self, op: Op) -> None:
        for use in op.uses():
            if use.name in self.axis:
                raise _ahead(self.graph, op, f"every step reads all of %{use.name}")

    def _outside(self, op: Op) -> None:
        varying = [u for u in op.uses() if u.name in self.axis]
        if not varying or op.kind in ("new_zeros", "new_ones", "new_empty", "new_full"):
            return
        kinds = {self.axis[u.name] for u in varying}
        if kinds == {"last"}:
            self.axis[op.result] = "last"
            return
        whole = [u for u in varying if isinstance(self.axis[u.name], int)]
        if op.kind == "select" and self._selects_time(op):
            index = op.args[2]
            if index == 0:
                return  # x[:, 0]: what the first step sees
            if isinstance(index, Size) and index == size("T") - 1:
                self.axis[op.result] = "last"
                return
            raise _ahead(self.graph, op, f"it reads step {index} by its number", code="LR4004")
        if "last" in kinds:
            raise _ahead(self.graph, op, "the last step is fed back to all steps")
        axis = self._kept(op, whole)
        if axis is None:
            raise _ahead(self.graph, op, f"`{op.kind}` mixes steps")
        self.axis[op.result] = axis

    def _selects_time(self, op: Op) -> bool:
        use = op.args[0]
        return isinstance(use, Use) and op.args[1] == self.axis.get(use.name)

    def _kept(self, op: Op, varying: list[Use]) -> int | None:
        """Where time is in the result of an op that treats steps one by one; None if it mixes them."""
        if not isinstance(op.type, Type):
            return None
        rank = len(op.type.shape)
        back = {len(self.types[u.name].shape) - int(self.axis[u.name]) for u in varying}
        if len(back) != 1:
            return None
        (from_end,) = back
        axis = rank - from_end
        source = len(self.types[varying[0].name].shape) - from_end
        if op.kind in _ELEMENTWISE:
            return axis
        if op.kind in ("layer_norm", "rms_norm"):
            normal = op.args[1]
            return axis if isinstance(normal, tuple) and from_end > len(normal) else None
        if op.kind in _LAST_AXES:
            if op.kind in ("softmax", "log_softmax", "_softmax"):
                return axis if op.args[1] not in (axis, axis - rank) else None
            return axis if from_end > 1 else None
        if op.kind == "matmul" and varying == [op.args[0]] and isinstance(op.args[1], Use):
            flat = len(self.types[op.args[1].name].shape) == 2
            return source if flat and from_end > 1 else None
        if op.kind in ("cat", "stack"):
            dim = op.args[1] if len(op.args) > 1 else 0
            assert isinstance(dim, int)
            dim %= rank
            if op.kind == "stack":
                return source if dim > source else source + 1
            return axis if dim != axis else None
        if op.kind in ("transpose", "permute", "unsqueeze", "squeeze", "flip", "select", "slice", "sum", "mean"):
            return self._moved(op, source, rank)
        if op.kind in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "expand"):
            places = [i for i, d in enumerate(op.type.shape) if "T" in names_of(d)]
            before = self.types[varying[0].name].shape
            lead = _product(before[:source])
            good = len(places) == 1 and op.type.shape[places[0]] == before[source]
            return places[0] if good and _product(op.type.shape[: places[0]]) == lead else None
        return None

    def _moved(self, op: Op, source: int, rank: int) -> int | None:
        before = rank
        use = op.args[0]
        if isinstance(use, Use):
            before = len(self.types[use.name].shape)
        if op.kind == "transpose":
            a, b = (i % before for i in op.args[1:3] if isinstance(i, int))
            return b if source == a else a if source == b else source
        if op.kind == "permute" and isinstance(op.args[1], tuple):
            return [i % before for i in op.args[1] if isinstance(i, int)].index(source)
        dims = op.args[1] if len(op.args) > 1 else None
        listed = [d for d in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(d, int)]
        if not listed:
            return None
        if op.kind == "unsqueeze":
            return source + (listed[0] % (before + 1) <= source)
        chosen = {d % before for d in listed}
        if source in chosen:
            return None
        gone = op.kind in ("squeeze", "select") or (op.kind in ("sum", "mean") and rank < before)
        return source - sum(d < source for d in chosen) if gone else source


def _affine(start: Arg, stride: Arg) -> str:
    step = "t" if stride == 1 else f"{stride}*t"
    return f"position {step}" if start == 0 else f"position {step} + {start}"


def _product(dims: tuple[Dim, ...]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = d * total
    return total
