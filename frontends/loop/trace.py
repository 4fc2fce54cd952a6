"""Trace: one call on tensors without data, as a list of operators with the user's lines.

The operators are those of `make_fx` before dispatch, so `linear`, `einsum` and in-place writes are
still visible; nothing is computed, whatever the sizes. The cost is some 0.3 ms an operator.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import re
import sys
import sysconfig
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import linrec
from linrec.errors import CaptureError
from linrec.frontends.loop.composites import composites
from linrec.frontends.loop.declared import numbers
from linrec.frontends.loop.environment import Environment, Restored, registers
from linrec.frontends.loop.histories import Histories
from linrec.ir import Source

Scalar = int | float | bool | str | None
_PLAIN = (bool, int, float, complex, str, list, np.ndarray)
_PACKAGE = Path(linrec.__file__).parent
_HIDDEN = tuple(
    f"{folder}/"
    for folder in (_PACKAGE, Path(__file__).parents[1], Path(torch.__file__).parent, Path(np.__file__).parent)
)
_STANDARD = f"{sysconfig.get_path('stdlib')}/"
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_LAYERS = f"{_PACKAGE}/nn/"
_METADATA = frozenset({
    "__get__", "__len__", "__hash__", "size", "dim", "ndimension", "stride", "numel", "nelement", "element_size",
    "storage_offset", "get_device", "type", "is_floating_point", "is_complex", "is_signed", "is_contiguous", "is_pinned",
    "is_inference", "is_conj", "is_neg", "is_same_size", "is_set_to", "is_tensor", "is_storage", "is_grad_enabled",
})  # fmt: skip


@dataclass
class Watch:
    """What the user's frames looked like at each operator: Python values by (code, name)."""

    values: dict[tuple[CodeType, str], list[Scalar]] = field(default_factory=dict)
    objects: dict[tuple[CodeType, str], Any] = field(default_factory=dict)
    codes: dict[CodeType, dict[str, Any]] = field(default_factory=dict)
    numbers: dict[tuple[CodeType, int], set[str]] = field(default_factory=dict)  # names of numbers, by line
    histories: Histories = field(default_factory=Histories)
    returned: dict[CodeType, Any] = field(default_factory=dict)  # by the user's functions, the last time
    whole: dict[tuple[Source, int], tuple[slice, int]] = field(
        default_factory=dict
    )  # slices that took all, of how many

    def see(self, code: CodeType, line: int, names: Mapping[str, Any], space: dict[str, Any]) -> None:
        """Note what the names of a frame hold."""
        self.codes.setdefault(code, space)
        held = self.numbers.setdefault((code, line), set())
        for name, value in names.items():
            if isinstance(value, Tensor):
                self.objects[code, name] = value
                continue
            held.add(name)
            if isinstance(value, int | float | bool | str | type(None)):
                seen = self.values.setdefault((code, name), [])
                if not seen or seen[-1] is not value:
                    seen.append(value)
            else:
                self.objects[code, name] = value
                self.histories.see((code, name), value)


@dataclass(frozen=True)
class Frame:
    """What the function that called an operator held: Python numbers by name; `at` lines had run before, if noted."""

    code: CodeType
    values: dict[str, int | float]
    at: int = 0


@dataclass(frozen=True)
class Line:
    """A line of the user's that begins to run: in which call of its function, how deep, and the numbers held then."""

    code: CodeType
    call: int
    depth: int
    line: int
    values: dict[str, int | float]


Place = tuple[str, int, int, int]  # file, line, first and last column of an expression


def place_of(code: CodeType, node: ast.AST) -> Place:
    """Where an expression of a function's stands."""
    columns = getattr(node, "col_offset", -1), getattr(node, "end_col_offset", -1)
    return code.co_filename, getattr(node, "lineno", 0), *columns


@dataclass
class Trace:
    """One call: fx nodes, the user's lines for each, and what it did to attributes."""

    graph: fx.Graph
    module: fx.GraphModule
    stacks: dict[str, tuple[Source, ...]]
    arguments: list[Any]
    spec: pytree.TreeSpec
    watch: Watch
    changed: dict[str, Any]
    drawn: bool
    effect_paths: list[str]
    frames: dict[str, Frame]
    read: list[Tensor]  # tensors of outside that numbers were taken out of
    lines: list[Line]  # in the order in which they ran, where they were asked for

    @property
    def declared(self) -> int:
        """The steps of declared scans, of which one was traced."""
        return sum(n.args[2] for n in self.graph.nodes if n.target is torch.ops.linrec.element.default)

    @property
    def work(self) -> int:
        """How much the call does: operators and declared steps."""
        return len(self.graph.nodes) + self.declared


