"""What a program reads besides its arguments: tensors to lift, Python values to watch.

A tensor that a program reaches through a module, a closure, a global or a default argument is found
again by its *path* at every call, so that training, `net.w = ...` and `.to()` take effect at once.
Every other reachable value is part of the *fingerprint*: a program is captured anew when it changes.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Getter = Callable[[], Any]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PRIVATE = frozenset(vars(nn.Module())) - {"training"}
_DEPTH = 4


@dataclass
class Environment:
    """Everything reachable from one callable: `tensors` by path, `values` by path, its modules."""

    tensors: dict[str, Getter] = field(default_factory=dict)
    values: dict[str, Getter] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    containers: dict[str, Any] = field(default_factory=dict)
    spaces: dict[str, tuple[Any, str]] = field(default_factory=dict)  # globals and cells that hold plain values

    def role(self, path: str) -> str:
        """Is the tensor at `path` a "param", a "buffer" or merely "captured"?"""
        value = self.tensors[path]()
        if isinstance(value, nn.Parameter):
            return "param"
        owner, _, name = path.rpartition(".")
        module = self.modules.get(owner)
        return "buffer" if module is not None and name in module._buffers else "captured"

    def fingerprint(self) -> tuple[Any, ...]:
        """A value that changes whenever something other than a tensor that the program may read does."""
        return tuple(_frozen(get()) for get in self.values.values())


def reachable(function: Callable[..., Any]) -> Environment:
    """The environment of a function, a bound method, a partial or a module's forward."""
    found = Environment()
    _function(function, "", found, set())
    return found


def _function(function: Any, prefix: str, found: Environment, seen: set[int]) -> None:
    if isinstance(function, functools.partial):
        for i, value in enumerate(function.args):
            _value(partial(_positional, function, i), value, f"{prefix}args.{i}", found, seen)
        for key, value in function.keywords.items():
            _value(partial(function.keywords.get, key), value, f"{prefix}keywords.{key}", found, seen)
        return _function(function.func, prefix, found, seen)
    if inspect.ismethod(function):
        owner = function.__self__
        _value(lambda: owner, owner, prefix.rstrip("."), found, seen)
        function = function.__func__
    function = inspect.unwrap(function)
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name != "__class__" and _filled(cell):
            found.spaces.setdefault(f"{prefix}closure:{name}", (cell, "cell_contents"))
            _value(partial(getattr, cell, "cell_contents"), cell.cell_contents, f"{prefix}closure:{name}", found, seen)
    for i, value in enumerate(function.__defaults__ or ()):
        _value(partial(_default, function, i), value, f"{prefix}default:{i}", found, seen)
    for key, value in (function.__kwdefaults__ or {}).items():
        _value(partial(_default, function, key), value, f"{prefix}default:{key}", found, seen)
    space = function.__globals__
    for name in _global_names(function.__code__):
        if name in space:
            if isinstance(space[name], bool | int | float | complex | str | type(None)):
                found.spaces.setdefault(f"{prefix}global:{name}", (space, name))
            _value(partial(space.get, name), space[name], f"{prefix}global:{name}", found, seen)


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that a function reads, those of functions inside it too; `co_names` has attributes as well."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = (_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple(dict.fromkeys(itertools.chain(names, *inner)))


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _value(get: Getter, value: Any, path: str, found: Environment, seen: set[int], depth: int = 0) -> None:
    if isinstance(value, Tensor):
        found.tensors.setdefault(path, get)
    elif isinstance(value, nn.Module):
        _module(value, path, found, seen)
    elif isinstance(value, types.FunctionType):
        if not _is_library(value.__module__):
            _function(value, f"{path}/", found, seen)
        found.values.setdefault(path, get)
    elif isinstance(value, types.ModuleType | type):
        return
    elif isinstance(value, list | tuple | dict | deque) and depth < _DEPTH and len(value) <= 256:
        found.containers.setdefault(path, value)
        found.values.setdefault(f"{path}#", get)
        for key, item in contents(value):
            _value(partial(_element, get, key), item, f"{path}.{key}", found, seen, depth + 1)
    else:
        found.values.setdefault(path, get)
        if hasattr(value, "__dict__") and not _is_library(type(value).__module__) and id(value) not in seen:
            seen.add(id(value))
            for name, item in list(vars(value).items())[:256] if depth < _DEPTH else ():
                _value(partial(vars(value).get, name), item, f"{path}.{name}", found, seen, depth + 1)


def _module(module: nn.Module, path: str, found: Environment, seen: set[int]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    found.modules[path] = module
    if path:
        found.values.setdefault(f"{path}!hooks", partial(hooks_of, module))
    dot = f"{path}." if path else ""
    for name in (*module._parameters, *module._buffers):
        value = getattr(module, name)
        if value is None:
            found.values.setdefault(dot + name, partial(getattr, module, name, None))
        else:
            found.tensors.setdefault(dot + name, partial(getattr, module, name))
    for name, value in list(vars(module).items()):
        if name not in _PRIVATE and not name.startswith("_linrec"):
            _value(partial(vars(module).get, name), value, dot + name, found, seen)
    for kind in type(module).__mro__:
        if _is_library(kind.__module__):
            continue
        for name, value in vars(kind).items():
            if not name.startswith(("__", "_linrec")) and not isinstance(value, property | staticmethod | classmethod):
                where = f"{path}::{kind.__name__}.{name}"
                if isinstance(value, types.FunctionType):
                    found.values.setdefault(where, partial(vars(kind).get, name))
                else:
                    _value(partial(vars(kind).get, name), value, where, found, seen)
    for name, child in module._modules.items():
        if child is not None:
            _module(child, dot + name, found, seen)
    if not _is_library(type(module).__module__):
        forward = vars(module).get("forward", type(module).forward)
        _function(inspect.unwrap(forward), f"{dot}forward/", found, seen)


def hooks_of(module: nn.Module) -> int:
    """How many hooks run when a module is called: side effects that a graph would lose."""
    return sum(len(getattr(module, name)) for name in HOOKS)


def _positional(function: functools.partial[Any], index: int) -> Any:
    return function.args[index]


def _default(function: types.FunctionType, which: int | str) -> Any:
    return (function.__defaults__ or ())[which] if isinstance(which, int) else (function.__kwdefaults__ or {})[which]


# Containers are read and restored by the methods of these: a subclass's own are the user's code, which is not to be run
# and may make something new of what it holds.
_CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, tuple, deque)


