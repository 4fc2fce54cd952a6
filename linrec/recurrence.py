"""The recurrent form: a program run one step, or any number of steps, at a time.

Both `step` and `forward` are made from the graph the parallel form is made from, with its state as an explicit
input and output: forward by the same passes, step with every recurrence left sequential and T = 1. So a step
equals the sequence, and splitting a sequence changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.compiler import Compiled, Engine
from linrec.constants import Cached
from linrec.dtypes import LONG
from linrec.emit.source import Program, emit
from linrec.emit.stateful import Leaf, Stateful, stateful
from linrec.errors import StateError
from linrec.ir import Graph
from linrec.manager import Context, Pipeline
from linrec.passes import default_pipeline
from linrec.sizes import Size, evaluate

State = dict[str, Tensor]


def recurrent_form(engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The recurrent form of an engine's program for these example inputs, or for those of its last call.

    Raises StateError where there is none: a program that looks ahead (LR4003), whose first steps are special
    (LR4004), or that could not be captured (LR4005).
    """
    compiled = engine.program_for(args, kwargs)
    return RecurrentModule(engine, compiled)


@dataclass
class _Form:
    """One emitted program with its cached constants."""

    program: Program
    constants: list[Cached]

    @staticmethod
    def of(graph: Graph, frozen: frozenset[str]) -> _Form:
        program = emit(graph, frozen)
        return _Form(program, [Cached(program.namespace[c.function], len(c.sources)) for c in program.constants])

    def __call__(self, *tensors: Any) -> tuple[Any, ...]:
        outputs, _ = self.program.run(self.constants, *tensors)
        return outputs  # type: ignore[no-any-return]


