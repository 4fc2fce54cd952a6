"""Flatten: fx nodes to ops in single assignment, in-place writes removed.

A write to a tensor gives a new value of it; a write to a view gives a new value of what it views,
by the scatter that belongs to the view, and every other view of that tensor is made again when next
read. `select(select_scatter(y, v, d, i), d, j)` is `v` if i = j and reads `y` if not, so a loop
that keeps its states in an output array becomes one that keeps them in values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from linrec.errors import CaptureError
from linrec.frontends.loop.declared import MARKS, PREFIX
from linrec.frontends.loop.environment import Environment
from linrec.frontends.loop.trace import Frame, Place, Trace, Watch
from linrec.ir import Arg, Atom, Input, Op, Source, Type, Use, uses_in

if TYPE_CHECKING:
    from linrec.frontends.loop.branches import Branch, Path
    from linrec.frontends.loop.coefficients import Coefficient

_SHORT = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.complex64: "c64", torch.complex128: "c128", torch.int64: "i64", torch.int32: "i32",
    torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip

# how a new value of a view becomes a new value of what it views: same arguments, after (base, new)
_SCATTER = {"select": "select_scatter", "slice": "slice_scatter", "diagonal": "diagonal_scatter"}
_RESHAPED = frozenset({"view", "reshape", "squeeze", "unsqueeze", "_unsafe_view", "flatten", "unflatten", "view_as"})
_TURNED = frozenset({"transpose", "t", "permute"})
_IDLE = frozenset({"to", "type_as", "contiguous", "resolve_conj", "resolve_neg"})  # the argument itself, if it will do
_RESIZING = frozenset({"t_", "transpose_", "squeeze_", "unsqueeze_"})  # give a tensor another shape in place


class Split(NamedTuple):
    """An operator that makes several values of one, by a number: how long it was, or how many are read; in how many parts."""

    kind: str
    number: int
    length: int
    parts: int


@dataclass
class Flat:
    """A straight-line program: `stacks` has the user's lines of each op, `values` the captured tensors."""

    inputs: list[Input] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    outputs: list[Arg] = field(default_factory=list)
    stacks: dict[str, tuple[Source, ...]] = field(default_factory=dict)
    frames: dict[str, Frame] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    read: set[Place] = field(default_factory=set)  # expressions of counters that re-rolling read as functions of time
    captured: dict[str, Any] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    mutated: dict[str, str] = field(default_factory=dict)  # input name -> value it was left with
    timed: list[tuple[object, Coefficient]] = field(default_factory=list)  # which op has a function of time
    sized: dict[object, Coefficient | None] = field(
        default_factory=dict
    )  # ops with a number that the length makes another
    branches: list[Branch] = field(default_factory=list)  # whose both arms are in every step
    paths: dict[str, Path] = field(default_factory=dict)  # by which branches an op is reached
    absent: set[str] = field(default_factory=set)  # ops that did not run: only their kind and place have a meaning
    splits: list[Split] = field(default_factory=list)
    guessed: bool = False  # steps that do not read anything at some place are taken to read another step's
    reach: int = 0  # so many turns from an end, something reads what not all turns make
    pieces: set[str] = field(default_factory=set)  # elements that stand where they are first read, made before the loop


@dataclass
class _View:
    """A value that shares its memory with another: what makes it of that one, as that was at some version."""

    base: fx.Node
    kind: str
    args: tuple[Arg, ...]
    version: int
    attrs: tuple[tuple[str, Arg], ...] = ()


def _memory(value: Any) -> int | None:
    """What tells the memory of tensors apart."""
    is_plain = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage()._cdata if is_plain else None


_SMALL = 4096  # numbers in a constant that is compared by content


def _is_literal(node: fx.Node) -> bool:
    """Is it `torch.tensor(...)` of numbers, of which every reader takes a copy?"""
    return all("lift_fresh" in str(reader.target) for reader in node.users)


def _content(tensor: Tensor) -> object:
    """What tells constants apart: `torch.tensor([...])` in a loop makes an equal one in every step."""
    if type(tensor) is not Tensor or tensor.numel() > _SMALL or tensor.is_complex():
        return id(tensor)
    return tensor.dtype, tensor.device, tuple(tensor.shape), repr(tensor.tolist())