def _plain(container: Any) -> Any:
    return next(kind for kind in _CONTAINERS if isinstance(container, kind))


def contents(container: Any) -> list[tuple[Any, Any]]:
    """What a container holds, as pairs of key (or index) and value, in order."""
    plain = _plain(container)
    if isinstance(container, dict):
        return [(key, dict.__getitem__(container, key)) for key in plain.__iter__(container)]
    return list(enumerate(plain.__iter__(container)))


def _refill(container: Any, held: list[tuple[Any, Any]]) -> None:
    plain = _plain(container)
    plain.clear(container)
    for key, value in held:
        if isinstance(container, dict):
            plain.__setitem__(container, key, value)
        else:
            plain.append(container, value)


def _element(container: Getter, key: Any) -> Any:
    """What a container holds at a place; None if it is no longer a container, or not so long."""
    held = container()
    if not isinstance(held, _CONTAINERS):
        return None
    try:
        return (dict if isinstance(held, dict) else _plain(held)).__getitem__(held, key)
    except LookupError:
        return None


def _is_library(name: str | None) -> bool:
    top = (name or "").partition(".")[0]
    return top in {"torch", "numpy", "math", "builtins", "collections", "functools", "itertools", "linrec"} and not (
        name or ""
    ).startswith("linrec.nn")


_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def _frozen(value: Any, depth: int = 0) -> Any:
    """Equal iff a program cannot tell the difference, as far as Python values go."""
    if value.__class__ in _PLAIN or isinstance(value, _PLAIN):  # most are; the first question is the cheap one
        return (type(value), value)
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, list | tuple | deque) and depth < _DEPTH and len(value) <= 256:
        return (type(value), tuple(_frozen(item, depth + 1) for item in value))
    if isinstance(value, dict) and depth < _DEPTH and len(value) <= 256:
        return (dict, tuple((key, _frozen(item, depth + 1)) for key, item in contents(value)))
    return id(value)


def registers(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """The dictionaries that hold what a module has: attributes, parameters, buffers, submodules."""
    spaces: list[dict[str, Any]] = [vars(module)]
    spaces += [vars(module)[name] for name in ("_parameters", "_buffers", "_modules")]
    return tuple(spaces)


class Restored:
    """A context that leaves attributes and containers of an environment as they were.

    On exit `changed` maps the path of every attribute that the body assigned to its new value, and `drawn` says
    whether numbers were drawn from Python's or numpy's generator.
    """

    def __init__(self, environment: Environment) -> None:
        self._modules = environment.modules
        self._containers = environment.containers
        self._spaces = environment.spaces
        self._tensors = environment.tensors
        self.changed: dict[str, Any] = {}
        self.drawn = False

    def __enter__(self) -> Restored:
        self._attributes = {path: [dict(space) for space in registers(m)] for path, m in self._modules.items()}
        self._items = {path: (c, contents(c)) for path, c in self._containers.items()}
        self._random = torch.get_rng_state()
        self._draws = random.getstate(), np.random.get_state()
        self._plain = {path: _held(*where) for path, where in self._spaces.items()}
        # tracing computes with tensors of one number, in-place operators included
        small = [get() for get in self._tensors.values()]
        self._numbers = [(x, x.detach().clone()) for x in small if isinstance(x, Tensor) and x.numel() <= _SMALL]
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_rng_state(self._random)
        if random.getstate() != self._draws[0] or not _same_state(np.random.get_state(), self._draws[1]):
            self.drawn = True
            random.setstate(self._draws[0])
            np.random.set_state(self._draws[1])
        with torch.no_grad():
            for tensor, number in self._numbers:
                if not torch.equal(tensor, number):
                    tensor.copy_(number)
        for path, where in self._spaces.items():
            if _held(*where) is not self._plain[path] and _held(*where) != self._plain[path]:
                self.changed[path] = _held(*where)
                _hold(*where, self._plain[path])
        for path, module in self._modules.items():
            dot = f"{path}." if path else ""
            for space, before in zip(registers(module), self._attributes[path], strict=True):
                for name in [*before, *(n for n in space if n not in before)]:
                    old, new = before.get(name, _ABSENT), space.get(name, _ABSENT)
                    if old is not new and not name.startswith("_linrec"):
                        self.changed[dot + name] = new
                space.clear()
                space.update(before)
        for path, (container, held) in self._items.items():
            now = contents(container)
            if len(now) != len(held) or any(k != m or v is not w for (k, v), (m, w) in zip(now, held, strict=True)):
                self.changed[path] = [value for _, value in now]
                _refill(container, held)


def _same_state(left: Any, right: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


_ABSENT = object()
_SMALL = 64


def _held(space: Any, name: str) -> Any:
    return space.get(name) if isinstance(space, dict) else getattr(space, name, None)


def _hold(space: Any, name: str, value: Any) -> None:
    if isinstance(space, dict):
        space[name] = value
    else:
        setattr(space, name, value)
