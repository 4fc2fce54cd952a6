"""The recurrent form: a program run one step, or any number of steps, at a time.

`step` and `forward` are made from the graph that the parallel form is made from, with its state as explicit inputs
and outputs: forward by the same passes, step as one step of the graph as captured. So a step equals the sequence,
and splitting a sequence changes nothing.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linrec.compiled import Compiled
from linrec.compiler import Engine, Options
from linrec.emit.stateful import Leaf
from linrec.errors import StateError
from linrec.program import Recurring
from linrec.ragged import run_ragged, without_padding
from linrec.states import BATCH, State, check, check_batch


def recurrent_form(engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecurrentModule:
    """The recurrent form of an engine's program for these example inputs, or for those of its last call.

    Raises StateError where there is none: a program that looks ahead (LR4003), whose loops do not take each step
    (LR4004), or that could not be captured (LR4005).
    """
    if not (args or kwargs or engine.programs) and engine.stateful is not None:  # called with states only
        return RecurrentModule(engine, engine.stateful.program.compiled)
    return RecurrentModule(engine, engine.program_for(args, kwargs))


def run_with_state(
    engine: Engine, args: Any, kwargs: Any, state: Any, return_state: bool, lengths: Any, reset_mask: Any
) -> Any:
    """`net(x, state=..., return_state=..., lengths=..., reset_mask=...)`: the result, and the state if asked for."""
    rnn: RecurrentModule | None = engine.stateful
    if rnn is None or not rnn.takes(args, kwargs):
        example = (args, kwargs) if lengths is None else without_padding(args, kwargs, lengths)
        try:
            engine.stateful = rnn = RecurrentModule(engine, engine.program_for(*example))
        except StateError:
            if rnn is None:
                raise  # else what it says of these inputs is the better reason
    if lengths is None and reset_mask is None:
        result, after = rnn(*args, state=state, **kwargs)
    else:
        result, after = rnn.ragged(args, kwargs, state, lengths, reset_mask, return_state=return_state)
    return (result, after) if return_state else result


class RecurrentModule(nn.Module):
    """A program with its state in the open.

    `step(x_t, state=None)` takes the original's arguments without their time axis and returns its outputs without
    theirs, and the next state; `forward(x, state=None)` does the same for any number of steps, in parallel form. A
    state is a dict of tensors, by the user's names; `state=None` starts afresh. A result that has no value yet
    (the prediction before the first step) is None.

    Parameters, buffers and submodules are the model's own: training it, casting it or loading weights into it
    takes effect here at once. A step costs what one step of the program as written costs.
    """

    def __init__(self, engine: Engine, compiled: Compiled) -> None:
        super().__init__()
        if engine.module is not None:
            for space in ("_parameters", "_buffers", "_modules"):
                vars(self)[space] = vars(engine.module)[space]
            vars(self)["training"] = engine.module.training
        self._engine = engine
        self._made: dict[Any, Recurring] = {}
        self._current = self._make(compiled)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentModule:
        engine = self._engine
        if engine.module is not None:
            engine = _engine_of(copy.deepcopy(engine.module, memo), engine.name, engine.options)
        args, kwargs = self._current.example
        return RecurrentModule(engine, engine.program_for(args, kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        """The model, and what the form was made for: it is captured again where it is loaded."""
        args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.new_zeros(()).expand(x.shape), self._current.example)
        engine = self._engine
        owner: Any = engine.function if engine.module is None else engine.module
        if engine.module is None:  # the name of a decorated function stands for the compiled one
            named = getattr(sys.modules.get(owner.__module__), getattr(owner, "__name__", ""), None)
            owner = named if getattr(named, "__wrapped__", None) is owner else owner
        return _loaded, (owner, engine.name, engine.options, args, kwargs)

    def train(self, mode: bool = True) -> RecurrentModule:
        """As for any module; the model's own flag follows."""
        super().train(mode)
        if self._engine.module is not None and self._engine.module.training != mode:
            self._engine.module.train(mode)
        return self

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """What the state holds: names, element types and shapes."""
        return self._current.leaves

    @property
    def program(self) -> Recurring:
        """The program that runs: its graphs, texts and state."""
        return self._current

    @property
    def is_current(self) -> bool:
        """Is that the program of the model as it is now?"""
        return self._made.get(self._current.key(self._current.kinds)) is self._current

    # running ---------------------------------------------------------------------------------------

    def forward(self, *args: Any, state: State | None = None, **kwargs: Any) -> tuple[Any, State]:
        """Any number of steps, at least one, from `state`: (the original's outputs, the next state)."""
        tensors = self._tensors(args, kwargs)
        program = self.fit(tensors)
        lengths = program.lengths(tensors, wide=True)
        if lengths.get("T") == 0:
            raise StateError("LR4002", "a chunk has at least one step, got none", help="skip empty chunks")
        if state is not None and not program.is_warming(state):
            check(state, program.leaves, lengths, tensors[0].device)
        with program.within_tables(state, lengths.get("T", 1)):
            outputs, new = program.advance(tensors, state, lengths)
        return program.finished(tensors, outputs, wide=True), new

    def step(self, *args: Any, state: State | None = None, **kwargs: Any) -> tuple[Any, State]:
        """One step from `state`: (the original's outputs without time axis, the next state)."""
        if kwargs or len(args) != self._current.arity:
            if (
                state is None
                and len(args) == 1 + self._current.arity
                and (args[-1] is None or isinstance(args[-1], dict))
            ):
                args, state = args[:-1], args[-1]
            tensors = self._tensors(args, kwargs)
        else:
            tensors = args if all(isinstance(a, Tensor) for a in args) else self._tensors(args, kwargs)  # type: ignore[assignment]
        current = self._current
        if state is not None:
            try:
                found = current.quick(tensors, state)
            except IndexError:  # told below
                found = None
            if found is not None:
                return found
        program = self.fit(tensors)
        lengths = program.lengths(tensors, wide=False)
        if state is not None and not program.is_warming(state):
            check(state, program.leaves, lengths, tensors[0].device)
        if program.warmup and (state is None or program.is_warming(state)):
            wide = [x if a is None else x.unsqueeze(a) for x, a in zip(tensors, program.inputs, strict=True)]
            outputs, new = program.advance(wide, state, {**lengths, "T": 1})
            return program.finished(tensors, program.narrowed(outputs), wide=False), new
        with program.within_tables(state, 1):
            outputs, new = program.take(tensors, state, lengths)
        return program.finished(tensors, outputs, wide=False), new

    def init_state(self, *args: Any, **kwargs: Any) -> State:
        """The state before the first step: `init_state(batch)`, or for the arguments of a call.

        Raises StateError (LR4006) if the first state comes from the first input: `state=None` then starts with it.
        """
        if len(args) == 1 and isinstance(args[0], int) and not kwargs:
            check_batch(args[0])
            return self._current.first_for_batch(args[0])
        tensors = self._tensors(args, kwargs)
        program = self.fit(tensors)
        return program.first(tensors, program.lengths(tensors, wide=True))

    def wide(self, args: Any, kwargs: Any, *, wide: bool, batch: int) -> list[Tensor]:
        """The tensors of a call with their time axes; `wide` if they have them. Raises StateError for another batch."""
        tensors = self._tensors(args, kwargs)
        program = self.fit(tensors)
        rows = program.lengths(tensors, wide=wide).get(BATCH, batch)
        if rows != batch:
            raise StateError(
                "LR4002", f"the stream is one of {batch} rows, the input has batch {rows}",
                help=f"make a stream for it: linrec.stream(net, {rows})",
            )  # fmt: skip
        return [x if wide or a is None else x.unsqueeze(a) for x, a in zip(tensors, program.inputs, strict=True)]

    def ragged(
        self, args: Any, kwargs: Any, state: State | None, lengths: Any, reset_mask: Any, *, return_state: bool
    ) -> tuple[Any, State | None]:
        """A call with rows of different lengths, or that start afresh: see `linrec.ragged`."""
        tensors = self._tensors(args, kwargs)
        program = self.fit(tensors)
        if state is not None and not program.is_warming(state):
            check(state, program.leaves, program.lengths(tensors, wide=True), tensors[0].device)
        with program.within_tables(state, program.lengths(tensors, wide=True).get("T", 1)):
            outputs, after = run_ragged(program, tensors, state, lengths, reset_mask, return_state=return_state)
        return program.finished(tensors, outputs, wide=True), after

    # which program ---------------------------------------------------------------------------------

    def _tensors(self, args: Any, kwargs: Any) -> list[Tensor]:
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        names = self._current.names
        if len(tensors) != len(names):
            raise StateError(
                "LR4002", f"expected {len(names)} tensors ({', '.join(names)}), got {len(tensors)}",
                help="give the arguments of the original, in their order; the state by keyword",
            )  # fmt: skip
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if others and others != self._current.others:
            self._take_others(others)
        return tensors

    def _take_others(self, others: list[Any]) -> None:
        """Numbers, strings and flags other than those of the example: another program."""
        if len(others) != len(self._current.others):
            raise StateError(
                "LR4002", f"this form was made for the arguments {self._current.others}, got {others}",
                help="make the recurrent form with the same arguments: net.recurrent(...)",
            )  # fmt: skip
        args, kwargs = self._current.example_as(self._current.kinds, others)
        self._current = self._make(self._engine.program_for(args, kwargs))

    def _make(self, compiled: Compiled) -> Recurring:
        program = Recurring(compiled, self._engine)
        self._made[program.key(program.kinds)] = program
        return program

    def takes(self, args: Any, kwargs: Any) -> bool:
        """Was this form made for tensors of such shapes?"""
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        try:
            return len(tensors) == self._current.arity and bool(self._current.lengths(tensors, wide=True))
        except StateError:
            return False

    def fit(self, tensors: Sequence[Tensor]) -> Recurring:
        """The program for these element types, and for the model as it is now."""
        kinds = tuple((x.dtype, x.device) for x in tensors)
        key = self._current.key(kinds)
        found = self._made.get(key)
        if found is None:
            args, kwargs = self._current.example_as(kinds)
            try:
                found = self._make(self._engine.program_for(args, kwargs))
            except StateError as error:
                if kinds == self._current.kinds:
                    raise
                named = ", ".join(f"{n} as {k}" for n, (k, _) in zip(self._current.names, kinds, strict=True))
                made = ", ".join(str(k) for k, _ in self._current.kinds)
                raise StateError(
                    "LR4002", f"there is no form for {named}, this one was made for {made}: {error.message}",
                    file=error.file, line=error.line, help="cast the input, or the model: rnn.to(dtype)",
                ) from error  # fmt: skip
        self._current = found
        return found


def _loaded(owner: Any, name: str, options: Options, args: Any, kwargs: Any) -> RecurrentModule:
    """A form that was saved: of a module or a function, for arguments like these."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.zeros_like, (args, kwargs))
    engine = _engine_of(owner, name, options)
    return RecurrentModule(engine, engine.program_for(args, kwargs))


def _engine_of(owner: Any, name: str, options: Options) -> Engine:
    """The engine of a module or function that has one, else a new one."""
    found = vars(owner).get("_linrec_engine")
    if isinstance(found, Engine):
        return found
    if not isinstance(owner, nn.Module):
        return Engine(owner, name, options)
    kind = type(owner)
    forward = vars(owner).get("forward") or getattr(kind, "_linrec_forward", kind.forward).__get__(owner)
    return Engine(forward, name, options, owner)