class _Flattener:
    def __init__(self, trace: Trace, environment: Environment, names: list[str]) -> None:
        self.trace = trace
        self.flat = Flat(arguments=names, watch=trace.watch)
        self.value: dict[fx.Node, Arg] = {}
        self.views: dict[fx.Node, _View] = {}
        self.version: dict[fx.Node, int] = {}
        self.made: dict[str, Op] = {}
        self.paths = {id(get()): path for path, get in reversed(environment.tensors.items())}
        self.environment = environment
        self.by_tensor: dict[object, Arg] = {}
        self.sources: dict[fx.Node, str] = {}  # captured tensors as the trace sees them
        self.fresh = 0

    def run(self) -> Flat:
        placeholders = [n for n in self.trace.graph.nodes if n.op == "placeholder"]
        for name, node in zip(self.flat.arguments, placeholders, strict=True):
            self.flat.inputs.append(Input(name, type_of(node.meta["val"])))
            self.value[node] = Use(name)
        for node in self.trace.graph.nodes:
            if node.op == "get_attr":
                self.value[node] = captured = self._captured(getattr(self.trace.module, node.target), _is_literal(node))
                if isinstance(captured, Use):
                    self.sources[node] = captured.name
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                results = node.args[0]
                self.flat.outputs = [self.arg(a) for a in (results if isinstance(results, list | tuple) else [results])]
        for node, start in (self.sources | dict(zip(placeholders, self.flat.arguments, strict=True))).items():
            now = self.read(node)
            if isinstance(now, Use) and now.name != start:
                self.flat.mutated[start] = now.name
        return self.flat

    def _captured(self, tensor: Any, literal: bool) -> Arg:
        if not isinstance(tensor, Tensor):
            raise CaptureError("LR0409", f"the program holds a {type(tensor).__name__} that is no tensor")
        if isinstance(tensor, FakeTensor):
            raise CaptureError(
                "LR0409", "a value leaves the trace and comes back, as through `.data`, which no graph shows",
                help="stay with torch's operators: `detach()` for `.data`",
            )  # fmt: skip
        path = self.paths.get(id(tensor))
        key = _content(tensor) if literal and path is None else id(tensor)
        if key not in self.by_tensor:
            role = self.environment.role(path) if path is not None else "captured"
            name = _identifier(path) if path is not None else f"c{len(self.by_tensor)}"
            while any(i.name == name for i in self.flat.inputs):
                name += "_"
            self.flat.inputs.append(Input(name, type_of(tensor), role, path or ""))  # type: ignore[arg-type]
            self.flat.captured[name] = tensor
            self.by_tensor[key] = Use(name)
        return self.by_tensor[key]

    # reading -------------------------------------------------------------------------------------

    def read(self, node: fx.Node) -> Arg:
        view = self.views.get(node)
        if view is not None:
            base = self.read(view.base)
            if view.version != self.version.get(view.base, 0):
                view.version = self.version[view.base]
                self.value[node] = self.emit(view.kind, (base, *view.args), view.attrs, node.meta["val"], node)
                self.version[node] = self.version.get(node, 0) + 1
        return self.value[node]

    def arg(self, value: Any) -> Arg:
        if isinstance(value, fx.Node):
            return self.read(value)
        if isinstance(value, list | tuple):
            return tuple(self.arg(item) for item in value)
        if isinstance(value, bool | int | float | complex | str | type(None)):
            return value
        if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
            return Atom(str(value).replace("torch.", ""))
        raise CaptureError("LR0409", f"an operator has a {type(value).__name__} as argument")

    # making --------------------------------------------------------------------------------------

    def emit(
        self, kind: str, args: tuple[Arg, ...], attrs: tuple[tuple[str, Arg], ...], value: Any, node: fx.Node
    ) -> Arg:
        args = self._positive(kind, args)
        if kind == "select":
            base, element = self._past_writes(args)
            if element is not None:
                return element
            args = (base, *args[1:])
        if kind == "select_scatter":
            args = (self._before(args), *args[1:])
        self.fresh += 1
        name = f"v{self.fresh}"
        type_ = tuple(type_of(v) for v in value) if isinstance(value, list | tuple) else type_of(value)
        stack = self.trace.stacks.get(node.name, ())
        op = Op(name, kind, args, attrs, type_, source=stack[-1] if stack else None)
        self.flat.ops.append(op)
        self.flat.stacks[name] = stack
        if node.name in self.trace.frames:
            self.flat.frames[name] = self.trace.frames[node.name]
        self.made[name] = op
        return Use(name)

    def _positive(self, kind: str, args: tuple[Arg, ...]) -> tuple[Arg, ...]:
        """Count a dimension and an index from the front."""
        at = {"select": 1, "select_scatter": 2}.get(kind)
        if at is None or not isinstance(args[0], Use):
            return args
        shape = self._type(args[0]).shape
        dim, index = args[at], args[at + 1]
        if isinstance(dim, int) and isinstance(index, int):
            dim, length = dim % len(shape), shape[dim]
            assert isinstance(length, int)
            index = index + length if index < 0 else index
        return (*args[:at], dim, index)

    def _type(self, use: Use) -> Type:
        made = self.made.get(use.name)
        found = made.type if made is not None else next(i.type for i in self.flat.inputs if i.name == use.name)
        assert isinstance(found, Type)
        return found

    def _past_writes(self, args: tuple[Arg, ...]) -> tuple[Arg, Arg | None]:
        """What to read instead of an array written element by element: (array, or the element itself)."""
        base, dim, index = args
        while isinstance(base, Use) and base.name in self.made:
            op = self.made[base.name]
            if op.kind == "slice_scatter" and len(op.args) == 5 and op.args[2] == dim and isinstance(index, int):
                start, stop = op.args[3:5]
                if not isinstance(start, int) or not isinstance(stop, int) or start <= index < stop or start < 0 > stop:
                    break
                base = op.args[0]
                continue
            if op.kind != "select_scatter" or op.args[2] != dim or not isinstance(index, int):
                break
            if op.args[3] == index:
                return base, op.args[1]
            base = op.args[0]
        return base, None

    def _before(self, args: tuple[Arg, ...]) -> Arg:
        """The array before a write to the same element, which this one replaces."""
        base = args[0]
        last = self.made.get(base.name) if isinstance(base, Use) else None
        return (
            last.args[0] if last is not None and last.kind == "select_scatter" and last.args[2:] == args[2:] else base
        )

    def _call(self, node: fx.Node) -> None:
        if not isinstance(node.target, torch._ops.OpOverload):
            return self._other(node)
        kind = node.target._schema.name.partition("::")[2]
        if node.target.namespace == "linrec" and kind in MARKS:
            args = tuple(self.arg(a) for a in node.args)
            self.value[node] = self.emit(PREFIX + kind, args, (), node.meta["val"], node)
            return
        if node.target.namespace != "aten":
            raise CaptureError("LR0410", f"the operator {node.target} is not one of torch's own")
        value = node.meta["val"]
        written = [
            i for i, a in enumerate(node.target._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        if written:
            return self._write(node, kind, value)
        if kind == "as_strided":
            raise CaptureError(
                "LR0411", "`as_strided` reads memory, which values do not have", **self._place(node),
                help="write it with slices, unfold or reshape",
            )  # fmt: skip
        source = node.args[0] if node.args else None
        if kind in _IDLE and isinstance(source, fx.Node) and _is_itself(node, source.meta["val"], value):
            self.value[node] = self.read(source)
            self.views[node] = _View(source, "alias", (), self.version.get(source, 0))
            return
        args = tuple(self.arg(a) for a in node.args)
        attrs = tuple((k, self.arg(a)) for k, a in node.kwargs.items() if not (k == "pin_memory" and not a))
        self.value[node] = self.emit(kind, args, attrs, value, node)
        self._share(node, kind, args[1:], attrs)

    def _share(self, node: fx.Node, kind: str, args: tuple[Arg, ...], attrs: tuple[tuple[str, Arg], ...] = ()) -> None:
        """Note that a value lies in the memory of its first argument, if it does: a write to one is a write to the other."""
        base = node.args[0] if node.args else None
        if not isinstance(base, fx.Node) or not isinstance(node.meta["val"], Tensor):
            return
        known, own = base.meta.get("val"), _memory(node.meta["val"])
        memories = {_memory(x) for x in (known if isinstance(known, list | tuple) else (known,))}
        if own in memories or (known is None and _gives_views(node)):
            self.views[node] = _View(base, kind, args, self.version.get(base, 0), attrs)

    def _other(self, node: fx.Node) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        if name == "getitem":
            source, index = (self.arg(a) for a in node.args)
            self.value[node] = self.emit("getitem", (source, index), (), node.meta["val"], node)
            self._share(node, "getitem", (index,))
        elif "set_grad_enabled" in name:
            raise CaptureError(
                "LR0403", "gradients are switched on or off inside the program",
                **self._place(node), help="put torch.no_grad() around the call, or use detach() on inputs",
            )  # fmt: skip
        else:
            raise CaptureError("LR0410", f"the operator {name} is not one of torch's own", **self._place(node))

    def _place(self, node: fx.Node) -> dict[str, Any]:
        stack = self.trace.stacks.get(node.name, ())
        return {"file": stack[-1].file, "line": stack[-1].line} if stack else {}

    # writing -------------------------------------------------------------------------------------

    def _write(self, node: fx.Node, kind: str, value: Any) -> None:
        target = node.args[0]
        is_known = kind in ("copy_", "fill_", "zero_") or hasattr(torch.ops.aten, kind[:-1])
        if not isinstance(target, fx.Node) or not kind.endswith("_") or "out" in node.kwargs or not is_known:
            raise CaptureError(
                "LR0411", f"`{kind}` writes to its arguments in a way linrec does not know", **self._place(node)
            )
        if kind in _RESIZING and target in self.views:
            raise CaptureError("LR0411", f"`{kind}` gives part of another tensor another shape", **self._place(node))
        args = tuple(self.arg(a) for a in node.args)
        attrs = tuple((k, self.arg(a)) for k, a in node.kwargs.items())
        old = target.meta["val"]
        if kind == "copy_":
            source = node.args[1].meta["val"] if isinstance(node.args[1], fx.Node) else None
            new: Arg = args[1]
            if source is None or source.shape != old.shape or source.dtype != old.dtype:
                new = self.emit("copy", args[:2], (), old, node)
        elif kind == "fill_" and isinstance(args[1], Use):
            new = self.emit("copy", args[:2], (), old, node)
        elif kind in ("fill_", "zero_"):
            new = self.emit("full_like", (args[0], args[1] if kind == "fill_" else 0), (), old, node)
        else:
            result = _meta(getattr(torch.ops.aten, kind[:-1]), node)
            new = self.emit(kind[:-1], args, attrs, result, node)
            if result.dtype != old.dtype:
                new = self.emit("to", (new, Atom(str(old.dtype).removeprefix("torch."))), (), old, node)
        self._assign(target, new, node)
        self.value[node] = self.value[target]
        self.views[node] = _View(target, "alias", (), self.version[target])

    def _assign(self, target: fx.Node, new: Arg, node: fx.Node) -> None:
        """`target` holds `new` from now on, and so does the part of its base that it views."""
        view = self.views.get(target)
        if view is not None:
            base = self.read(view.base)
            shape = view.base.meta["val"]
            if view.kind in _SCATTER:
                whole = self.emit(_SCATTER[view.kind], (base, new, *view.args), (), shape, node)
            elif view.kind == "alias":
                whole = new
            elif view.kind in _RESHAPED and not any(isinstance(a, Atom) for a in view.args):  # to another type
                whole = self.emit("reshape", (new, tuple(shape.shape)), (), shape, node)
            elif view.kind in _TURNED:
                whole = self.emit(view.kind, (new, *_turned_back(view)), (), shape, node)
            else:
                raise CaptureError("LR0411", f"a write through `{view.kind}`", **self._place(node))
            self._assign(view.base, whole, node)
            view.version = self.version[view.base]
        self.value[target] = new
        self.version[target] = self.version.get(target, 0) + 1


def _gives_views(node: fx.Node) -> bool:
    """Does an operator say that its result may lie in the memory of its first argument?"""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def _turned_back(view: _View) -> tuple[Arg, ...]:
    """The arguments with which an operator that turns axes undoes what it did."""
    if view.kind != "permute":
        return view.args
    (order,) = view.args
    assert isinstance(order, tuple)
    places = [i % len(order) for i in order if isinstance(i, int)]
    return (tuple(places.index(i) for i in range(len(places))),)


def _meta(operator: Callable[..., Any], node: fx.Node) -> Tensor:
    """The result the out-of-place operator would have, without data."""

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            v = value.meta["val"]
            return torch.empty(v.shape, dtype=v.dtype, device="meta")
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    result: Tensor = operator(*map(plain, node.args), **{k: plain(v) for k, v in node.kwargs.items()})
    return result


def _is_itself(node: fx.Node, given: Tensor, result: Tensor) -> bool:
    """Does a conversion return the tensor that it is given? Then no step makes a new value."""
    copies = True in node.args or any(node.kwargs.get(k) is True for k in ("copy", "non_blocking"))
    return (
        not copies
        and (given.dtype, given.device, given.layout) == (result.dtype, result.device, result.layout)
        and given.stride() == result.stride()
    )


def type_of(value: Any) -> Type:
    """The IR type of a tensor."""
    if not isinstance(value, Tensor):
        raise CaptureError("LR0409", f"an operator returns a {type(value).__name__}, which is no tensor")
    return Type(_SHORT.get(value.dtype, str(value.dtype).removeprefix("torch.")), tuple(value.shape))


def _identifier(path: str) -> str:
    name = "".join(c if c.isalnum() or c in "._" else "_" for c in path)
    return name if name[:1].isalpha() or name[:1] == "_" else f"p{name}"


def flatten(trace: Trace, environment: Environment, names: list[str]) -> Flat:
    """The trace as a straight-line program without in-place writes, its arguments named. Raises CaptureError."""
    return _normalise(_Flattener(trace, environment, names).run())


def _normalise(flat: Flat) -> Flat:
    """`getitem(unbind(x, d), i)` is `select(x, d, i)`; so are pieces of size one of split and chunk."""
    made = {op.result: op for op in flat.ops}
    taken = Counter(use.name for op in flat.ops for use in op.uses())
    ops: list[Op] = []
    for op in flat.ops:
        if op.kind == "unbind" and isinstance(op.type, tuple):
            pieces = [o for o in flat.ops if o.kind == "getitem" and o.args[0] == Use(op.result)]
            flat.splits.append(Split(op.kind, len(op.type), sum(taken[o.result] > 0 for o in pieces), len(op.type)))
        if op.kind in ("split", "chunk") and isinstance(op.args[1], int) and isinstance(op.type, tuple):
            dim = op.args[2] if len(op.args) > 2 else dict(op.attrs).get("dim", 0)
            assert isinstance(dim, int)
            length = sum(n for t in op.type if isinstance(n := t.shape[dim], int))
            flat.splits.append(Split(op.kind, op.args[1], length, len(op.type)))
        if op.kind == "getitem" and isinstance(op.args[0], Use):
            whole = made[op.args[0].name]
            dim = whole.args[1] if whole.kind == "unbind" and len(whole.args) > 1 else dict(whole.attrs).get("dim", 0)
            if whole.kind == "unbind":
                op = replace(op, kind="select", args=(whole.args[0], dim, op.args[1]))
            elif whole.kind in _SPLITS:
                op = _piece(op, whole)
        ops.append(op)
    flat.ops = _placed(_read(_grown(ops, flat), flat), made, flat)
    return flat


_SPLITS = frozenset({"split", "split_with_sizes", "chunk"})


def _piece(op: Op, whole: Op) -> Op:
    """`getitem(split(x, ...), i)` is a slice of x; `select` of it too where the piece has size one and is squeezed."""
    dim = whole.args[2] if len(whole.args) > 2 else dict(whole.attrs).get("dim", 0)
    types, index = whole.type, op.args[1]
    if not isinstance(types, tuple) or not isinstance(index, int) or not isinstance(dim, int):
        return op
    sizes = [t.shape[dim % len(t.shape)] for t in types]
    start, axis = 0, dim % len(types[0].shape)
    for width in sizes[: index % len(sizes)]:
        assert isinstance(width, int)
        start += width
    width = sizes[index]
    assert isinstance(width, int)
    return replace(op, kind="slice", args=(whole.args[0], axis, start, start + width))


def _grown(ops: list[Op], flat: Flat) -> list[Op]:
    """cat(cat(a, b), c) is cat(a, b, c) where nothing else reads the inner one: a list grown step by step."""
    readers = Counter(use.name for op in ops for use in op.uses())
    readers.update(u.name for u in uses_in(tuple(flat.outputs)))
    readers.update(flat.mutated.values())
    joined: dict[str, Op] = {}
    absorbed: set[str] = set()
    for op in ops:
        dim = op.args[1] if len(op.args) > 1 else dict(op.attrs).get("dim", 0)
        if op.kind == "cat" and isinstance(op.args[0], tuple) and isinstance(op.type, Type) and isinstance(dim, int):
            items: list[Arg] = []
            for item in op.args[0]:
                inner = joined.get(item.name) if isinstance(item, Use) and readers[item.name] == 1 else None
                if inner is not None and inner.args[1] == dim % len(op.type.shape) and isinstance(inner.args[0], tuple):
                    items += inner.args[0]
                    absorbed.add(inner.result)
                else:
                    items.append(item)
            joined[op.result] = replace(op, args=(tuple(items), dim % len(op.type.shape)), attrs=())
    return [joined.get(op.result, op) for op in ops if op.result not in absorbed]


def _placed(ops: list[Op], made: dict[str, Op], flat: Flat) -> list[Op]:
    """Elements of a tensor go where a loop would read them.

    What most steps read in one place is the input of the step: pieces of an `unbind`, all made before the loop, go to
    their readers, and those without any go. An element that few steps read there, such as the first state, goes before the loop, right
    after what it is an element of.
    """
    elements = {op.result: op for op in ops if op.kind in ("select", "slice") and isinstance(op.args[0], Use)}
    roles: dict[str, object] = {}
    readers: dict[object, list[str]] = {}  # what is read at each place of a step
    held: dict[object, set[str]] = {}  # the elements among it: some steps may read theirs in an arm first
    after: dict[str, tuple[object, int]] = {}
    for op in ops:
        written = (op.kind, tuple((s.line, s.start, s.end) for s in flat.stacks[op.result]))
        # x[..., None, None] is two ops alike, one after the other
        first = next(op.uses(), None)
        again = first is not None and first.name in after and after[first.name][0] == written
        step = after[op.result] = (written, after[first.name][1] + 1 if again and first is not None else 0)
        for place, use in enumerate(op.uses()):
            # x[i, j] is an element of an element: reads of x itself do not count
            if op.result not in elements or use.name in elements:
                readers.setdefault((step, place), []).append(use.name)
            if use.name in elements:
                roles.setdefault(use.name, (step, place))
                held.setdefault((step, place), set()).add(use.name)
    kept = {u.name for u in uses_in(tuple(flat.outputs))} | {*flat.mutated.values()}
    ops = [
        op
        for op in ops
        if not (made[op.result].kind == "getitem" and op.result in elements.keys() - roles.keys() - kept)
    ]
    # an inner loop may read each element several times; one that all steps read is no element of a step
    regular = {
        name for name, role in roles.items()
        if 2 * len(held[role]) > len({*readers[role]}) and (len(held[role]) > 1 or len(readers[role]) == 1)
    }  # fmt: skip
    pieces = {name for name in elements if made[name].kind == "getitem"}
    filled = {op.args[0] for op in ops if op.kind in _WRITES}  # its first elements are read before the loop writes any
    late = regular & pieces
    flat.pieces |= late
    early: dict[str, list[Op]] = {}
    for name, op in elements.items():
        whole = op.args[0]
        if name in roles and name not in regular and isinstance(whole, Use) and (name in pieces or whole in filled):
            early.setdefault(whole.name, []).append(op)
    moved = late | {op.result for after in early.values() for op in after}
    for name in moved - late:
        flat.frames.pop(name, None)  # it is of no turn
    new: list[Op] = []

    def put(op: Op) -> None:
        new.append(op)
        for element in early.pop(op.result, ()):
            put(element)

    def put_behind(op: Op) -> None:
        """The op, behind what it is the first to read; that may be an element of an element."""
        for use in op.uses():
            if use.name in late:
                late.discard(use.name)
                flat.stacks[use.name] = flat.stacks[op.result]
                if op.result in flat.frames:
                    flat.frames[use.name] = flat.frames[op.result]
                put_behind(elements[use.name])
        put(op)

    for source in flat.inputs:
        for element in early.pop(source.name, ()):
            put(element)
    for op in ops:
        if op.result not in moved:
            put_behind(op)
    return new


_WRITES = frozenset({"select_scatter", "slice_scatter"})


def _read(ops: list[Op], flat: Flat) -> list[Op]:
    """Without writes of elements that a later write replaces, and lists whose pieces are read by name.

    Other ops stay: a step whose result is not used, as the last one's often is, is a step of the loop all the same.
    """
    needed = {u.name for u in uses_in(tuple(flat.outputs))} | {*flat.mutated.values()}
    kept: list[Op] = []
    for op in reversed(ops):
        if op.result in needed or not (op.kind in _WRITES or isinstance(op.type, tuple)):
            kept.append(op)
            needed |= {use.name for use in op.uses()}
    return kept[::-1]
