"""The compiler: frontends, passes, emission; guards, caching and verification around them.

An `Engine` belongs to one callable. The first call with arguments of a kind captures a program, proves and rewrites
it, and checks it against the original; every later call whose arguments fit runs the emitted function. Whatever
cannot be captured runs as written, and the report says why.
"""

from __future__ import annotations

import functools
import gc
import linecache
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linrec import calibration, findings, transforms
from linrec.compiled import Compiled, metadata_of
from linrec.constants import Cached
from linrec.emit.source import emit
from linrec.errors import FAILURES, CaptureError, LinrecError, NotLinearError, ProgramError, StateError, trial
from linrec.frontends.loop import Capture, Environment, capture, reachable
from linrec.frontends.loop.environment import Restored, registers
from linrec.ir import Graph, specialized
from linrec.manager import Context, Stages
from linrec.passes import default_pipeline
from linrec.probe import superposition
from linrec.reports import Report, Verification
from linrec.reproducer import Reproducer, leave
from linrec.sizes import Size, evaluate
from linrec.verification import STEPS, compare

log = logging.getLogger("linrec")
_enabled: ContextVar[bool] = ContextVar("linrec_enabled", default=True)
_MAX_ATTEMPTS = 8  # captures that may fail for arguments of one kind before they are no longer tried


@dataclass(frozen=True)
class Options:
    """What `linrec.compile` was asked for."""

    strict: bool = False
    forms: str | Mapping[str, str] = "auto"
    verify: str = "first"

    def __post_init__(self) -> None:
        if self.verify not in ("off", "first", "always"):
            raise ValueError(f'verify is "off", "first" or "always", got {self.verify!r}')
        forms = (self.forms,) if isinstance(self.forms, str) else tuple(self.forms.values())
        for form in forms:
            if form not in ("auto", "final", "convolution", "chunked", "scan", "associative", "wy", "sequential"):
                raise ValueError(f"no form is called {form!r}")