class RecurrentModule(nn.Module):
    """A program with its state in the open.

    `step(x_t, state=None)` takes the original's arguments without their time axis and returns its outputs
    without theirs, and the next state; `forward(x, state=None)` does the same for any number of steps, in
    parallel form. A state is a dict of tensors, by the user's names; `state=None` starts afresh.
    """

    def __init__(self, engine: Engine, compiled: Compiled) -> None:
        super().__init__()
        if engine.module is not None:
            # the parameters, buffers and submodules are the model's own
            for space in ("_parameters", "_buffers", "_modules"):
                vars(self)[space] = vars(engine.module)[space]
            vars(self)["training"] = engine.module.training
        captured = compiled.captured
        program = _canonical(captured.graph)
        self._program: Stateful = stateful(program)
        self._getters: list[Callable[[], Any]] = compiled.getters
        self._spec = captured.out_spec
        sample = (
            {i.name: get() for i, get in zip(program.inputs[-len(compiled.getters) :], compiled.getters, strict=True)}
            if compiled.getters
            else {}
        )
        frozen = frozenset(name for name, value in sample.items() if not value.requires_grad)
        # called once a step or once a chunk, each form has inputs: arguments, captured tensors, state
        self._start = _Form.of(_passed(self._program.initial, {}, frozen, "sequential"), frozen)
        self._chunk = _Form.of(_passed(self._program.graph, {"T": 64}, frozen, engine.options.forms), frozen)
        self._step = _Form.of(_passed(self._program.graph, {"T": 1}, frozen, "sequential"), frozen)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """What the state holds: names, shapes, and how far back each value is read."""
        return self._program.leaves

    def forward(self, *args: Any, state: State | None = None, **kwargs: Any) -> tuple[Any, State]:
        """Any number of steps, at least one, from `state`: (the original's outputs, the next state)."""
        tensors = self._tensors(args, kwargs)
        for x, axis in zip(tensors, self._program.inputs, strict=False):
            if axis is not None and x.shape[axis] == 0:
                raise StateError("LR4002", "a chunk has at least one step, got none", help="skip empty chunks")
        return self._advance(self._chunk, tensors, state)

    def step(self, *args: Any, state: State | None = None, **kwargs: Any) -> tuple[Any, State]:
        """One step from `state`: (the original's outputs without time axis, the next state)."""
        if len(args) == 1 + len(self._arguments()) and state is None and isinstance(args[-1], dict):
            args, state = args[:-1], args[-1]
        tensors = self._tensors(args, kwargs)
        wide: list[Tensor] = []
        for x, axis, i in zip(tensors, self._program.inputs, self._program.graph.inputs, strict=False):
            if axis is None:
                wide.append(x)
                continue
            if x.dim() != len(i.type.shape) - 1:
                raise StateError(
                    "LR4002", f"step takes one step of {i.name}: {len(i.type.shape) - 1} axes, got {tuple(x.shape)}",
                    help="leave out the time axis, or call the module itself to run many steps at once",
                )  # fmt: skip
            wide.append(x.unsqueeze(axis))
        outputs, new = self._advance(self._step, wide, state, narrow=True)
        return outputs, new

    def init_state(self, *args: Any, **kwargs: Any) -> State:
        """The state before the first step, for arguments with a time axis of any length."""
        return self._initial(self._tensors(args, kwargs))

    def _arguments(self) -> list[str]:
        return [i.name for i in self._program.graph.inputs if i.role == "input"]

    def _tensors(self, args: Any, kwargs: Any) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]

    def _initial(self, tensors: list[Tensor]) -> State:
        values = self._start(*tensors, *(get() for get in self._getters))
        lengths = self._lengths(tensors)
        return {
            leaf.name: self._filled(leaf, value, tensors, lengths)
            for leaf, value in zip(self.leaves, values, strict=True)
        }

    def _filled(self, leaf: Leaf, value: Any, tensors: list[Tensor], lengths: dict[str, int]) -> Tensor:
        shape = [evaluate(d, lengths) for d in leaf.type.shape]
        if isinstance(value, Tensor):
            return value.expand(shape)
        return torch.full(shape, value, dtype=getattr(torch, LONG[leaf.type.dtype]), device=tensors[0].device)

    def _lengths(self, tensors: list[Tensor]) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for x, i in zip(tensors, self._program.graph.inputs, strict=False):
            for actual, dim in zip(x.shape, i.type.shape, strict=True):
                if isinstance(dim, Size) and dim.terms == (((next(iter(dim.names)),), 1),):
                    lengths.setdefault(next(iter(dim.names)), actual)
        return lengths

    def _advance(
        self, form: _Form, tensors: list[Tensor], state: State | None, *, narrow: bool = False
    ) -> tuple[Any, State]:
        if len(tensors) != len(self._arguments()):
            raise StateError(
                "LR4002", f"expected {len(self._arguments())} tensors ({', '.join(self._arguments())}), got {len(tensors)}",
                help="give the arguments of the original, in their order",
            )  # fmt: skip
        if state is None:
            state = self._initial(tensors)
        else:
            self._check(state, tensors)
        outputs = form(*tensors, *(get() for get in self._getters), *(state[leaf.name] for leaf in self.leaves))
        count = len(self._program.outputs)
        results = list(outputs[:count])
        if narrow:
            results = [
                out.select(axis, 0) if isinstance(axis, int) and isinstance(out, Tensor) else out
                for out, axis in zip(results, self._program.outputs, strict=True)
            ]
        new = {leaf.name: value for leaf, value in zip(self.leaves, outputs[count:], strict=True)}
        return pytree.tree_unflatten(results, self._spec), new

    def _check(self, state: State, tensors: list[Tensor]) -> None:
        """Refuse a state that does not fit instead of broadcasting it."""
        names = [leaf.name for leaf in self.leaves]
        if not isinstance(state, dict) or sorted(state) != sorted(names):
            held = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise StateError(
                "LR4001",
                f"the state holds {held}, expected {sorted(names)}",
                help="pass on the state that the last step returned",
            )
        lengths = self._lengths(tensors)
        for leaf in self.leaves:
            value = state[leaf.name]
            wanted = tuple(lengths.get(str(d), d) if isinstance(d, Size) else d for d in leaf.type.shape)
            if tuple(value.shape) != wanted:
                raise StateError(
                    "LR4001", f"state '{leaf.name}' has shape {tuple(value.shape)}, this input needs {wanted}",
                    help="use a state made for this batch, or state=None to start afresh",
                )  # fmt: skip
            if value.device != tensors[0].device:
                raise StateError(
                    "LR4001",
                    f"state '{leaf.name}' is on {value.device}, the input on {tensors[0].device}",
                    help="move it with .to(device)",
                )


def _canonical(graph: Graph) -> Graph:
    """The captured graph, cleaned up: what the state is read off."""
    context = Context()
    passes = [p for p in default_pipeline().passes if p.name in ("canonicalize", "cse", "hoist", "dce")]
    return Pipeline(passes).run(graph, context)


def _passed(graph: Graph, lengths: dict[str, int], frozen: frozenset[str], forms: Any) -> Graph:
    return default_pipeline().run(graph, Context(lengths, frozen, forms))
