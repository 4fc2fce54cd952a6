"""The public functions: compile, explain, recurrent, report.

A compiled module is a new module of a subclass of the user's class. It shares parameters, buffers and
submodules with the original, so state_dict keys, optimisers, `.to()` and `isinstance` are as before; its plain
attributes are its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import nn

from linrec.compiler import Engine, Options
from linrec.reports import Report

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from linrec.streaming import Stream

STATE_WORDS = frozenset({"state", "return_state", "lengths", "reset_mask"})
F = TypeVar("F", bound=Callable[..., Any])
_ENGINE = "_linrec_engine"
_classes: dict[type, type] = {}


@overload
def compile(model: F, *, strict: bool = False, forms: str | Mapping[str, str] = "auto", verify: str = "first") -> F: ...
@overload
def compile(
    model: None = None, *, strict: bool = False, forms: str | Mapping[str, str] = "auto", verify: str = "first"
) -> Callable[[F], F]: ...


def compile(
    model: Any = None, *, strict: bool = False, forms: str | Mapping[str, str] = "auto", verify: str = "first"
) -> Any:
    """Compile a function, a module or a module class: same call, same results, same gradients.

    Args:
        model: a function of tensors, an `nn.Module` or a subclass of it, or a program exported by `torch.export`; as a
            decorator, with or without arguments.
        strict: a recurrence that stays sequential is a NotLinearError, a program that cannot be captured a CaptureError.
        forms: "auto", one form for all recurrences, or a dict from a recurrence's name to its form.
        verify: "off", "first" (compare with the original on the first call, on at most 64 steps, gradients too when
            they are on) or "always".

    Returns:
        A function for a function, a new module for a module, the class itself for a class. `.report` holds what was
        found, `.recurrent()` makes the recurrent form, `.stream(batch)` one that keeps its state, `.export_step()` a
        torch.export program, `.source()` and `.step_source()` plain PyTorch text. A call also takes `state=` (start
        from there), `return_state=True` (return the state too), `lengths=` (B,) and `reset_mask=` (B, T), unless the
        program has parameters of those names.

    The first call with arguments of a kind captures, proves and rewrites the program: a few tenths of a second,
    whatever the length. Raises ValueError for unknown options and TypeError for what is not callable.
    """
    options = Options(strict, forms if isinstance(forms, str) else dict(forms), verify)
    if model is None:
        return functools.partial(compile, strict=strict, forms=forms, verify=verify)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if isinstance(model, type) and issubclass(model, nn.Module):
        return _compile_class(model, options)
    if isinstance(model, nn.Module):
        return _compile_module(model, options)
    if callable(model):
        return _CompiledFunction(model, options)
    raise TypeError(f"compile takes a function, a module or a module class, got {type(model).__name__}")


def explain(model: Any, *args: Any, **kwargs: Any) -> Report:
    """What compiling `model` for these arguments would find; changes nothing. Runs the original on 64 steps to check."""
    engine = _engine_of(model) or _new_engine(model, Options())
    fresh = Engine(engine.function, engine.name, engine.options, engine.module)
    return fresh.explain(args, kwargs)


def report(model: Any) -> Report:
    """What was found in a compiled function or module, with the impulse responses of small systems in closed form."""
    engine = _require_engine(model)
    if not any(r.kind == "lti" for r in engine.report.recurrences) or not engine.programs:
        return engine.report
    from linrec.symbolic import with_closed_forms

    return with_closed_forms(engine.report, engine.program_for((), {}))


def recurrent(model: Any, *example_inputs: Any, **example_kwargs: Any) -> nn.Module:
    """The recurrent form of a compiled (or plain) function or module: see `linrec.recurrence.RecurrentModule`.

    Example inputs are needed unless the model was called before. Raises StateError where a step cannot exist.
    """
    from linrec.recurrence import recurrent_form

    engine = _engine_of(model) or _new_engine(model, Options())
    return recurrent_form(engine, example_inputs, example_kwargs)


def stream(model: Any, batch: int, *example_inputs: Any, **example_kwargs: Any) -> Stream:
    """The recurrent form with its state kept inside, for `batch` rows: see `linrec.streaming.Stream`."""
    from linrec.recurrence import recurrent_form
    from linrec.streaming import Stream

    return Stream(
        recurrent_form(_engine_of(model) or _new_engine(model, Options()), example_inputs, example_kwargs), batch
    )


def source(model: Any, *example_inputs: Any, **example_kwargs: Any) -> str:
    """The parallel form as a module of plain PyTorch: `forward(weights, *tensors)`, weights as in the state_dict.

    Of the last call, or for example inputs. Raises StateError (LR4005) if the program was not captured.
    """
    from linrec.plain import forward_source

    engine = _engine_of(model) or _new_engine(model, Options())
    return forward_source(engine, engine.program_for(example_inputs, example_kwargs))


def step_source(model: Any, *example_inputs: Any, **example_kwargs: Any) -> str:
    """The recurrent form as a module of plain PyTorch: `first(weights, *tensors)`, `step(weights, *tensors, state)`.

    Raises StateError where there is no recurrent form, or no single step that tells all (LR4007).
    """
    from linrec.plain import step_source as written
    from linrec.recurrence import recurrent_form

    engine = _engine_of(model) or _new_engine(model, Options())
    return written(engine, recurrent_form(engine, example_inputs, example_kwargs).program)


def export_step(model: Any, file: str | None = None, *example_inputs: Any, **example_kwargs: Any) -> ExportedProgram:
    """One step as a torch.export program with a dynamic batch, `(x_t, *state) -> (y_t, *state)`; to `file` as ONNX.

    ONNX needs `pip install linrec[export]`. Raises StateError where there is no single step (LR4007).
    """
    from linrec.export import export_step as exported
    from linrec.recurrence import recurrent_form

    engine = _engine_of(model) or _new_engine(model, Options())
    return exported(recurrent_form(engine, example_inputs, example_kwargs).program, file)


# functions -------------------------------------------------------------------------------------------


class _CompiledFunction:
    """A compiled function; `__wrapped__` is the original."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._linrec_engine = Engine(function, getattr(function, "__qualname__", type(function).__name__), options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _called(self._linrec_engine, args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    @property
    def report(self) -> Report:
        """What was found."""
        return self._linrec_engine.report

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = getattr(self, "__name__", "")
        if getattr(sys.modules.get(self.__module__), name, None) is self:  # decorated: found by its name
            return name
        return _rebuild_function, (self.__wrapped__, self._linrec_engine.options)