@contextmanager
def disabled() -> Iterator[None]:
    """Run everything as written inside this context; `LINREC=off` in the environment does so everywhere."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def is_enabled() -> bool:
    """Do compiled programs run compiled?"""
    return _enabled.get() and os.environ.get("LINREC", "").lower() != "off"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Tracing makes many objects and few cycles: looking through them for cycles again and again takes a fifth of it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass
class Engine:
    """Everything linrec keeps for one callable."""

    function: Callable[..., Any]
    name: str
    options: Options
    module: torch.nn.Module | None = None
    programs: dict[Any, list[Compiled]] = field(default_factory=dict)
    refused: dict[Any, set[Any]] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
    captures: int = 0
    environment: Environment | None = None
    stateful: Any = None  # the recurrent form behind calls with a state
    generation: int = 0  # counts changes of the tree of modules
    _shape: list[tuple[int, ...]] | None = None
    _spec: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        raise TypeError("an engine belongs to one module; make a new one")

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_enabled() or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self.function(*args, **kwargs)
        if not kwargs and all(x.__class__ is Tensor for x in args):
            leaves, spec = list(args), _flat(len(args))
        else:
            leaves, spec = pytree.tree_flatten((args, kwargs))
        self._spec = spec
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            return self.function(*args, **kwargs)
        environment = self._environment()
        key = self._key(leaves, spec, environment)
        for compiled in self.programs.get(key, ()):
            lengths = compiled.lengths(tensors)
            if lengths is not None and compiled.fits():
                if compiled.rejected or not compiled.is_sound_for(tensors, lengths):
                    return self._original(args, kwargs)
                if self.options.verify == "always":
                    self._verify(compiled, environment, args, kwargs, tensors)
                return self._run(compiled, tensors, leaves)
        if self.module is not None:  # lists and globals may hold more than when they were looked at
            environment = self.environment = reachable(self.function)
            key = self._key(leaves, spec, environment)
        return self._first(key, environment, args, kwargs, leaves, tensors)

    def _environment(self) -> Environment:
        # looked at anew for each call only where attributes may have come or gone
        if self.environment is None or self.module is None or self._modules_changed():
            self.environment = reachable(self.function)
        return self.environment

    def environment_now(self) -> Environment:
        """What the program reads besides its arguments, at this moment."""
        return self._environment()

    def _modules_changed(self) -> bool:
        assert self.module is not None and self.environment is not None
        # the environment keeps the modules alive, so that their addresses tell them apart
        shape = [
            (len(vars(m)) + len(m._parameters) + len(m._buffers), *map(id, m._modules.values()))
            for m in self.environment.modules.values()
        ]
        changed = shape != self._shape
        if changed and self._shape is not None:  # what was made reads the modules that were there
            self.programs.clear()
            self.generation += 1
        self._shape = shape
        return changed

    def _key(self, leaves: list[Any], spec: pytree.TreeSpec, environment: Environment) -> Any:
        kinds = tuple(
            (leaf.dtype, leaf.device, leaf.dim(), leaf.layout, leaf.requires_grad)
            if isinstance(leaf, Tensor)
            else _plain(leaf)
            for leaf in leaves
        )
        return (
            kinds, spec, environment.fingerprint(), torch.is_grad_enabled(), transforms.is_transformed(),
            torch.is_autocast_enabled("cpu"), torch.get_default_dtype(),
        )  # fmt: skip

    def explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Report:
        """The report of a first call with these arguments, without its results or effects."""
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        environment = self._environment()
        try:
            compiled = self._compile(environment, args, kwargs, tensors)
        except ProgramError as error:
            raise error.__cause__ or error from None  # in the program's own words
        except CaptureError as error:
            self._refuse(error)
            return self.report
        self.report = compiled.report
        if self.options.verify != "off":
            self._verify(compiled, environment, args, kwargs, tensors)
        return self.report

    def program_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        """The program for example inputs, or the last one made. Raises StateError if there is none."""
        if not args and not kwargs:
            made = [p for programs in self.programs.values() for p in programs]
            if made:  # the last one, but one that holds for any batch before one that does not
                return max(enumerate(made), key=lambda item: (len(item[1].graph.sizes()), item[0]))[1]
            raise StateError(
                "LR4005", f"{self.name} was not captured: {self.report.reason or 'it was not called yet'}",
                help="call it once, or give example inputs: net.recurrent(x)",
            )  # fmt: skip
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        environment = self._environment()
        for compiled in self.programs.get(self._key(leaves, spec, environment), ()):
            is_short = compiled.captured.held is not None and compiled.captured.shortest > 0
            is_cut = is_short or compiled.captured.longest < math.inf
            if compiled.lengths(tensors) is not None and compiled.fits() and not is_cut:
                return compiled
        # a batch of one or of none would hold the program to such batches
        wide = [
            x.new_zeros(2, *x.shape[1:]) if x.dim() > 1 and not x.shape[0]
            else x.expand(2, *x.shape[1:]) if x.dim() > 1 and x.shape[0] == 1 else x
            for x in tensors
        ]  # fmt: skip
        try:
            try:
                a, k = _given(wide, leaves, spec)
                return self._compile(environment, a, k, wide, of_any_length=True)
            except ProgramError:  # an axis of one that is no batch
                return self._compile(environment, args, kwargs, tensors, of_any_length=True)
        except CaptureError as error:
            raise StateError(
                "LR4005",
                f"{self.name} has no recurrent form: {error.message}",
                file=error.file,
                line=error.line,
                help=error.help,
            ) from error

    # running ---------------------------------------------------------------------------------------

    def _run(self, compiled: Compiled, tensors: list[Tensor], leaves: list[Any]) -> Any:
        try:
            outputs, effects = compiled.run(tensors)
        except FAILURES as error:
            result = self._original(*_given(tensors, leaves, self._spec))  # or the original's own error
            self._broke(error, " in the compiled form")
            return result
        if not compiled.graph.effects and compiled.captured.out_spec.is_leaf():
            return outputs[0]
        results = self.write_back(compiled, outputs, effects, tensors)
        return pytree.tree_unflatten(results, compiled.captured.out_spec)

    def write_back(
        self, compiled: Compiled, outputs: Sequence[Any], effects: Sequence[Any], tensors: Sequence[Tensor]
    ) -> list[Any]:
        """Leave attributes, buffers and arguments as the original would; the results, written arguments among them.

        An effect that is None is none.
        """
        environment, results = self.environment, list(outputs)
        assert environment is not None
        for (path, use), value in zip(compiled.graph.effects, effects, strict=True):
            if value is None:
                continue
            if path.startswith("argument:"):
                written = tensors[int(path.partition(":")[2])]
                written.copy_(value)
                for i, out in enumerate(compiled.graph.outputs):
                    if out == use:  # an argument that is written to and returned is the same tensor
                        results[i] = written
                continue
            owner, _, name = path.rpartition(".")
            module = environment.modules.get(owner)
            known = environment.tensors.get(path)
            if module is not None and path in compiled.captured.assigned:
                setattr(module, name, value)
            elif known is not None:
                with torch.no_grad():
                    known().copy_(value)
        return results

    # the first call --------------------------------------------------------------------------------

    def _first(
        self,
        key: Any,
        environment: Environment,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: list[Any],
        tensors: list[Tensor],
    ) -> Any:
        shapes = tuple(tuple(x.shape) for x in tensors)
        refused = self.refused.setdefault(key, set())
        guarded = sum(bool(program.guards) for program in self.programs.get(key, ()))
        if shapes in refused or len(refused) >= _MAX_ATTEMPTS or guarded >= _MAX_ATTEMPTS:
            return self._original(args, kwargs)
        try:
            with _unseen(), transforms.outside(_spaces(environment)):
                plain = list(map(transforms.unwrapped, tensors))
                compiled = self._compile(environment, *_given(plain, leaves, self._spec), plain)
        except ProgramError as error:
            # the program itself fails on these arguments: let it, in its own words
            refused.add(shapes)
            result = self._original(args, kwargs)
            self._refuse(error)
            return result
        except CaptureError as error:
            refused.add(shapes)
            self._refuse(error)
            if self.options.strict and not any(0 in s or 1 in s for s in shapes):
                raise
            return self._original(args, kwargs)
        except (NotLinearError, StateError):
            raise
        except (LinrecError, *FAILURES) as error:
            refused.add(shapes)
            result = self._original(args, kwargs)
            self._broke(error)
            return result
        self.programs.setdefault(key, []).append(compiled)
        self.report = compiled.report
        lengths = compiled.lengths(tensors)
        if lengths is None or not compiled.is_sound_for(tensors, lengths):
            return self._original(args, kwargs)
        if self.options.verify != "off" and not self._verify(compiled, environment, args, kwargs, tensors):
            self.programs[key].remove(compiled)
            return self._original(args, kwargs)  # it fails on these arguments: let it, in its own words
        if compiled.rejected:
            return self._original(args, kwargs)
        return self._run(compiled, tensors, leaves)

    def _original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.function(*args, **kwargs)
        except Exception as error:
            for r in self.report.recurrences:
                error.add_note(f"in {self.name}, which holds recurrence {r.name} ({r.source}); it ran as written")
            raise

    def _broke(self, error: Exception, where: str = "") -> None:
        """A defect of linrec's, where the program itself runs: nobody is stopped by it, but it is told aloud."""
        name = type(error).__name__
        self._refuse(CaptureError("LR9002", f"linrec itself failed with {name}{where}: {error}"), logging.WARNING)

    def _refuse(self, error: CaptureError, level: int = logging.INFO) -> None:
        place = "" if error.file is None else f"{os.path.basename(error.file)}:{error.line}"
        line = "" if error.file is None else linecache.getline(error.file, error.line or 0).strip()
        if not self.report.recurrences:
            self.report = replace(
                self.report, name=self.name, code=error.code, reason=error.message, help=error.help or "", source=place, line=line,
                captures=self.captures, versions=findings.versions(),
            )  # fmt: skip
        log.log(level, "%s runs as written: %s", self.name, error)

    @_uncollected()
    def _compile(
        self, environment: Environment, args: Any, kwargs: Any, tensors: list[Tensor], *, of_any_length: bool = False
    ) -> Compiled:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        earlier = [made.captured for made in self.programs.get(self._key(leaves, spec, environment), ())]
        with disabled():  # what is compiled inside is captured as written
            captured = capture(
                self.function, environment, args, kwargs, self.name, earlier=earlier, of_any_length=of_any_length
            )
        self.captures += 1
        compiled = self.build(captured, environment, tensors)
        compiled.example = _example(args, kwargs)
        for open_ in ("TB", "T"):
            fixed = {n: v for n, v in _solve(captured.graph, tensors).items() if n[0] not in open_}
            if not fixed or not _without_sizes(compiled):
                continue
            # a form may exist once sizes other than time and batch are known, or all but time where a batch is mixed
            special = self._special(captured, fixed, environment, tensors)
            if _without_sizes(special) >= _without_sizes(compiled):
                continue
            for name in tuple(fixed) if len(fixed) > 1 else ():  # those that make no difference stay open
                fewer = {n: v for n, v in fixed.items() if n != name}
                other = self._special(captured, fewer, environment, tensors)
                if _without_sizes(other) <= _without_sizes(special):
                    fixed, special = fewer, other
            special.example, compiled = compiled.example, special
        return compiled

    def _special(
        self, captured: Capture, fixed: Mapping[str, int], environment: Environment, tensors: list[Tensor]
    ) -> Compiled:
        graph = specialized(captured.graph, fixed)
        return self.build(replace(captured, graph=graph), environment, tensors)

    def build(self, captured: Capture, environment: Environment, tensors: list[Tensor]) -> Compiled:
        """Passes and emission for a captured program. Raises NotLinearError under `strict`."""
        started = time.perf_counter()
        inputs = captured.graph.inputs
        getters = [
            environment.tensors[i.path] if i.path else _constant(captured.constants[i.name])
            for i in inputs[len(tensors) :]
        ]
        learned = torch.is_grad_enabled()
        frozen = frozenset(
            i.name
            for i, get in zip(inputs[len(tensors) :], getters, strict=True)
            if not (learned and get().requires_grad)
        )
        lengths = _solve(captured.graph, tensors)
        gradients = learned and (len(frozen) < len(inputs) - len(tensors) or any(x.requires_grad for x in tensors))
        context = Context(
            lengths, frozen, self.options.forms, gradients=gradients, differentiable=learned or transforms.is_transformed(),
            machine=calibration.load(), superposition=superposition,
        )  # fmt: skip
        stages = Stages()
        graph = default_pipeline([stages]).run(captured.graph, context)
        passed = time.perf_counter()
        program = emit(graph, frozen)
        constants = [Cached(program.namespace[c.function], len(c.sources)) for c in program.constants]
        seconds = {"capture": captured.seconds, "passes": passed - started, "emit": time.perf_counter() - passed}
        report = findings.build(self.name, captured, stages.graphs, context, seconds, self.captures)
        if self.options.strict:
            for r in report.recurrences:
                if r.form == "sequential":
                    raise NotLinearError(r.code or "LR2002", r.reason, loop=r.name, file=r.source, help=r.help)
        metadata = [metadata_of(get()) for get in getters]
        guards = [(environment.tensors[path], held) for path, held in captured.guards]
        return Compiled(captured, graph, program, constants, getters, metadata, report, guards=guards)

    # verification ----------------------------------------------------------------------------------

    def _verify(
        self, compiled: Compiled, environment: Environment, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> bool:
        """Compare with the original on at most 64 steps; a difference rejects the program.

        False if the original itself cannot run on these arguments.
        """
        with _unseen(), transforms.outside(_spaces(environment)):
            return self._compare(compiled, environment, args, kwargs, list(map(transforms.unwrapped, tensors)))

    def _compare(
        self, compiled: Compiled, environment: Environment, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> bool:
        lengths = compiled.lengths(tensors)
        assert lengths is not None
        steps = lengths.get("T")
        short = {**lengths, "T": min(steps, STEPS)} if steps is not None else lengths
        cut = [_narrowed(x, i.type.shape, short) for x, i in zip(tensors, compiled.graph.inputs, strict=False)]
        leaves, spec = pytree.tree_flatten((args, kwargs))
        ran = short.get("T", max((evaluate(t.trip, lengths) for t in compiled.captured.graph.times), default=0))

        def original(*inputs: Tensor) -> list[Any]:
            a, k = _given(list(inputs), leaves, spec)
            with disabled(), Restored(environment), _saved(environment):
                return pytree.tree_leaves(self.function(*a, **k))

        def emitted(*inputs: Tensor) -> list[Any]:
            with Restored(environment), _saved(environment):
                return list(compiled.run(list(inputs))[0])

        parameters = [x for get in compiled.getters if isinstance(x := get(), Tensor) and x.is_leaf]
        if _raises(original, cut):
            if _raises(original, tensors):
                return False
            cut, ran = tensors, steps or ran  # it cannot run short
        try:
            found = compare(original, emitted, cut, parameters, ran)
        except (LinrecError, *FAILURES) as error:
            first = str(error).splitlines()[0][:200] if str(error) else ""
            found = Verification(True, False, ran, note=f"{type(error).__name__} on the first {ran} steps: {first}")
        compiled.report = replace(compiled.report, verification=found)
        self.report = compiled.report
        if not found.passed:
            compiled.rejected = True
            forms = self.options.forms if isinstance(self.options.forms, str) else "auto"
            file = leave(Reproducer(compiled.captured.graph, None, forms, "LR5001 on the first call"))
            found = replace(found, reproducer=file)
            compiled.report = findings.rejected(replace(compiled.report, verification=found))
            self.report = compiled.report
            log.warning(
                "%s: LR5001 the compiled form disagrees with the original (%s); running as written%s",
                self.name,
                found.note,
                f"; repro: {file}   next: linrec bisect {file}" * bool(file),
            )
        return True


def _given(tensors: list[Tensor], leaves: list[Any], spec: pytree.TreeSpec) -> tuple[Any, Any]:
    """Arguments with other tensors."""
    given = iter(tensors)
    args, kwargs = pytree.tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], spec)
    return args, kwargs


