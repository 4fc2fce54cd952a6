"""Capture: a call of a Python function becomes a graph, for every length where that is sound.

Costs three traces of 6, 8 and 11 steps and a few attempts to find the time axis; independent of the
length of the call, unless the program must be held to that length.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from linrec.errors import CaptureError, ProgramError, trial
from linrec.frontends.loop.axes import (
    APART,
    OTHER_STEPS,
    STEPS,
    Axes,
    Axis,
    Groups,
    Shapes,
    alike_sizes,
    steps_along,
)  # fmt: skip
from linrec.frontends.loop.branches import (
    branches,
    check_ends,
    depends_on_length,
    growing_loops,
    has_branches,
    join,
    length_for,
    period,
    shortest,
)
from linrec.frontends.loop.counters import Unreadable, unreadable
from linrec.frontends.loop.declared import declared, nested, spans, where
from linrec.frontends.loop.environment import Environment, hooks_of
from linrec.frontends.loop.flatten import Flat, flatten
from linrec.frontends.loop.generalize import generalize, numbers_of_length
from linrec.frontends.loop.horizon import Cut, cut_of_sizes, cuts_of_numbers, cuts_of_traces
from linrec.frontends.loop.probe import Probe
from linrec.frontends.loop.repeats import find_repeats, is_unrolled, over_time, sets_apart, without_idle
from linrec.frontends.loop.reroll import reroll
from linrec.frontends.loop.trace import Trace, run_trace
from linrec.frontends.loop.ways import Ways
from linrec.ir import Graph, Use
from linrec.linear.rules.refused import REFUSED

_READ_MOST = 4_096  # numbers of a tensor that a program may read as Python's and still be captured
_LARGEST_REMAINDER = 12  # a program for each is worth it
_LONGEST_HISTORY = 120  # steps in a trace that is to show all that lists keep from step to step
ATTEMPT_OPERATORS = 4_000  # a trace of few steps is cut off here
OWN_LENGTH_OPERATORS = 12_000  # and a program held to its own length here


@dataclass(frozen=True)
class Capture:
    """A captured program.

    The graph's effects are written back after each run: attributes by path (those in `assigned` are assigned,
    other tensors written to), arguments as "argument:0".
    `guards` are tensors by path that the program took numbers out of, with what they held: it is another program
    where they hold something else.
    `held` says why the program holds for the traced sizes only; None if it holds for every length, or for those of
    `shortest` to `longest` steps. With both, longer calls may be captured for every length.
    `remainder` is (m, r) where the program holds for the lengths r, r + m, r + 2m, ...: it does at an end what depends on
    the length by m, or reads a ring of m slots.
    """

    graph: Graph
    out_spec: pytree.TreeSpec
    constants: dict[str, Tensor]
    seconds: float
    assigned: frozenset[str]
    guards: tuple[tuple[str, Tensor], ...] = ()
    held: Unreadable | CaptureError | None = None
    shortest: int = 0
    longest: float = math.inf
    axes: tuple[Axis, ...] = ()  # those of time
    alike: object = None  # which sizes of the call are equal, and which are one
    remainder: tuple[int, int] | None = None

    def holds_not_for(self, shapes: Shapes, alike: object) -> bool:
        """Is it known that a call of these shapes can be captured at its own length alone?"""
        if self.held is None or self.shortest or self.remainder is not None:
            return steps_along(shapes, self.axes) < self.shortest
        return self.alike == alike


def capture(
    function: Callable[..., Any],
    environment: Environment,
    args: Any,
    kwargs: Any,
    name: str,
    steps: tuple[int, ...] = STEPS,
    earlier: Iterable[Capture] = (),
    *,
    of_any_length: bool = False,
) -> Capture:
    """Capture `function(*args, **kwargs)`. Raises CaptureError with the reason if that cannot be done.

    What was found of it at `earlier` calls is not looked for again. `of_any_length` asks for a program that longer calls
    have, though this one may not run all of its branches.
    """
    started = time.perf_counter()
    for path, module in environment.modules.items():
        if path and hooks_of(module):
            raise CaptureError(
                "LR0401", f"the submodule `{path}` has hooks, which run Python code that a graph would lose",
                help="remove the hooks, or call the submodule outside the compiled part",
            )  # fmt: skip
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    probe = Probe(function, environment, args, kwargs)
    tracer = _Tracer([tuple(x.shape) for x in tensors], probe, steps, function, environment, args, kwargs, name)
    tracer.of_any_length = of_any_length
    alike = alike_sizes(tracer.shapes)
    known = next((c for c in earlier if c.axes and c.holds_not_for(tracer.shapes, alike) and not of_any_length), None)
    found = tracer.time_axes() if known is None else list(known.axes)
    held: Unreadable | CaptureError | None = None
    remainder: tuple[int, int] | None = None
    least, most = 0, math.inf
    if known is not None:
        held = known.held or _too_short(known.shortest)
    elif found is None:
        held = CaptureError("LR0406", "the program cannot run at other lengths")
    else:
        made = tracer.of_every_length(found)
        if not (isinstance(made, _Made) and made.carries):
            # a loop over heads or over members of a batch: time is the axis along which states are carried
            other = tracer.time_axes(apart_from=found)
            again = tracer.of_every_length(other) if other is not None else None
            if other is not None and isinstance(again, _Made) and again.carries:
                found, made = other, again
        if isinstance(made, _Made):
            graph, trace, flat, least, most = made.graph, made.trace, made.flat, made.shortest, made.longest
            if made.every > 1:
                remainder = made.every, steps_along(tracer.shapes, found) % made.every
            held = _too_short(least) if least > steps_along(tracer.shapes, found) and not of_any_length else None
        else:
            held = made
    if held is not None:
        graph, trace, flat = tracer.own_length(found or [], held)
        remainder = None
    elif remainder is not None:
        held = CaptureError(
            "LR0412", f"it is another program for each remainder of the number of steps by {remainder[0]}"
        )
    graph = _with_effects(declared(graph), trace, flat)
    constants = {i.name: flat.captured[i.name] for i in graph.inputs if i.role != "input" and not i.path}
    guards = tracer.guards(flat)
    seconds = time.perf_counter() - started
    return Capture(
        graph, trace.spec, constants, seconds, frozenset(trace.effect_paths), guards, held, least,
        most, tuple(found or ()), alike, remainder,
    )  # fmt: skip


@dataclass(frozen=True)
class _Made:
    """A program for every length of `shortest` to `longest` steps, with the last of its traces."""

    graph: Graph
    trace: Trace
    flat: Flat
    shortest: int
    longest: float
    every: int  # it holds for lengths that are so many steps apart

    @property
    def carries(self) -> bool:
        """Is anything carried from step to step?"""
        return any(op.init for op in self.graph.ops) or self.trace.declared > 0


@dataclass
class _Tracer(Axes):
    function: Callable[..., Any]
    environment: Environment
    args: Any
    kwargs: Any
    name: str
    tried: dict[tuple[tuple[int, ...], ...], Trace | None] = field(default_factory=dict)
    read: list[Tensor] = field(default_factory=list)
    by_line: tuple[CodeType, ...] = ()  # functions of which each line is noted, so that branches can be joined
    shortest: int = 0  # steps, of those that a captured program holds for
    longest: float = math.inf
    of_any_length: bool = False  # longer calls are to be among these
    needed: float = 0  # how long traces must be to show what lists keep from step to step, and where they are cut
    ways: Ways | None = None  # on which the branches of `by_line` lead
    every: int = 1  # how far apart the lengths of the traces are, where they have one remainder

    def argument_names(self) -> list[str]:
        """What the user calls each tensor argument."""
        try:
            bound = inspect.signature(self.function).bind(*self.args, **self.kwargs).arguments
        except (TypeError, ValueError):
            bound = {}
        known = {id(value): name for name, value in bound.items() if isinstance(value, Tensor)}
        leaves = [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        names: list[str] = []
        for index, leaf in enumerate(leaves):
            name = known.get(id(leaf), f"x{index}")
            names.append(name if name not in names else f"{name}_{index}")
        return names

    def trace(self, shapes: Shapes, limit: int) -> Trace:
        with trial():
            trace = run_trace(
                self.function, self.environment, self.args, self.kwargs, shapes, limit, by_line=self.by_line
            )
        self.read += trace.read
        if trace.drawn:
            raise CaptureError(
                "LR0404", "the program draws random numbers from Python or numpy",
                help="draw them outside, or with torch",
            )  # fmt: skip
        if any(not isinstance(v, Tensor) for v in trace.changed.values()):
            path = next(p for p, v in trace.changed.items() if not isinstance(v, Tensor))
            raise CaptureError(
                "LR0402", f"the call changes the Python value `{path}`, which later calls may read",
                help="keep counters and caches outside forward, or make them tensors",
            )  # fmt: skip
        return trace

    def guards(self, flat: Flat) -> tuple[tuple[str, Tensor], ...]:
        """The tensors that numbers were taken out of. Raises CaptureError where a later call could not look at them."""
        paths = {id(get()): path for path, get in reversed(self.environment.tensors.items())}
        written = {i.path for i in flat.inputs if i.name in flat.mutated}
        found: dict[str, Tensor] = {}
        for tensor in self.read:
            path = paths.get(id(tensor))
            if path is None or path in written or tensor.numel() > _READ_MOST:
                raise CaptureError(
                    "LR0302", f"the program takes numbers out of the tensor `{path}`, which it changes or which is large"
                    if path else "the program takes a number out of a tensor that no argument, attribute or name holds",
                    help="stay in tensors: a tensor of one number multiplies and adds as a number does",
                )  # fmt: skip
            found[path] = tensor.detach().clone()
        return tuple(found.items())

    def attempt(self, shapes: Shapes, limit: int = ATTEMPT_OPERATORS) -> Trace | None:
        """A trace, or None where the program cannot run at these sizes in `limit` operators; remembered by sizes."""
        key = tuple(shapes)
        if key not in self.tried:
            self.tried[key] = self.attempted(shapes, limit)
        return self.tried[key]

    def attempted(self, shapes: Shapes, limit: int) -> Trace | None:
        """The trace itself."""
        log = logging.getLogger("torch._subclasses.fake_tensor")
        level, log.disabled = log.disabled, True
        try:
            return self.trace(shapes, limit)
        except ProgramError:
            return None
        except CaptureError as error:
            if error.code != "LR0407":
                raise
        finally:
            log.disabled = level
        return None

    def of_every_length(self, axes: list[Axis]) -> _Made | CaptureError | Unreadable:
        """One program for every length along these axes, or why there is none."""
        held: CaptureError | Unreadable | None = None
        for tries in itertools.chain([self], self.branching(axes)):
            try:
                graph, trace, flat, held = tries.general(axes)
            except CaptureError as error:
                held = error
            if held is None:
                return _Made(graph, trace, flat, tries.shortest, tries.longest, tries.every)
        assert held is not None
        return held

    def general(self, axes: list[Axis]) -> tuple[Graph, Trace, Flat, Unreadable | None]:
        """One graph for every length, from traces at three; other sizes vary in the third."""
        reason: CaptureError | None = None
        hopeless: list[Groups] = []  # time axes along which two lengths alone are not one program
        for free, growing in self.choices(axes):
            if growing in hopeless:
                continue
            try:
                self.generalized(axes, {}, growing, self.steps[:2])
            except CaptureError as error:
                reason = error
                hopeless.append(growing)
                continue
            try:
                return self.generalized(axes, free, growing, self.steps)
            except CaptureError as error:
                reason = error
        assert reason is not None  # the last choice leaves no size free
        raise reason

    def branching(self, axes: list[Axis]) -> Iterator[_Tracer]:
        """The same with traces long enough to see what lists keep, and what branches on counters do, where there are some.

        Last, traces whose lengths have one remainder by the length of a ring or the period of a branch.
        """
        tracer = self
        while tracer.needed:  # the traces of each try say how long the next must be
            if tracer.needed > _LONGEST_HISTORY:
                return
            more = math.ceil(tracer.needed) - tracer.steps[0]
            tracer = replace(self, steps=tuple(n + more for n in tracer.steps), tried={}, needed=0)
            yield tracer
        self.steps = tracer.steps
        traces = [trace for t in (tracer, self) for trace in t.tried.values() if trace is not None]
        if not traces:
            return
        every = math.lcm(*traces[0].watch.histories.rings())
        if any(map(has_branches, traces[0].watch.codes)):
            tracer = replace(self, by_line=tuple(traces[0].watch.codes), tried={})
            short = [trace for n in self.steps[:2] if (trace := tracer.attempt(self.resized(axes, n))) is not None]
            loops = growing_loops(short) if len(short) == 2 else set()
            found = [branches(trace, loops) for trace in short]
            steps = length_for(*found) if loops and found[0] and len(found[0]) == len(found[1]) else None
            if steps is not None:
                reach = 1 + max({2, *traces[0].watch.histories.rings()})
                tracer.ways = Ways(found[0], found[1], (self.steps[0], self.steps[1]), reach)
                steps = max(steps, self.steps[0])
                tracer.steps = tuple(steps + n - STEPS[0] for n in STEPS)
                tried: Ways | None = None
                while tracer.ways is not tried:  # its reads may turn out to go further than was thought
                    tried, lengths = tracer.ways, tracer.ways.lengths_from(steps)
                    if lengths is None:
                        break
                    tracer = replace(tracer, steps=lengths, tried={}).that_runs(axes)
                    yield tracer
                every = math.lcm(every, period(found[0]))
        if 1 < every <= _LARGEST_REMAINDER:
            first = tracer.steps[0] + (steps_along(self.shapes, axes) - tracer.steps[0]) % every
            tracer = replace(tracer, steps=(first, first + every, first + 3 * every), every=every, tried={})
            yield tracer.that_runs(axes)

    def that_runs(self, axes: list[Axis]) -> _Tracer:
        """The same, or with as many rows as there are steps in tables that are as long as the call, if these may vary."""
        if self.attempt(self.resized(axes, self.steps[1])) is not None:
            return self
        length, longest = steps_along(self.shapes, axes), self.steps[-1] + APART
        like = {(i, d) for i, s in enumerate(self.shapes) for d in range(len(s)) if s[d] == length} - {*axes}
        longer = self.resized(like, longest) if like else self.shapes
        return replace(self, shapes=longer, tried={}, extended=frozenset(like))

    def generalized(
        self, axes: list[Axis], free: Groups, growing: Groups, lengths_of_time: tuple[int, ...]
    ) -> tuple[Graph, Trace, Flat, Unreadable | None]:
        """Traces at these lengths, re-rolled and merged. Raises CaptureError where they are not one program."""
        if lengths_of_time == self.steps and not self.extended <= set(itertools.chain(*free.values())):
            raise CaptureError("LR0412", "the program does not run at other lengths with tables as long as these")
        call = math.inf if self.of_any_length or growing else steps_along(self.shapes, axes)
        traces: list[Trace] = []
        self.shortest, self.longest = 0, math.inf
        lengths: list[dict[str, int]] = []
        counts: list[dict[object, int]] = []
        limit = ATTEMPT_OPERATORS
        more = {self.shapes[i][d] for i, d in axes}
        for turn, steps in enumerate(lengths_of_time):
            shapes = self.resized(axes, steps)
            for group, others in zip(growing.values(), OTHER_STEPS, strict=False):
                shapes = self.resized(group, others[turn % len(others)] + self.steps[0] - STEPS[0], shapes)
            if steps == self.steps[-1]:
                shapes = self.varied(free, shapes)
            trace = self.attempt(shapes, limit)
            at = {"T": steps} | {n: shapes[group[0][0]][group[0][1]] for n, group in (free | growing).items()}
            if trace is None:
                raise CaptureError("LR0412", f"the program does not run at {at}")
            limit = 3 * len(trace.graph.nodes) + 100
            traces.append(trace)
            lengths.append(at)
            counts.append({n - min(more): steps + n - min(more) for n in more} | {name: at[name] for name in growing})
        kept, longer = _remembered(traces)
        self.needed = math.ceil(longer * self.steps[0]) + 1 if longer else 0
        if self.needed:
            raise CaptureError(
                "LR0405",
                f"a list keeps {kept} values from step to step, which traces of {lengths_of_time[0]} steps do not show",
            )
        flats = [_flat(trace, self.environment, self.argument_names()) for trace in traces]
        if len({len(spans(flat.ops)) for flat in flats}) > 1:
            raise nested(flats[-1].ops)
        watches = [trace.watch for trace in traces]
        cuts, places = cuts_of_traces(watches, flats, lengths_of_time)
        for cut in cuts:
            self._within(cut, lengths_of_time, call)
        if self.by_line:
            loops = growing_loops(traces)
            found = [branches(trace, loops) for trace in traces]
            for flat, several in zip(flats, found, strict=True):
                join(flat, several)
            self.shortest = max(self.shortest, shortest(found, lengths_of_time))
        if not all(_is_constant(name, flats) for name in flats[0].captured):
            raise CaptureError("LR0412", "a tensor that the program makes of numbers is another at each length")
        loops_found = list(map(without_idle, flats, over_time(flats, counts)))
        before, late = zip(
            *(check_ends(flat, repeats, self.every) for flat, repeats in zip(flats, loops_found, strict=True)),
            strict=True,
        )
        apart = any(late) or any(map(depends_on_length, zip(*before, strict=False)))
        differing = numbers_of_length(flats, lengths)
        for flat in flats:
            flat.sized = dict.fromkeys(differing)
        try:
            graphs = [
                reroll(flat, repeats, tables=False, name=self.name)
                for flat, repeats in zip(flats, loops_found, strict=True)
            ]
        except CaptureError as error:
            unread = unreadable(watches, places.union(*(flat.read for flat in flats)))
            if error.code == "LR0406" and unread is not None:
                raise _unread(unread) from error  # a counter makes each step another
            raise
        apart = apart or (_has_numbers_of_length(flats) and any(map(sets_apart, flats, loops_found)))
        if apart or any(flat.guessed for flat in flats):
            self.shortest = max(self.shortest, lengths_of_time[0])  # in shorter calls these steps may go another way
        if self.ways is not None and lengths_of_time == self.steps:
            delays = [len(op.init) for graph in graphs for op in graph.ops]
            reach = max(flat.reach for flat in flats)
            self.ways = self.ways.widened(max(reach, 1 + max(delays, default=0)), reach > 0)
            least = self.ways.holds_from(self.steps, self.every)
            if least is None:
                raise CaptureError(
                    "LR0412", f"branches lead to ways at other lengths that {self.steps} steps do not go"
                )
            self.shortest = max(self.shortest, least)
        places = places.union(*(flat.read for flat in flats))
        graph = generalize(graphs, lengths)
        for cut in cuts_of_numbers(flats, lengths_of_time):
            self._within(cut, lengths_of_time, call)
        if any(flats[0].sized.values()):  # shorter calls may divide by zero
            self.shortest = max(self.shortest, lengths_of_time[0])
        if lengths_of_time == self.steps:
            far, least_sized = cut_of_sizes(graph, lengths, tables=not self.of_any_length)
            self.shortest = max(self.shortest, least_sized)
            if far is not None:
                self._within(far, lengths_of_time, call)
        return graph, traces[-1], flats[-1], unreadable(watches, places)

    def _within(self, cut: Cut, lengths: tuple[int, ...], call: float) -> None:
        """Hold the program to lengths on this side of a cut. Raises CaptureError where traces, or they and the call, are on both."""
        if cut.following is not None and lengths[0] >= cut.following:
            self.shortest = max(self.shortest, cut.following)
            return
        self.longest = min(self.longest, cut.last)
        if max(lengths[-1], call) > cut.last:
            self.needed = max(self.needed, cut.following or math.inf)
            raise CaptureError("LR0412", f"calls of more than {cut.last} steps are another program")

    def own_length(self, axes: list[Axis], reason: CaptureError | Unreadable) -> tuple[Graph, Trace, Flat]:
        """The program at the sizes of this call, steps that differ becoming tables over time.

        Loops run as often as the time axes are long; over any size where no axis is known to be time. Raises the reason
        why it is not captured for every length where a loop's steps would stand in it one by one.
        """
        trace = self.trace(self.shapes, OWN_LENGTH_OPERATORS)
        flat = _flat(trace, self.environment, self.argument_names())
        sizes = {n for s in self.shapes for n in s} | {
            n for i in flat.inputs for n in i.type.shape if isinstance(n, int)
        }
        if axes:
            _, growing = self.other_sizes(axes)
            sizes = {self.shapes[i][d] for i, d in itertools.chain(axes, *growing.values())}
        lengths = sorted((n for n in sizes if n > 3), reverse=True)
        repeats = find_repeats(flat, lengths)
        # a loop may take several positions a step: range(0, n, 2), or do something else at every third
        for parts in range(2, 9):
            if not repeats:
                repeats = find_repeats(flat, sorted({-(-n // parts) for n in lengths if n >= 4 * parts}, reverse=True))
        if axes and repeats and is_unrolled(flat, repeats, steps_along(self.shapes, axes)):
            raise reason if isinstance(reason, CaptureError) else _unread(reason)
        try:
            return reroll(flat, repeats, tables=True, name=self.name), trace, flat
        except CaptureError as error:
            raise (None if axes else _layer(flat)) or error from None


def _remembered(traces: list[Trace]) -> tuple[int, float]:
    """The longest list whose first values are not all gone at the end of a trace; how many times longer it must be."""
    first, *others = (trace.watch.histories for trace in traces)
    found = {k: v for k, v in first.hidden().items() if all(o.lengths.get(k, v[0]) == v[0] for o in others)}
    return max(found.values(), key=lambda kept: kept[1], default=(0, 0.0))


def _has_numbers_of_length(flats: list[Flat]) -> bool:
    """Is a function of time in the loops another function at another length?"""
    return any(
        not a.is_as(b)
        for several in zip(*(flat.timed for flat in flats), strict=True)
        for (_, a), (_, b) in itertools.pairwise(several)
    )


def _is_constant(name: str, flats: list[Flat]) -> bool:
    """Is the tensor of this name the same in all traces, or one that each call looks up?"""
    first, *others = (flat.captured.get(name) for flat in flats)
    is_looked_up = any(i.path for i in flats[0].inputs if i.name == name)
    return is_looked_up or all(first is other or _is_same(first, other) for other in others)


def _is_same(first: Any, other: Any) -> bool:
    """Have the tensors the same type and numbers?"""
    return (
        isinstance(other, Tensor)
        and (first.dtype, first.shape, first.device) == (other.dtype, other.shape, other.device)
        and bool(((first == other) | ((first != first) & (other != other))).all())
    )


def _unread(what: Unreadable) -> CaptureError:
    return CaptureError(
        "LR0405", f"what `{what.name}` does at other steps or lengths cannot be read from the code",
        file=what.source.file, line=what.source.line, help="index with t, and let every step do the same",
    )  # fmt: skip


def _too_short(steps: int) -> CaptureError:
    return CaptureError("LR0412", f"calls of fewer than {steps} steps do not run every branch")


def _flat(trace: Trace, environment: Environment, names: list[str]) -> Flat:
    flat = flatten(trace, environment, names)
    flat.outputs = [*flat.outputs, *(Use(v) for v in flat.mutated.values())]
    return flat


def _layer(flat: Flat) -> CaptureError | None:
    """The reason where the only recurrence is inside an operator, nn.LSTM say."""
    kinds, reason, help_ = REFUSED["LR1102"]
    op = next((op for op in flat.ops if op.kind in kinds.split()), None)
    return None if op is None else CaptureError("LR1102", reason.format(op.kind), help=help_, **where(op))


def _with_effects(graph: Graph, trace: Trace, flat: Flat) -> Graph:
    """Split the outputs into what the call returns and what it leaves behind."""
    returned = trace.spec.num_leaves
    paths = {i.name: i.path for i in graph.inputs}
    targets = [
        *trace.effect_paths,
        *(paths[name] or f"argument:{flat.arguments.index(name)}" for name in flat.mutated),
    ]
    left = graph.outputs[returned:]
    effects = tuple((path, use) for path, use in zip(targets, left, strict=True) if isinstance(use, Use))
    return replace(graph, outputs=graph.outputs[:returned], effects=effects)
