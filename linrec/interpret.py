"""The oracle: what a graph means, one step at a time.

Slow and plain on purpose: every op of every step is computed on its own, in the order of the steps. All pass
tests compare with it. torch is imported when it is used, so that reading a graph does not load it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import networkx as nx

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Graph, Op, Type, Use, order, uses_in
from linrec.sizes import Size, evaluate

_WIDE = {"float32": "float64", "float16": "float64", "bfloat16": "float64", "complex64": "complex128"}


def interpret(
    graph: Graph,
    inputs: Mapping[str, Any],
    *,
    wide: bool = False,
    kernels: Mapping[str, Callable[..., Any]] | None = None,
    watch: Callable[[Op, Any], None] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Outputs and effects of a graph on tensors by input name.

    `wide` computes in double precision; `kernels` gives meaning to ops that are no operators of torch's; `watch`
    sees the value of every op that is computed, step by step.
    """
    return _Interpreter(graph, lengths_of(graph, inputs), wide, kernels or {}, watch).run(inputs)


def lengths_of(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The named lengths, solved from the shapes of the inputs."""
    lengths: dict[str, int] = {}
    for i in graph.inputs:
        for dim, actual in zip(i.type.shape, tuple(inputs[i.name].shape), strict=True):
            if isinstance(dim, Size) and len(dim.names) == 1:
                (name,) = dim.names
                terms = dict(dim.terms)
                if terms.get((name,)) == 1 and len(terms) <= 2:
                    lengths.setdefault(name, actual - terms.get((), 0))
    return lengths


def run_step(
    graph: Graph, members: Collection[str], values: Mapping[Use, Any], lengths: Mapping[str, int]
) -> dict[str, Any]:
    """One step of some ops, in double precision, given every read from outside them."""
    machine = _Interpreter(graph, lengths, True, {})
    found: dict[str, Any] = {}

    def read(use: Use) -> Any:
        return found[use.name] if use.delay == 0 and use.name in found else values[use]

    plain = graph.by_name()
    inner = order(tuple(Op(m, "", tuple(u for u in plain[m].uses() if u.name in members)) for m in members))
    for name in (op.result for op in inner):
        found[name] = machine.apply(plain[name], read)
    return found


def sizes_made(op: Op, types: Mapping[str, Type], lengths: Mapping[str, int]) -> list[tuple[int, ...]] | None:
    """The shapes of what one op makes of values of these types at these lengths, None where it raises.

    Nothing is computed.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    machine = _Interpreter(Graph("", (), (), (), ()), lengths, False, {})
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level, log.disabled = log.disabled, True
    with FakeTensorMode():
        try:
            given = {
                name: torch.empty([evaluate(n, lengths) for n in t.shape], dtype=getattr(torch, LONG[t.dtype]))
                for name, t in types.items()
            }
            made = machine.apply(op, lambda use: given[use.name])
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None
        finally:
            log.disabled = level
    return [tuple(x.shape) for x in (made if isinstance(made, list | tuple) else [made])]


class _Interpreter:
    def __init__(
        self,
        graph: Graph,
        lengths: Mapping[str, int],
        wide: bool,
        kernels: Mapping[str, Callable[..., Any]],
        watch: Callable[[Op, Any], None] | None = None,
    ) -> None:
        import torch

        self.kernels, self.watch = kernels, watch
        self.torch, self.graph, self.lengths, self.wide = torch, graph, lengths, wide
        self.by_name = graph.by_name()
        self.values: dict[str, Any] = {}
        self.signals: dict[str, list[Any]] = {}

    def run(self, inputs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Components in topological order; a component with time runs all its steps."""
        self.values = {i.name: self._widened(inputs[i.name]) for i in self.graph.inputs}
        for component in _components(self.graph):
            op = self.by_name[component[0]]
            if op.time is None:
                self.values[op.result] = self._leave(op) if op.leaves_time else self.apply(op, self._fixed)
            else:
                self._steps([self.by_name[n] for n in component])
        outputs = [self._constant(o) for o in self.graph.outputs]
        return outputs, {path: self._fixed(use) for path, use in self.graph.effects}

    def _widened(self, tensor: Any) -> Any:
        name = str(tensor.dtype).removeprefix("torch.")
        return tensor.to(getattr(self.torch, _WIDE[name])) if self.wide and name in _WIDE else tensor

    def _fixed(self, use: Use) -> Any:
        return self.values[use.name]

    def _constant(self, arg: Arg) -> Any:
        return self.argument(arg, self._fixed)

    def _trip(self, op: Op) -> tuple[int, bool]:
        assert op.time is not None
        time = self.graph.time(op.time)
        return evaluate(time.trip, self.lengths), time.direction == "backward"

    def _steps(self, ops: Sequence[Op]) -> None:
        names = {op.result for op in ops}
        plain = {op.result: op for op in ops}
        inner = order(tuple(Op(op.result, "", tuple(u for u in op.uses() if u.name in names)) for op in ops))
        for op in ops:
            self.signals[op.result] = []
        trip, backward = self._trip(ops[0])
        for step in range(trip):
            for name in (op.result for op in inner):
                op = plain[name]
                if op.kind == "signal":
                    source, axis, start, stride = (self._constant(a) for a in op.args)
                    position = trip - 1 - step if backward else step
                    value = source.select(axis, start + stride * position)
                else:
                    value = self.apply(op, lambda use, k=step: self._read(use, k))
                self.signals[name].append(value)

    def _read(self, use: Use, step: int) -> Any:
        if use.name not in self.signals:
            return self.values[use.name]
        if use.delay > step:
            return self._constant(self.by_name[use.name].init[use.delay - step - 1])
        return self.signals[use.name][step - use.delay]

    def _leave(self, op: Op) -> Any:
        use = op.args[0]
        assert isinstance(use, Use)
        trip, backward = self._trip(self.by_name[use.name])
        if op.kind == "carry":
            delay = op.args[1]
            assert isinstance(delay, int)
            return self._read(Use(use.name, delay), trip)
        steps = [self._read(use, k) for k in range(trip)]
        if op.kind == "stack":
            axis = op.args[1]
            assert isinstance(axis, int)
            return self.torch.stack(steps[::-1] if backward else steps, axis)
        return steps[-1 if op.kind == "last" else self._constant(op.args[1])]

    def apply(self, op: Op, read: Any) -> Any:
        """One op on values that `read` gives."""
        value = self._applied(op, read)
        if self.watch is not None:
            self.watch(op, value)
        return value

    def _applied(self, op: Op, read: Any) -> Any:
        args = [self.argument(a, read) for a in op.args]
        attrs = {k: self.argument(a, read) for k, a in op.attrs}
        if op.kind == "alias":
            return args[0]
        if op.kind == "getitem":
            return args[0][args[1]]
        if op.kind == "tensor":
            return self.torch.tensor(args[0], **attrs)
        if op.kind in self.kernels:
            return self.kernels[op.kind](*args, **attrs)
        if op.kind == "view_as_complex":  # a value has no strides here, torch's operator asks for some
            return self.torch.view_as_complex(args[0].contiguous())
        if op.kind in ("view", "_unsafe_view") and isinstance(args[1], list | tuple):
            return args[0].reshape(args[1])
        return getattr(self.torch.ops.aten, op.kind)(*args, **attrs)

    def argument(self, arg: Arg, read: Any) -> Any:
        """An argument as torch takes it."""
        if isinstance(arg, Use):
            return read(arg)
        if isinstance(arg, tuple):
            return [self.argument(a, read) for a in arg]
        if isinstance(arg, Size):
            return evaluate(arg, self.lengths)
        if isinstance(arg, Atom):
            name = LONG.get(arg, str(arg))
            name = _WIDE.get(name, name) if self.wide else name
            found = getattr(self.torch, name, None)
            kinds = (self.torch.dtype, self.torch.layout, self.torch.memory_format)
            return found if isinstance(found, kinds) else self.torch.device(name)
        return arg


def _components(graph: Graph) -> list[list[str]]:
    edges: nx.DiGraph[str] = nx.DiGraph()
    by_name = graph.by_name()
    edges.add_nodes_from(by_name)
    for op in graph.ops:
        edges.add_edges_from((u.name, op.result) for u in op.all_uses() if u.name in by_name)
        for use in op.uses():
            if use.delay and use.name in by_name:
                edges.add_edges_from((i.name, op.result) for i in uses_in(by_name[use.name].init) if i.name in by_name)
    joined = nx.condensation(edges)
    return [sorted(joined.nodes[c]["members"]) for c in nx.topological_sort(joined)]
