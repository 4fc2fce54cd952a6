"""The judge of one program: values and gradients against the original, the verdict, errors, and whether it is parallel.

Everything runs with `verify="off"`, so that a wrong parallel form is seen here and not caught by the compiler's own check.
"Parallel" is decided by counting the operators that are dispatched, never by asking the report.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

import linrec
from fuzz.program import Generated

FIRST = (12, 5)  # steps and batch of the call that captures
LENGTHS = ((1, 5), (2, 3), (64, 5), (23, 7))  # 23 and 64 are never traced
SHORT, LONG = 64, 512
TOLERANCE = 1e-8
LARGEST = 1e6  # programs that grow beyond this are not fit to compare
SECONDS = 20
# What Python and torch raise for a program that is wrong. A LinrecError is judged beside these: the original accepted the
# call, so that a refusal is a failure too. Anything else is a fault of the judge and ends the run.
RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)

INVALID, SAME = "invalid", "same"
# in the order in which they matter
FAILURES = (
    "wrong value",
    "wrong gradient",
    "wrong linear",
    "exception",
    "swallowed",
    "no code",
    "timeout",
    "not parallel",
)


@dataclass(frozen=True)
class Judgement:
    """What was found: one of FAILURES, "same" if nothing, "invalid" if the original itself cannot be compared."""

    kind: str
    note: str = ""
    codes: tuple[str, ...] = ()
    captures: int = 0
    operators: tuple[int, int] = (0, 0)

    @property
    def cause(self) -> str:
        """A short key under which failures of one cause meet."""
        return f"{self.kind}: {self.note.splitlines()[0][:110] if self.note else ''}"


class OutOfTime(BaseException):
    """A program took too long; nothing may catch it on its way."""


@dataclass
class Outcome:
    """What one call returned, left behind and gave as gradients."""

    structure: Any
    leaves: list[Any]
    effects: dict[str, Tensor]
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    is_differentiable: bool = True


def judge(program: Generated, folder: Path, *, lengths: Sequence[tuple[int, int]] = LENGTHS) -> Judgement:
    """Compile a program, call it at several lengths, and say what is wrong with it."""
    rung: list[int] = []
    try:
        with _limited(SECONDS, rung), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judge(program, folder, lengths)
    except OutOfTime:
        return Judgement("timeout", f"more than {SECONDS} s")
    except RuntimeError:
        if not rung:
            raise
        return Judgement("timeout", f"more than {SECONDS} s")  # torch's C++ has made an error of its own of it


def _judge(program: Generated, folder: Path, lengths: Sequence[tuple[int, int]]) -> Judgement:
    try:
        build = program.load(folder)
        original = build()
        calls = [FIRST, *(c for c in lengths if c[0] >= program.smallest)]
        wanted = [_outcome(original, program.arguments(*c)) for c in calls]
        with torch.no_grad():
            large = original(*program.arguments(SHORT, FIRST[1]))
    except RAISED as error:  # whatever a generated program does wrong by itself
        return Judgement(INVALID, f"{type(error).__name__}: {error}")
    if not all(_is_bounded(x) for x in (*tree_leaves(large), *(leaf for w in wanted for leaf in w.leaves))):
        return Judgement(INVALID, "values grow without bound")
    if not all(w.is_differentiable for w in wanted):  # a single step may miss the operator that has no derivative
        wanted = [replace(w, is_differentiable=False) for w in wanted]
    heard = _Heard()
    made = linrec.compile(build(), verify="off")
    try:
        with heard.listening():
            for call, want in zip(calls, wanted, strict=True):
                got = _outcome(made, program.arguments(*call), want.is_differentiable)
                found = difference(got, want, f"T={call[0]}, B={call[1]}")
                if found:
                    return found
                if call == FIRST:  # a single step holds no recurrence
                    report = linrec.report(made)
            gradients = wanted[0].is_differentiable
            operators = (0, 0) if program.nonlinear else _counted(made, program, gradients, report)
    except (*RAISED, linrec.LinrecError) as error:  # the original ran on the same arguments: nothing may be raised
        return Judgement("exception", f"{type(error).__name__}: {error} ({_place(error)})")
    captures = linrec.report(made).captures
    codes = tuple(sorted({r.code for r in report.recurrences if r.code} | ({report.code} if report.code else set())))
    told = "; ".join(f"{r.kind} {r.semiring} {r.structure} {r.form} {r.code} {r.reason}" for r in report.recurrences)
    told = told or f"{report.code} {report.reason}"
    linear = [r for r in report.recurrences if r.kind in ("lti", "ltv")]
    if program.nonlinear and (len(linear) > program.linear or (linear and len(linear) == len(report.recurrences))):
        return Judgement("wrong linear", told, codes, captures, operators)
    if heard.failures:
        return Judgement("swallowed", heard.failures[0], codes, captures, operators)
    for r in report.recurrences:
        if r.form == "sequential" and not (r.code and r.reason):
            return Judgement("no code", told, codes, captures, operators)
    if not report.recurrences and not report.code and program.nonlinear:
        return Judgement("no code", "neither a recurrence nor a code is reported", codes, captures, operators)
    short, long = operators
    if not program.nonlinear and (long >= 4 * short or long - short >= LONG - SHORT):
        refused = [f"{r.code} {r.reason}" for r in report.recurrences if r.form == "sequential"]
        return Judgement(
            "not parallel",
            (refused or [f"{report.code} {report.reason}"])[0] + f"\n{told}",
            codes,
            captures,
            operators,
        )
    return Judgement(SAME, told, codes, captures, operators)


# ---- running -----------------------------------------------------------------------------------------


def _outcome(call: Callable[..., Any], inputs: tuple[Tensor, ...], gradients: bool = True) -> Outcome:
    """Run a program forward and, where it can be differentiated, backward."""
    smooth = [gradients and (x.is_floating_point() or x.is_complex()) for x in inputs]
    roots = [x.clone().requires_grad_(s) for x, s in zip(inputs, smooth, strict=True)]
    given = [x.clone() for x in roots]
    parameters = dict(call.named_parameters()) if isinstance(call, nn.Module) else {}
    for p in parameters.values():
        p.grad = None
    torch.manual_seed(5)
    with torch.set_grad_enabled(gradients):
        result = call(*given)
    leaves, structure = tree_flatten(result)
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros((), dtype=torch.float64)
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            flat = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
            weights = torch.rand(flat.shape, generator=generator, dtype=torch.float64)
            total = total + (flat * weights).sum() if leaf.requires_grad else total
    left = {f"input {i}": x.detach() for i, x in enumerate(given)}
    if isinstance(call, nn.Module):
        left |= {name: b.detach().clone() for name, b in call.named_buffers()}
        left |= {name: v.detach() for name, v in vars(call).items() if isinstance(v, Tensor)}
    made = Outcome(structure, [x.detach() if isinstance(x, Tensor) else x for x in leaves], left)
    if total.requires_grad:
        try:
            total.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error) and "is not implemented" not in str(error):
                raise
            made.is_differentiable = False  # the program writes to what its own gradient needs, or has none
            return _outcome(call, inputs, False) if gradients else made
    made.gradients = {f"input {i}": x.grad for i, x in enumerate(roots) if x.requires_grad}
    made.gradients |= {name: p.grad for name, p in parameters.items()}
    made.is_differentiable = gradients
    return made


def difference(got: Outcome, want: Outcome, where: str) -> Judgement | None:
    """What is wrong with a call, None if nothing."""
    if got.structure != want.structure:
        return Judgement("wrong value", f"another structure at {where}")
    for i, (a, b) in enumerate(zip(got.leaves, want.leaves, strict=True)):
        if note := _unequal(a, b):
            return Judgement("wrong value", f"{note}\noutput {i} at {where}")
    if got.effects.keys() != want.effects.keys():
        return Judgement("wrong value", f"other attributes after the call\nat {where}")
    for name, left in want.effects.items():
        if note := _unequal(got.effects[name], left):
            return Judgement("wrong value", f"effect: {note}\n{name} after the call at {where}")
    if not want.is_differentiable:
        return None
    for name, gradient in want.gradients.items():
        given = got.gradients.get(name)
        if given is None or gradient is None:
            present = gradient if given is None else given
            if present is not None and present.abs().max() > 0:
                which = "missing" if given is None else "not in the original"
                return Judgement("wrong gradient", f"{which}\n{name} at {where}")
        elif note := _unequal(given, gradient):
            return Judgement("wrong gradient", f"{note}\n{name} at {where}")
    return None


def _unequal(got: Any, want: Any) -> str:
    """What differs, "" if nothing."""
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        return (
            "" if type(got) is type(want) and got == want else f"{type(got).__name__} instead of {type(want).__name__}"
        )
    if type(got) is not type(want):
        return f"a {type(got).__name__} is returned"
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{tuple(got.shape)} {got.dtype} instead of {tuple(want.shape)} {want.dtype}"
    if want.numel() == 0:
        return ""
    if not (want.is_floating_point() or want.is_complex()):
        return "" if torch.equal(got, want) else "other integers"
    finite = torch.isfinite(want)
    if not torch.equal(torch.isfinite(got), finite):
        return "not finite at the same places"
    if not bool(finite.any()):
        return ""
    error = float((got - want)[finite].abs().max())
    allowed = TOLERANCE * (1 + float(want[finite].abs().max()))
    return "" if error <= allowed else "values differ" + ("" if error > 1e-5 * allowed / TOLERANCE else " a little")


def _is_bounded(leaf: Any) -> bool:
    return not isinstance(leaf, Tensor) or leaf.numel() == 0 or bool(leaf.abs().max() < LARGEST)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that are dispatched."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _counted(call: Callable[..., Any], program: Generated, gradients: bool, report: linrec.Report) -> tuple[int, int]:
    """Operators at T=64 and T=512. A report that tells of a loop is believed, which spares the long call."""
    short = _dispatched(call, program, SHORT, gradients)
    if any(r.form == "sequential" for r in report.recurrences):
        return short, short * LONG // SHORT
    long = _dispatched(call, program, LONG, gradients)
    if long - short < LONG - SHORT:
        return short, long
    # More than one a step: a loop, or a scan whose levels are costly? Over 64, 128, 256, 512 the growth of a loop grows by 4,
    # that of sqrt(T) levels by 2, of log(T) levels by 1.
    early = _dispatched(call, program, 2 * SHORT, gradients) - short
    late = long - _dispatched(call, program, LONG // 2, gradients)
    return (short, long) if late > 2.8 * early else (short, min(long, short + LONG - SHORT - 1))


def _dispatched(call: Callable[..., Any], program: Generated, steps: int, gradients: bool) -> int:
    """How many operators a call dispatches; the same kind of call as those before, or it would be captured anew."""
    inputs = [x.requires_grad_(gradients and x.is_floating_point()) for x in program.arguments(steps, FIRST[1])]
    counter = Counter()  # type: ignore[no-untyped-call]
    with torch.set_grad_enabled(gradients):
        call(*(x.clone() for x in inputs))
        with counter:
            call(*(x.clone() for x in inputs))
    return counter.count


class _Heard(logging.Handler):
    """Hears of failures inside that were passed over by running the program as written."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "linrec itself failed" in text:
            self.failures.append(text.partition("LR9002] ")[2])

    @contextmanager
    def listening(self) -> Iterator[None]:
        log = logging.getLogger("linrec")
        level = log.level
        log.addHandler(self)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.setLevel(level)
            log.removeHandler(self)


@contextmanager
def _limited(seconds: int, rung: list[int]) -> Iterator[None]:
    def ring(signum: int, frame: Any) -> None:
        rung.append(signum)
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(
        signal.ITIMER_PROF, seconds, 1
    )  # again and again: a callback that cannot raise may catch the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _place(error: BaseException) -> str:
    """Where in the compiler an exception was raised."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/linrec/" in name or "/passes/" in name or "/frontends/" in name or name.startswith("<"):
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