def _example(args: Any, kwargs: Any) -> tuple[list[Any], Any]:
    """Arguments without the numbers in their tensors."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    kept = [x.detach().new_empty(()).expand(x.shape) if isinstance(x, Tensor) else x for x in leaves]
    return kept, spec


@functools.cache
def _flat(count: int) -> pytree.TreeSpec:
    """How `count` tensors lie in a call without keywords."""
    return pytree.tree_structure(((0,) * count, {}))


def _unseen() -> AbstractContextManager[Any]:
    """A caller's hooks on saved tensors (checkpointing) see the program itself only; under torch.func there are none."""
    return nullcontext() if transforms.is_transformed() else torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _spaces(environment: Environment) -> list[dict[str, Any]]:
    """The dictionaries that hold the tensors of its modules; `functional_call` puts others there for a while."""
    return [space for module in environment.modules.values() for space in registers(module)]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _raises(function: Callable[..., Any], inputs: list[Tensor]) -> bool:
    state = torch.get_rng_state()
    try:
        with torch.no_grad(), trial():
            function(*(x.detach().clone() for x in inputs))
    except LinrecError:
        return True
    finally:
        torch.set_rng_state(state)
    return False


@contextmanager
def _saved(environment: Environment) -> Iterator[None]:
    """Leave the numbers in buffers and captured tensors as they were."""
    kept = [(x, x.detach().clone()) for get in environment.tensors.values() if not (x := get()).requires_grad]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _solve(graph: Graph, tensors: list[Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for given, i in zip(tensors, graph.inputs, strict=False):
        for actual, dim in zip(given.shape, i.type.shape, strict=True):
            if isinstance(dim, Size) and len(dim.names) == 1:
                found.setdefault(next(iter(dim.names)), actual - dict(dim.terms).get((), 0))
    return found


def _narrowed(tensor: Tensor, shape: tuple[Any, ...], lengths: Mapping[str, int]) -> Tensor:
    for axis, dim in enumerate(shape):
        wanted = evaluate(dim, lengths)
        if wanted != tensor.shape[axis]:
            tensor = tensor.narrow(axis, 0, wanted)
    return tensor


def _without_sizes(compiled: Compiled) -> int:
    """How many recurrences are kept for want of a form, or of a number for a size."""
    return sum(r.code in ("LR1297", "LR2002") for r in compiled.report.recurrences)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _plain(leaf: Any) -> Any:
    return (type(leaf), leaf) if isinstance(leaf, bool | int | float | complex | str | type(None)) else id(leaf)