def _rebuild_function(function: Callable[..., Any], options: Options) -> _CompiledFunction:
    return _CompiledFunction(function, options)


# modules ---------------------------------------------------------------------------------------------


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _called(_module_engine(self), args, kwargs)


def _called(engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call; the keywords about the state are ours unless the program has parameters of those names."""
    if kwargs and not STATE_WORDS.isdisjoint(kwargs):
        theirs = inspect.signature(engine.function).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in theirs.values()):
            given = {word: kwargs.pop(word) for word in STATE_WORDS - theirs.keys() if word in kwargs}
            if any(value is not None and value is not False for value in given.values()):
                from linrec.recurrence import run_with_state

                return run_with_state(
                    engine, args, kwargs, given.get("state"), bool(given.get("return_state")), given.get("lengths"),
                    given.get("reset_mask"),
                )  # fmt: skip
    return engine(args, kwargs)


def _module_engine(module: nn.Module) -> Engine:
    engine = vars(module).get(_ENGINE)
    if engine is None:
        kind = type(module)
        function = getattr(kind, "_linrec_forward").__get__(module)  # noqa: B009 - private names do not mangle here
        engine = Engine(function, kind.__name__, getattr(kind, "_linrec_options", Options()), module)
        vars(module)[_ENGINE] = engine
    assert isinstance(engine, Engine)
    return engine


def _compile_class(kind: type[nn.Module], options: Options) -> type[nn.Module]:
    """Compile every instance: in place, so that `super(Net, self)` in the class keeps its meaning."""
    kind._linrec_forward = kind.forward  # type: ignore[attr-defined]
    kind._linrec_options = options  # type: ignore[attr-defined]
    kind.forward = functools.update_wrapper(_copy_of(_forward), kind.forward)
    _add_members(kind, kind)
    kind.__deepcopy__ = _deepcopy  # type: ignore[attr-defined]
    kind.__getstate__ = _getstate  # type: ignore[method-assign]
    return kind


def _compile_module(model: nn.Module, options: Options) -> nn.Module:
    """A module of a subclass, sharing everything registered."""
    if _engine_of(model) is not None:
        return model
    kind = _subclass(type(model))
    new: nn.Module = object.__new__(kind)
    state = dict(vars(model))
    forward = state.pop("forward", None)
    new.__dict__.update(state)
    function = type(model).forward.__get__(new) if forward is None else forward
    names = {n for n in _MEMBERS if n in state["_modules"] or n in state["_parameters"] or n in state["_buffers"]}
    if names:  # the user's own names win over ours
        new.__class__ = _subclass(type(model), frozenset(names))
    vars(new)[_ENGINE] = Engine(function, type(model).__name__, options, new)
    return new


def _subclass(kind: type[nn.Module], hidden: frozenset[str] = frozenset()) -> type[nn.Module]:
    key = (kind, hidden)
    if key not in _classes:  # type: ignore[comparison-overlap]
        members = {
            "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__,
            "_linrec_original": kind, "_linrec_forward": kind.forward, "forward": _copy_of(_forward),
            "__deepcopy__": _deepcopy, "__reduce__": _reduce, "__getstate__": _getstate,
        }  # fmt: skip
        new = type(kind.__name__, (kind,), members)
        functools.update_wrapper(new.forward, kind.forward)  # type: ignore[attr-defined]
        _add_members(new, kind, hidden)
        _classes[key] = new  # type: ignore[index]
    return _classes[key]  # type: ignore[index]


def _add_members(target: type, users: type, hidden: frozenset[str] = frozenset()) -> None:
    for name, value in _MEMBERS.items():
        if not hasattr(users, name) and name not in hidden:
            setattr(target, name, value)


class _Report:
    """`net.report`, unless the instance has an attribute of that name: no __set__, so instances win."""

    def __get__(self, instance: nn.Module | None, owner: type | None = None) -> Any:
        return self if instance is None else _module_engine(instance).report


def _original(self: nn.Module) -> nn.Module:
    """The module as written: it shares everything registered, and nothing is compiled."""
    return _plain(getattr(type(self), "_linrec_original", type(self)), _getstate(self))


def _plain(kind: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    plain = kind.__new__(kind)
    plain.__dict__.update(state)
    return plain


# what a compiled module or function has besides what it had
_MEMBERS: dict[str, Any] = {
    "report": _Report(),
    "recurrent": recurrent,
    "original": property(_original),
    "stream": stream,
    "source": source,
    "step_source": step_source,
    "export_step": export_step,
}
for _name, _member in _MEMBERS.items():
    if _name not in ("report", "original"):
        setattr(_CompiledFunction, _name, _member)


def _copy_of(function: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return forward


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    kind = type(self)
    new = kind.__new__(kind)
    memo[id(self)] = new
    for name, value in vars(self).items():
        if name != _ENGINE:
            new.__dict__[name] = copy.deepcopy(value, memo)
    engine = vars(self).get(_ENGINE)
    if engine is not None:
        new.__dict__[_ENGINE] = Engine(engine.function.__func__.__get__(new), engine.name, engine.options, new)
    return new


def _getstate(self: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(self).items() if name != _ENGINE}


def _reduce(self: nn.Module) -> tuple[Any, ...]:
    engine = vars(self)[_ENGINE]
    return _rebuild_module, (type(self)._linrec_original, engine.options, _getstate(self))  # type: ignore[attr-defined]


def _rebuild_module(kind: type[nn.Module], options: Options, state: dict[str, Any]) -> nn.Module:
    return _compile_module(_plain(kind, state), options)


def _engine_of(model: Any) -> Engine | None:
    if isinstance(model, nn.Module):
        return _module_engine(model) if hasattr(type(model), "_linrec_forward") else None
    found = getattr(model, _ENGINE, None)
    return found if isinstance(found, Engine) else None


def _require_engine(model: Any) -> Engine:
    engine = _engine_of(model)
    if engine is None:
        raise TypeError(f"{type(model).__name__} is not compiled; call linrec.compile on it first")
    return engine


def _new_engine(model: Any, options: Options) -> Engine:
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"explain takes an instance of {model.__name__}, not the class")
    if isinstance(model, nn.Module):
        forward = vars(model).get("forward") or type(model).forward.__get__(model)
        return Engine(forward, type(model).__name__, options, model)
    if not callable(model):
        raise TypeError(f"expected a function or a module, got {type(model).__name__}")
    return Engine(
        model,
        getattr(model, "__qualname__", "program"),
        options,
    )