def is_user_file(name: str) -> bool:
    """May this file hold the program's loops? Not torch's, the standard library's or ours."""
    if name.startswith(_LAYERS):
        return True
    installed = (
        "/site-packages/" in name or "/dist-packages/" in name
    )  # which may lie within the standard library's folder
    return not (
        name.startswith(_HIDDEN) or (name.startswith(_STANDARD) and not installed) or name.startswith("<frozen")
    )


def declared_scan(function: Any) -> Any:
    """torch's own scan, which exported programs hold, as a declared one; any other function as it is."""
    if function is not torch.ops.higher_order.scan:
        return function
    from linrec.frontends.step import operator_scan  # which needs this package

    return operator_scan


def run_trace(
    function: Callable[..., Any],
    environment: Environment,
    args: Any,
    kwargs: Any,
    shapes: list[tuple[int, ...]],
    limit: int,
    *,
    by_line: Collection[CodeType] = (),
) -> Trace:
    """Trace `function(*args, **kwargs)` with the tensor arguments resized to `shapes`.

    Of the functions in `by_line`, each line is noted.

    Raises CaptureError where the program needs values, and whatever the program itself raises.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    with mode:
        fakes = [
            torch.empty(s, dtype=x.dtype, device=x.device, requires_grad=x.requires_grad)
            for x, s in zip(tensors, shapes, strict=True)
        ]
    watch = Watch()
    frames = _Frames(watch, by_line)
    recorder = _Recorder(limit, watch, frames.lines)
    out_spec: list[pytree.TreeSpec] = []
    effect_paths: list[str] = []
    restored = Restored(environment)

    def call(*tensors: Tensor) -> list[Any]:
        given = iter(tensors)
        again = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        a, k = pytree.tree_unflatten(again, spec)
        recorder.outermost = sys._getframe().f_code
        with recorder, frames:
            result = function(*a, **k)
        flat, tree = pytree.tree_flatten(result)
        out_spec.append(tree)
        return [*flat, *_assigned(environment, restored, effect_paths)]

    with _tracing, restored, opaque_functions(), _plain_errors(), scans_numbered():
        traced = make_fx(call, composites(), "fake", _allow_non_fake_inputs=True, pre_dispatch=True)
        module = traced(*fakes)
    return Trace(
        module.graph,
        module,
        recorder.stacks,
        leaves,
        out_spec[-1],
        recorder.watch,
        restored.changed,
        restored.drawn,
        effect_paths,
        recorder.frames,
        recorder.read,
        frames.lines,
    )


def _assigned(environment: Environment, restored: Restored, paths: list[str]) -> list[Tensor]:
    """Tensors that the call stored in attributes: they become outputs, written back after each run."""
    new: list[Tensor] = []
    paths.clear()
    for path, module in environment.modules.items():
        before = restored._attributes[path]
        for space, old in list(zip(registers(module), before, strict=True))[:3]:
            for name, value in space.items():
                if value is not old.get(name) and isinstance(value, Tensor):
                    paths.append(f"{path}.{name}" if path else name)
                    new.append(value)
    return new


class _Recorder(TorchFunctionMode):
    """Sees each call into torch, notes who made it and what the frames held."""

    def __init__(self, limit: int, watch: Watch, lines: list[Line]) -> None:
        super().__init__()
        self.limit, self.watch, self.lines = limit, watch, lines
        self.stacks: dict[str, tuple[Source, ...]] = {}
        self.read: list[Tensor] = []
        self.frames: dict[str, Frame] = {}
        self._frame: Frame | None = None  # the innermost of the user's at the call that is made
        self._positions: dict[CodeType, list[Any]] = {}
        self.outermost: CodeType | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frames = sys.gettrace()
        sys.settrace(None)  # what torch calls by itself is none of the user's
        try:
            return self._called(func, args, kwargs)
        finally:
            sys.settrace(frames)

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        mode = get_proxy_mode() or _pre_dispatch_mode()
        graph = mode.tracer.graph if mode is not None else None
        before = graph._root._prev if graph is not None else None
        stack = self._look(sys._getframe(1))
        held = self._frame
        if func == _DATA:  # its value has no node of its own; `detach` is what it computes
            func = Tensor.detach
        if func is Tensor.__getitem__ or func is Tensor.__setitem__:
            self.watch.whole |= {
                (stack[-1], axis): (part, size) for axis, part, size in _taken_whole(*args[:2]) if stack
            }
        func = declared_scan(func)
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException as error:
            raise _needs_value(getattr(func, "__name__", ""), stack) from error
        except RuntimeError as error:
            if "value out of a tracing tensor" not in str(error):
                raise
            raise _needs_value(getattr(func, "__name__", ""), stack) from error
        plain = isinstance(result, _PLAIN) and not any(isinstance(x, Tensor) for x in pytree.tree_leaves(result))
        if plain and getattr(func, "__name__", "") not in _METADATA:
            # a Python value came out of tensors of outside, as through `item()`
            given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.read += [x for x in given if not isinstance(x, FakeTensor)]
        if graph is not None:
            node = graph._root._prev
            while node is not before and node.op != "root":
                self.stacks.setdefault(node.name, stack)
                if held is not None:
                    self.frames.setdefault(node.name, held)
                node = node._prev
            if len(self.stacks) > self.limit:
                raise CaptureError("LR0407", f"the program has more than {self.limit} operators at this length")
        return result

    def _look(self, frame: FrameType | None) -> tuple[Source, ...]:
        stack: list[Source] = []
        self._frame = None
        while frame is not None and frame.f_code is not self.outermost:
            code = frame.f_code
            if is_user_file(code.co_filename):
                stack.append(self._source(code, frame))
                names = frame.f_locals
                if self._frame is None:
                    self._frame = Frame(code, _numbers_of(names), len(self.lines))
                self.watch.see(code, frame.f_lineno, names, frame.f_globals)
            frame = frame.f_back
        return tuple(reversed(stack))

    def _source(self, code: CodeType, frame: FrameType) -> Source:
        if code not in self._positions:
            self._positions[code] = list(code.co_positions())
        line, _, start, end = self._positions[code][frame.f_lasti // 2]
        return Source(code.co_filename, frame.f_lineno, start or 0, end or 0 if line == frame.f_lineno else 0)


class _Frames:
    """Sees what the names of each of the user's frames hold when it ends, and notes each line that runs of some functions.

    It takes the place of a debugger; one that is at work is back afterwards.
    """

    def __init__(self, watch: Watch, by_line: Collection[CodeType]) -> None:
        self.watch, self.by_line = watch, frozenset(by_line)
        self.lines: list[Line] = []
        self._calls: dict[FrameType, tuple[int, int]] = {}  # frames are held, so that each is itself
        self._is_user: dict[str, bool] = {}

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._called)

    def __exit__(self, *raised: object) -> None:
        sys.settrace(self._before)
        self._calls.clear()

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        is_user = self._is_user.get(code.co_filename)
        if is_user is None:
            is_user = self._is_user[code.co_filename] = is_user_file(code.co_filename)
        if code not in self.by_line:
            frame.f_trace_lines = False
            return self._ended if is_user else None
        caller = frame.f_back
        while caller is not None and caller not in self._calls:
            caller = caller.f_back
        self._calls.setdefault(frame, (len(self._calls), 1 + self._calls[caller][1] if caller else 0))
        return self._ran

    def _ran(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            call, depth = self._calls[frame]
            self.lines.append(Line(frame.f_code, call, depth, frame.f_lineno, _numbers_of(frame.f_locals)))
            return self._ran
        self._ended(frame, event, arg)
        return self._ran

    def _ended(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "return":
            self.watch.see(frame.f_code, frame.f_lineno, frame.f_locals, frame.f_globals)
            self.watch.returned[frame.f_code] = arg
        return self._ended


def _taken_whole(tensor: Tensor, index: Any) -> Iterator[tuple[int, slice, int]]:
    """Axes of a tensor whose slices have bounds, and take all there is."""
    parts = index if isinstance(index, tuple) else (index,)
    at = 0
    for part in parts:
        if part is Ellipsis:
            at = tensor.dim() - sum(p is not None and p is not Ellipsis for p in parts) + at
            continue
        bounds = [b for b in (part.start, part.stop) if type(b) is int] if isinstance(part, slice) else []
        if any(bounds) and at < tensor.dim():
            size = tensor.shape[at]
            if part.indices(size) == (0, size, 1):
                yield at, part, size
        at += part is not None


def _numbers_of(names: Mapping[str, Any]) -> dict[str, int | float]:
    return {k: v for k, v in names.items() if isinstance(v, int | float)}


def _pre_dispatch_mode() -> Any:
    find: Any = torch._ops._get_dispatch_mode_pre_dispatch
    return find(torch._C._TorchDispatchModeKey.PROXY)


_APPLY = torch.autograd.Function.__dict__["apply"]
_capturing: set[int] = set()  # the threads that trace; others go on as if nothing happened
_lock = threading.Lock()
_tracing = threading.RLock()  # make_fx keeps what it traces in a global: two threads at once would leave it set


def _refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
    if threading.get_ident() not in _capturing:
        return _APPLY.__func__(cls, *args, **kwargs)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    raise CaptureError(
        "LR0408",
        f"the custom autograd function `{cls.__name__}` has a backward of its own, which a graph of operators would lose",
        file=frame.f_code.co_filename if frame else None,
        line=frame.f_lineno if frame else None,
        help="write it with plain operators, or call it outside the compiled part",
    )


@contextmanager
def scans_numbered() -> Iterator[None]:
    """Scans are recorded by their step inside this context."""
    token = numbers.set(itertools.count())
    try:
        yield
    finally:
        numbers.reset(token)


@contextmanager
def opaque_functions() -> Iterator[None]:
    """A custom autograd Function would be inlined and its backward lost: refuse it instead, in this thread alone."""
    mine = threading.get_ident()
    with _lock:
        nested = mine in _capturing
        _capturing.add(mine)
        setattr(torch.autograd.Function, "apply", classmethod(_refuse))  # noqa: B010 - a method may not be assigned to
    try:
        yield
    finally:
        with _lock:
            if not nested:
                _capturing.discard(mine)
            if not _capturing:  # the last one out restores it
                setattr(torch.autograd.Function, "apply", _APPLY)  # noqa: B010


def _needs_value(function: str, stack: tuple[Source, ...]) -> CaptureError:
    """Why a number cannot be had: a branch, a count of steps, or another number taken out of a tensor."""
    place = stack[-1] if stack else Source("", 0)
    file, line = (place.file, place.line) if stack else (None, None)
    if function == "__bool__":
        return CaptureError(
            "LR0301", "the program needs the value of a tensor to go on: it branches on it (`bool`)", file=file, line=line,
            help="compute the condition as a tensor and choose with torch.where(c, a, b)",
        )  # fmt: skip
    if re.search(r"\brange\(", linecache.getline(place.file, place.line)):
        return CaptureError(
            "LR0303", "the number of steps is computed from the values of a tensor", file=file, line=line,
            help="run over the whole axis, and hold the state with torch.where(t < lengths, new, old)",
        )  # fmt: skip
    return CaptureError(
        "LR0302", f"the program takes a number out of a tensor (`{function.strip('_')}`)", file=file, line=line,
        help="stay in tensors: a tensor of one number multiplies and adds as a number does",
    )  # fmt: skip


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn torch's ways of saying 'this needs data' into one code each."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        file, line = user_place(error)
        raise CaptureError(
            "LR0301", "the program needs the value of a tensor to go on", file=file, line=line,
            help="compute the condition as a tensor and choose with torch.where(c, a, b)",
        ) from error  # fmt: skip
    except RuntimeError as error:
        if "numpy()" not in str(error) and "data pointer" not in str(error):
            raise
        file, line = user_place(error)
        raise CaptureError(
            "LR0302",
            "the program takes numbers out of a tensor, through numpy or a pointer",
            file=file,
            line=line,
            help="stay in torch: its operators have the same names",
        ) from error


def user_place(error: BaseException) -> tuple[str | None, int | None]:
    """The innermost line of the user's in a traceback."""
    place: tuple[str | None, int | None] = (None, None)
    trace = error.__traceback__
    while trace is not None:
        if is_user_file(trace.tb_frame.f_code.co_filename):
            place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return place
