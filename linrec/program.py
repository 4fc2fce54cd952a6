"""A recurring program: one captured program as a start, a chunk form and a step form, with its state in the open.

Forms are emitted when they are first used. Coefficients are read from the model at every call; what depends on
parameters alone is kept between calls only while they stay equal (`linrec.constants`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.compiled import Compiled
from linrec.compiler import Engine
from linrec.constants import Cached
from linrec.dtypes import LONG
from linrec.emit.batchfirst import SHARED, batch_first
from linrec.emit.ended import ended
from linrec.emit.onestep import one_step
from linrec.emit.ownership import own_state
from linrec.emit.source import Program, emit
from linrec.emit.stateful import Leaf, Stateful, stateful
from linrec.errors import FAILURES, CaptureError, StateError
from linrec.findings import held_because
from linrec.frontends.loop.counters import Unreadable
from linrec.ir import Graph
from linrec.manager import Context, Pipeline
from linrec.passes import default_pipeline
from linrec.quick import Quick
from linrec.sizes import Size, evaluate
from linrec.states import BATCH, State, batch_axis
from linrec.tables import past_the_end
from linrec.writes import first_states, with_writes

_CLEANING = ("canonicalize", "cse", "hoist", "dce")
_SEEN = ".seen"  # warming up: the inputs of the steps so far


@dataclass
class Form:
    """One emitted program with its cached constants."""

    graph: Graph
    program: Program
    constants: list[Cached]

    @staticmethod
    def of(graph: Graph, frozen: Collection[str], *, keep_derived: bool = False) -> Form:
        """Emit a graph; `keep_derived` keeps what is costly to derive from parameters, such as a matrix exponential."""
        program = emit(graph, frozen, keep_derived=keep_derived)
        return Form(graph, program, [Cached(program.namespace[c.function], len(c.sources)) for c in program.constants])

    def __call__(self, *tensors: Any) -> tuple[Any, ...]:
        return self.program.run(self.constants, *tensors)[0]  # type: ignore[no-any-return]


class Recurring:
    """The forms of one captured program, for one set of element types. Raises StateError where there is none."""

    def __init__(self, compiled: Compiled, engine: Engine) -> None:
        self.engine = engine
        self.compiled = compiled
        self.getters = compiled.getters
        self.spec = compiled.captured.out_spec
        graph = _cleaned(compiled.captured.graph)
        self._stateful = batch_first(_stateful_at_any_length(with_writes(graph), compiled.captured.held))
        self.begins_in = first_states(graph, self._stateful)
        self.leaves: tuple[Leaf, ...] = self._stateful.leaves
        self.warmup = self._stateful.warmup
        self.names = [i.name for i in graph.inputs if i.role == "input"]
        self.arity = len(self.names)
        self.inputs = self._stateful.inputs[: self.arity]
        self.results = self._stateful.outputs  # of what is returned, then of what is written somewhere
        self.outputs = self.results[: len(graph.outputs)]
        self.types = [i.type for i in self._stateful.onward.inputs[: self.arity]]
        self._rows = [batch_axis(t) for t in self.types]
        self._seen_names = [n + _SEEN + SHARED * (a is None) for n, a in zip(self.names, self._rows, strict=True)]
        self._many_seen = sum(a is not None for a in self.inputs)
        captured = graph.inputs[self.arity :]
        self.captured = {i.name: i.path for i in captured}
        self.frozen = frozenset(
            i.name for i, get in zip(captured, self.getters, strict=True) if not get().requires_grad
        )
        leaves, self._in_spec = compiled.example
        self._leaves = leaves
        self.others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        self.kinds = tuple((x.dtype, x.device) for x in leaves if isinstance(x, Tensor))
        self.rows_are_apart = False  # shown once, where rows end or start on their own
        self._environment = engine.environment_now()
        self._quick = Quick(self)
        self._ending: dict[tuple[bool, bool], Form | None] = {}

    # forms -----------------------------------------------------------------------------------------

    @cached_property
    def starting(self) -> Form:
        """The first state, or while warming up the whole program."""
        forms = self.engine.options.forms if self.warmup else "sequential"
        return Form.of(_passed(self._stateful.start, {"T": 64}, self.frozen, forms), self.frozen)

    @cached_property
    def onward(self) -> Form:
        """Any number of steps from a state, in parallel form."""
        return Form.of(_passed(self._stateful.onward, {"T": 64}, self.frozen, self.engine.options.forms), self.frozen)

    @cached_property
    def step_graph(self) -> Graph:
        """One step, without loops and without a time axis."""
        return own_state(_cleaned(one_step(self._stateful)), len(self.results))

    @cached_property
    def stepping(self) -> Form:
        """One step."""
        return Form.of(self.step_graph, self.captured.keys(), keep_derived=True)

    def ending(self, *, from_start: bool, with_state: bool) -> Form | None:
        """The whole program, or from a state, for rows that end at steps of their own; None if they share what they end in.

        Its last arguments are the ends (B,) of rows and whether a step is before them (B, T).
        """
        key = from_start, with_state
        if key not in self._ending:
            graph = self._stateful.start if from_start else self._stateful.onward
            if not with_state:
                graph = replace(graph, outputs=graph.outputs[: len(self.results)])
            forms = self.engine.options.forms
            proven = [p for p in default_pipeline().passes if p.name not in ("choose-form", "lower")]
            made = ended(Pipeline(proven).run(graph, Context({"T": 64}, self.frozen, forms)))
            passed = None if made is None else _passed(made, {"T": 64}, self.frozen, forms)
            self._ending[key] = None if passed is None else Form.of(passed, self.frozen)
        return self._ending[key]

    @property
    def offsets(self) -> tuple[int, ...]:
        """The step at which each result has its first entry."""
        return self._stateful.offsets

    @property
    def graph(self) -> Graph:
        """The program from a state, as captured: no form chosen yet."""
        return self._stateful.onward

    @property
    def start_graph(self) -> Graph:
        """What makes the first state."""
        return self._stateful.start

    # which program ---------------------------------------------------------------------------------

    def key(self, kinds: tuple[Any, ...]) -> Any:
        """What a program of this model depends on besides the numbers in its tensors."""
        environment = self.engine.environment_now()
        tensors = tuple((x.dtype, x.device, x.shape) for get in self.getters if isinstance(x := get(), Tensor))
        plain = tuple(o if isinstance(o, int | float | complex | str | None) else id(o) for o in self.others)
        return kinds, plain, environment.fingerprint(), tensors, torch.get_default_dtype(), self.engine.generation

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments this program was captured for; numbers in tensors are zero."""
        return self.example_as(self.kinds)

    def example_as(self, kinds: tuple[Any, ...], others: Sequence[Any] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments with other element types and devices, and other values of what is no tensor."""
        given, plain = iter(kinds), iter(others or self.others)
        made = []
        for leaf in self._leaves:
            if isinstance(leaf, Tensor):
                dtype, device = next(given)
                made.append(torch.zeros(leaf.shape, dtype=dtype, device=device))
            else:
                made.append(next(plain))
        args, kwargs = pytree.tree_unflatten(made, self._in_spec)
        return args, kwargs

    def lengths(self, tensors: Sequence[Tensor], *, wide: bool) -> dict[str, int]:
        """The named lengths of a call; raises StateError (LR4002) for tensors of other shapes."""
        lengths: dict[str, int] = {} if wide else {"T": 1}
        for x, type_, axis, name in zip(tensors, self.types, self.inputs, self.names, strict=True):
            dims = type_.shape if wide or axis is None else (*type_.shape[:axis], *type_.shape[axis + 1 :])
            if x.dim() != len(dims):
                raise self._wrong_axes(name, x, type_.shape, dims, wide)
            for actual, dim in zip(x.shape, dims, strict=True):
                if isinstance(dim, Size) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
                    lengths.setdefault(dim.terms[0][0][0], actual)
        for x, type_, axis, name in zip(tensors, self.types, self.inputs, self.names, strict=True):
            dims = type_.shape if wide or axis is None else (*type_.shape[:axis], *type_.shape[axis + 1 :])
            wanted = tuple(
                evaluate(d, lengths) if isinstance(d, Size) and d.names <= lengths.keys() else d for d in dims
            )
            if any(isinstance(w, int) and w != n for n, w in zip(x.shape, wanted, strict=True)):
                raise StateError(
                    "LR4002", f"{name} has shape {tuple(x.shape)}, this program takes {_shown(dims)}",
                    help=f"make the recurrent form for inputs like this one: net.recurrent({', '.join(self.names)})",
                )  # fmt: skip
        return lengths

    def _wrong_axes(self, name: str, x: Tensor, full: Any, dims: Any, wide: bool) -> StateError:
        if not wide and x.dim() == len(full):
            return StateError(
                "LR4002", f"step takes one step of {name}, {_shown(dims)}, got {tuple(x.shape)} with a time axis",
                help="call the module itself to run many steps at once: y, state = rnn(x, state=state)",
            )  # fmt: skip
        return StateError(
            "LR4002", f"{name} has {x.dim()} axes, {tuple(x.shape)}, expected {_shown(dims)}",
            help="give one step to step(), and chunks with a time axis to the module itself",
        )  # fmt: skip

    # running ---------------------------------------------------------------------------------------

    def values(self) -> list[Any]:
        """The captured tensors as they are now."""
        return [get() for get in self.getters]

    def is_warming(self, state: Mapping[str, Any]) -> bool:
        """Does a state hold the first inputs, for want of enough steps?"""
        return self.warmup > 0 and isinstance(state, dict) and any(name in state for name in self._seen_names)

    def first(self, tensors: Sequence[Tensor], lengths: Mapping[str, int]) -> State:
        """The state before the first step."""
        if self.warmup:
            nothing = [x if a is None else x.narrow(a, 0, 0) for x, a in zip(tensors, self.inputs, strict=True)]
            return self._as_seen(nothing)
        return self.named(self.starting(*tensors, *self.values()), tensors[0].device, lengths)

    def _as_seen(self, tensors: Sequence[Tensor]) -> State:
        """The inputs of the first steps as a state: batch first, as every state."""
        return {
            name: (x if rows is None else x.movedim(rows, 0)).clone()
            for name, x, rows, axis in zip(self._seen_names, tensors, self._rows, self.inputs, strict=True)
            if axis is not None
        }

    def first_for_batch(self, batch: int) -> State:
        """The state before the first step of a batch, where the numbers in the inputs do not matter."""
        found = self.first_of_shapes(self.shapes(batch))
        if found is None:
            raise StateError(
                "LR4006", f"the first state is made from the inputs ({', '.join(self.names)})",
                help="start with state=None, or give the arguments: rnn.init_state(" + ", ".join(self.names) + ")",
            )  # fmt: skip
        return found

    def first_of_shapes(self, shapes: Sequence[Sequence[int]]) -> State | None:
        """The first state for inputs of these shapes; None if it depends on the numbers in them."""
        found: list[State] = []
        for fill in (float("nan"), 1.0):  # what depends on the inputs is NaN once, or 0 once and 1 once
            tensors = [
                torch.full(shape, fill, dtype=dtype, device=device)
                if dtype.is_floating_point or dtype.is_complex
                else torch.full(shape, int(fill == 1.0), dtype=dtype, device=device)
                for shape, (dtype, device) in zip(shapes, self.kinds, strict=True)
            ]
            with torch.set_grad_enabled(torch.is_grad_enabled() and fill == 1.0):
                found.append(self.first(tensors, self.lengths(tensors, wide=True)))
        return found[1] if all(torch.equal(v, found[0][name]) for name, v in found[1].items()) else None

    def shapes(self, batch: int) -> list[list[int]]:
        """The shapes of the arguments for one step of a batch; other sizes as in the example."""
        sizes = {**self.sizes, "T": 1, BATCH: batch}
        return [[evaluate(d, sizes) for d in type_.shape] for type_ in self.types]

    @property
    def sizes(self) -> dict[str, int]:
        """The named lengths of the example."""
        return self.lengths(
            [torch.empty(x.shape, device="meta") for x in self._leaves if isinstance(x, Tensor)], wide=True
        )

    def named(self, values: Sequence[Any], device: torch.device, lengths: Mapping[str, int]) -> State:
        """Leaves as full tensors: numbers and narrower tensors are expanded."""
        found: State = {}
        for leaf, value in zip(self.leaves, values, strict=True):
            shape = [evaluate(d, lengths) for d in leaf.type.shape]
            dtype = getattr(torch, LONG[leaf.type.dtype])
            if isinstance(value, Tensor):
                found[leaf.name] = value.to(dtype).expand(shape).clone()  # not the parameter itself
            else:
                found[leaf.name] = torch.full(shape, value, dtype=dtype, device=device)
        return found

    def advance(
        self, tensors: Sequence[Tensor], state: State | None, lengths: Mapping[str, int]
    ) -> tuple[list[Any], State]:
        """A chunk of steps: outputs in order, with their time axes, and the next state."""
        if self.warmup and (state is None or self.is_warming(state)):
            return self._warm(tensors, state, lengths)
        if state is None:
            state = self.first(tensors, lengths)
        outputs = self.onward(*tensors, *self.values(), *(state[leaf.name] for leaf in self.leaves))
        count = len(self.results)
        # not the last entries of an output, which would be kept as long as the state is, and change with it
        new = {leaf.name: value.clone() for leaf, value in zip(self.leaves, outputs[count:], strict=True)}
        return list(outputs[:count]), new

    def end(
        self, tensors: Sequence[Tensor], state: State | None, ends: Tensor, *, with_state: bool
    ) -> tuple[list[Any], State] | None:
        """A chunk of which row b takes the first `ends[b]` steps, inputs harmless behind them; None if rows cannot.

        Results at steps behind a row's end, and those of rows without a step, are anything; states are each row's own.
        Rows that start with special steps take more than these.
        """
        if (state is not None and self.is_warming(state)) or (with_state and any(map(_is_common, self.leaves))):
            return None
        from_start = state is None and self.warmup > 0
        form = self.ending(from_start=from_start, with_state=with_state)
        if form is None:
            return None
        axis, sample = next((a, x) for a, x in zip(self.inputs, tensors, strict=True) if a is not None)
        valid = torch.arange(sample.shape[axis], device=ends.device) < ends.unsqueeze(1)
        sizes, device, count = self.lengths(tensors, wide=True), sample.device, len(self.results)
        if from_start:
            found = form(*tensors, *self.values(), ends, valid)
            return list(found[:count]), self.named(found[count:], device, sizes) if with_state else {}
        if state is None:
            state = self.first(tensors, sizes)
        found = form(*tensors, *self.values(), *(state[leaf.name] for leaf in self.leaves), ends, valid)
        after = {}
        for leaf, value in zip(self.leaves, found[count:], strict=False):
            took = (ends > 0).view(-1, *(1,) * (value.dim() - 1))
            after[leaf.name] = torch.where(took, value, state[leaf.name])
        return list(found[:count]), after

    def _warm(
        self, tensors: Sequence[Tensor], state: State | None, lengths: Mapping[str, int]
    ) -> tuple[list[Any], State]:
        """All inputs so far; the whole program runs on them once there are enough."""
        new = lengths["T"]
        results: list[Any]
        whole = list(tensors)
        if state is not None:
            whole = [self._with_seen(n, x, state) for n, x in enumerate(tensors)]
        axis, sample = next((a, x) for a, x in zip(self.inputs, whole, strict=True) if a is not None)
        total = sample.shape[axis]
        count = len(self.results)
        if total > self.warmup:
            found = self.starting(*whole, *self.values())
            after = self.named(found[count:], sample.device, {**lengths, "T": total})
            results = list(found[:count])
        else:
            # as written: the first steps are what is special
            args, kwargs = self._arguments(whole)
            results = [None] * count  # what the original writes, it has written
            if any(offset < total for offset in self._stateful.offsets):
                results[: len(self.outputs)] = pytree.tree_leaves(self._as_written(args, kwargs, total))
            after = self._as_seen(whole)
        return [self._latest(out, a, new) for out, a in zip(results, self.results, strict=True)], after

    def _as_written(self, args: Any, kwargs: Any, steps: int) -> Any:
        """The original on its first steps. Raises StateError (LR4007) if it does not run on so few."""
        try:
            return self.engine.function(*args, **kwargs)
        except FAILURES as error:
            raise StateError(
                "LR4007", f"{self.engine.name} does not run on {steps} steps: {type(error).__name__}: {error}",
                help=f"its first steps are special: start with a chunk of {self.warmup + 1} steps",
            ) from error  # fmt: skip

    def _with_seen(self, n: int, x: Tensor, state: State) -> Tensor:
        """One argument of all steps so far."""
        axis, rows, name = self.inputs[n], self._rows[n], self._seen_names[n]
        if axis is None:
            return x
        seen = state.get(name)
        if isinstance(seen, Tensor) and seen.dim() == x.dim():
            seen = seen if rows is None else seen.movedim(0, rows)
            alike = all(a == b for i, (a, b) in enumerate(zip(seen.shape, x.shape, strict=True)) if i != axis)
            if alike and (seen.dtype, seen.device) == (x.dtype, x.device) and len(state) == self._many_seen:
                return torch.cat([seen, x], axis)
        kind = f"{seen.dtype} {list(seen.shape)}" if isinstance(seen, Tensor) else type(seen).__name__
        raise StateError(
            "LR4001", f"the state holds {sorted(state)}, '{name}' as {kind}, that do not fit {self.names[n]}: {x.dtype} {list(x.shape)}",
            help="pass on the state of the last step, or start with state=None",
        )  # fmt: skip

    def _arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = iter(tensors)
        made = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(made, self._in_spec)
        return args, kwargs

    def _latest(self, out: Any, axis: int | str | None, steps: int) -> Any:
        """The entries of the last `steps` steps: fewer if there are not that many yet."""
        if not isinstance(axis, int) or not isinstance(out, Tensor):
            return out
        return out.narrow(axis, max(out.shape[axis] - steps, 0), min(steps, out.shape[axis]))

    def narrowed(self, outputs: Sequence[Any]) -> list[Any]:
        """Results of one step without their time axes; None where there is none yet."""
        return [
            (out.select(axis, 0) if out.shape[axis] else None)
            if isinstance(axis, int) and isinstance(out, Tensor)
            else out
            for out, axis in zip(outputs, self.results, strict=True)
        ]

    def take(
        self, tensors: Sequence[Tensor], state: State | None, lengths: Mapping[str, int]
    ) -> tuple[list[Any], State]:
        """One step: outputs without time axes, and the next state."""
        if state is None:
            wide = [x if a is None else x.unsqueeze(a) for x, a in zip(tensors, self.inputs, strict=True)]
            state = self.first(wide, lengths)
        outputs = self.stepping(*tensors, *self.values(), *(state[leaf.name] for leaf in self.leaves))
        count = len(self.results)
        new = {leaf.name: value for leaf, value in zip(self.leaves, outputs[count:], strict=True)}
        if len(outputs) == len(self.outputs) + len(self.leaves):
            self._quick.remember(tensors, state)
        return list(outputs[:count]), new

    def quick(self, tensors: Sequence[Tensor], state: State) -> tuple[Any, State] | None:
        """A step like the last one, without asking again what it has asked; None if something is different."""
        return self._quick(tensors, state)

    @contextmanager
    def within_tables(self, state: State | None, steps: int) -> Iterator[None]:
        """Where a lookup fails: StateError (LR4010) if it is that of a table at a step past its end."""
        try:
            yield
        except IndexError as error:
            clock = next((leaf.name for leaf in self.leaves if leaf.input == self._stateful.clock), None)
            so_far = 0 if clock is None or state is None or self.is_warming(state) else int(state[clock])
            found = past_the_end(self.graph, self._stateful.clock, so_far, steps)
            if found is None:
                raise
            raise found from error

    def finished(self, tensors: Sequence[Tensor], outputs: list[Any], *, wide: bool) -> Any:
        """Results in the structure in which the original returns them, and all else written where it writes it."""
        if len(outputs) > len(self.outputs):
            written = [
                out.unsqueeze(axis) if isinstance(axis, int) and not wide and not path.startswith("argument:") else out
                for (path, _), axis, out in zip(
                    self.compiled.graph.effects,
                    self.results[len(self.outputs) :],
                    outputs[len(self.outputs) :],
                    strict=True,
                )
            ]
            outputs = self.engine.write_back(self.compiled, outputs[: len(self.outputs)], written, tensors)
        return pytree.tree_unflatten(outputs, self.spec)


def _is_common(leaf: Leaf) -> bool:
    """Have rows this part of the state in common?"""
    return not leaf.type.shape or leaf.name.endswith(SHARED)


def _cleaned(graph: Graph) -> Graph:
    """A graph tidied up, before any form is chosen."""
    return Pipeline([p for p in default_pipeline().passes if p.name in _CLEANING]).run(graph, Context())


def _stateful_at_any_length(graph: Graph, held: Unreadable | CaptureError | None) -> Stateful:
    """A program held to the lengths it was traced at says nothing of later steps: why it is held is the reason."""
    try:
        found = stateful(graph)
    except StateError as error:
        if held is None or error.code != "LR4004":
            raise
    else:
        if held is None:
            return found
    place = held.source if isinstance(held, Unreadable) else held
    raise StateError(
        "LR4004", f"{graph.name} has no recurrent form: it {held_because(held)}",
        file=place.file, line=place.line,
        help="a step must be the same at every length: loop over all of T, with indices that are read from t",
    )  # fmt: skip


def _passed(graph: Graph, lengths: dict[str, int], frozen: frozenset[str], forms: Any) -> Graph:
    return default_pipeline().run(graph, Context(lengths, frozen, forms))


def _shown(dims: Sequence[Any]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"
