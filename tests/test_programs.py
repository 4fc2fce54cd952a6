"""The corpus of programs: compiled, each equals the original at any length, and is called what it is.

Results are compared with `verify="off"`, so that a wrong parallel form is seen here and not caught by linrec's own
check. "Parallel" is checked by counting the operators that are dispatched, never by asking the report.
"""

from __future__ import annotations

import copy
import functools
import itertools
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contract import dispatched
from programs import Expected, Program, corpus
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import linrec
from linrec.reports import Recurrence, Report

PROGRAMS = corpus()
FIRST, LATER = 29, (64, 3, 2, 1)
UNSEEN = 47  # with another batch size
ASCENDING = (1, 2, 3, 29, 64, 47)
QUICK_OF = 3  # one program in so many is compiled by `make test`, all by `make test-all`


def named(programs: Sequence[Program], *, quick: bool = True) -> pytest.MarkDecorator:
    """One test for each program; those that are not quick are marked slow."""
    order = {name: i for i, name in enumerate(PROGRAMS)}
    return pytest.mark.parametrize(
        "program",
        [
            pytest.param(p, id=p.name, marks=() if quick and order[p.name] % QUICK_OF == 0 else pytest.mark.slow)
            for p in programs
        ],
    )


pytestmark = pytest.mark.slow  # a corpus: run by make test-all

ALL = tuple(PROGRAMS.values())
PARALLEL = tuple(p for p in ALL if p.is_parallel)
PARTIAL = tuple(p for p in ALL if p.is_partial)


@functools.cache
def compiled(name: str) -> tuple[Callable[..., Any], Report]:
    """A program compiled once for all its tests, and its report after a first call."""
    program = PROGRAMS[name]
    made = linrec.compile(program.build(), verify="off")
    with torch.set_grad_enabled(program.gradients):
        made(*program.inputs(program.length(FIRST), 8))
    return made, linrec.report(made)


# ---- results -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one call returned, left behind and gave as gradients."""

    structure: Any
    leaves: list[Any]
    left: dict[str, Tensor]
    gradients: dict[str, Tensor | None]


def outcome(call: Callable[..., Any], inputs: tuple[Tensor, ...], gradients: bool = True) -> Outcome:
    """Run a program forward and backward, with a fixed seed and fixed cotangents."""
    smooth = [gradients and (x.is_floating_point() or x.is_complex()) for x in inputs]
    roots = [x.clone().requires_grad_(s) for x, s in zip(inputs, smooth, strict=True)]
    given = [x.clone() for x in roots]  # a program may write to what it is given, a leaf must not be
    parameters = dict(call.named_parameters()) if isinstance(call, nn.Module) else {}
    for p in parameters.values():
        p.grad = None
    torch.manual_seed(5)
    with torch.set_grad_enabled(gradients):
        result = call(*given)
    leaves, structure = torch.utils._pytree.tree_flatten(result)
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros((), dtype=torch.float64)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            flat = torch.view_as_real(leaf) if leaf.is_complex() else leaf
            total = total + (flat * torch.rand(flat.shape, generator=generator, dtype=torch.float64)).sum()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    left = {f"input {i}": x.detach() for i, x in enumerate(given)}
    if isinstance(call, nn.Module):
        left |= {name: b.detach().clone() for name, b in call.named_buffers()}
        left |= {name: v.detach() for name, v in vars(call).items() if isinstance(v, Tensor)}
    slopes = {f"input {i}": x.grad for i, x in enumerate(roots) if x.requires_grad}
    slopes |= {name: p.grad for name, p in parameters.items()}
    return Outcome(structure, [x.detach() if isinstance(x, Tensor) else x for x in leaves], left, slopes)


def assert_same(got: Outcome, wanted: Outcome, tolerance: float, where: str) -> None:
    """Same structure, values, effects and gradients."""
    assert got.structure == wanted.structure, where
    for i, (a, b) in enumerate(zip(got.leaves, wanted.leaves, strict=True)):
        if isinstance(b, Tensor):
            assert_close(a, b, tolerance, f"{where}: output {i}")
        else:
            assert a == b, f"{where}: output {i}"
    assert got.left.keys() == wanted.left.keys(), where
    for name, left in wanted.left.items():
        assert_close(got.left[name], left, tolerance, f"{where}: {name} after the call")
    for name, gradient in wanted.gradients.items():
        own = got.gradients[name]
        zero = torch.zeros_like(own if own is not None else gradient if gradient is not None else torch.zeros(()))
        a, b = zero if own is None else own, zero if gradient is None else gradient
        assert_close(a, b, tolerance, f"{where}: gradient of {name}")


def assert_close(got: Tensor, wanted: Tensor, tolerance: float, where: str) -> None:
    """Equal but for rounding; integers and booleans are equal."""
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), where
    if not (wanted.is_floating_point() or wanted.is_complex()):
        assert torch.equal(got, wanted), where
    elif wanted.numel():
        error = float((got - wanted).abs().nan_to_num(nan=torch.inf).max())
        allowed = tolerance * (1 + float(wanted.abs().max()))
        assert error <= allowed, f"{where}: error {error:.1e}, allowed {allowed:.1e}"


def check(program: Program, original: Callable[..., Any], made: Callable[..., Any], steps: int, batch: int) -> None:
    """One call of both."""
    inputs = program.inputs(steps, batch)
    where = f"{program.name} at T={steps}, batch {batch}"
    got, wanted = (outcome(f, inputs, program.gradients) for f in (made, original))
    assert_same(got, wanted, program.tolerance, where)


@named(ALL)
def test_values_and_gradients(program: Program) -> None:
    original, made = program.build(), linrec.compile(program.build(), verify="off")
    for steps in dict.fromkeys(program.length(n) for n in (FIRST, *LATER, *program.also)):
        check(program, original, made, steps, batch=2)
    check(program, original, made, program.length(UNSEEN), batch=3)


@named(ALL, quick=False)
def test_values_and_gradients_short_calls_first(program: Program) -> None:
    original, made = program.build(), linrec.compile(program.build(), verify="off")
    for steps in dict.fromkeys(program.length(n) for n in ASCENDING):
        check(program, original, made, steps, batch=3)


@named(ALL, quick=False)
def test_the_original_is_left_alone(program: Program) -> None:
    original = program.build()
    before = copy.deepcopy(original)
    inputs = program.inputs(program.length(FIRST), 2)
    with torch.set_grad_enabled(program.gradients):
        linrec.explain(original, *(x.clone() for x in inputs))
    after, wanted = (outcome(f, inputs, program.gradients) for f in (original, before))
    assert_same(after, wanted, 0.0, program.name)


# captured anew for each length, or batch: capture cannot read what other lengths would do, and says so
HELD = frozenset(
    """
    ParameterChosenByT branch_on_a_step_beyond_short_traces chunk_by_chunk every_second_output every_second_step
    last_valid_step_of_each_row list_of_steps loop_over_batch mixed_number_and_tensor_state
    reset_at_every_hundredth_step ring_in_a_tensor steps_inside_chunks table_computed_from_the_length
""".split()
)


@named([p for p in PARALLEL if p.length(4) == 4])
def test_one_capture_serves_all(program: Program) -> None:
    """Every length and batch size from one capture; no other axis of the corpus is as long as these batches."""
    made, _ = compiled(program.name)
    with torch.set_grad_enabled(program.gradients):
        for steps, batch in ((64, 8), (4, 8), (47, 11)):
            made(*program.inputs(program.length(steps), batch))
    report = linrec.report(made)
    assert (report.captures == 1) != (program.name in HELD), told(report)


# ---- verdicts ----------------------------------------------------------------------------------------


CURED = {f"LR12{i:02}" for i in range(1, 11)} | {"LR0301", "LR0302", "LR0303"}


def fits(found: Recurrence, wanted: Expected) -> bool:
    """Is this entry of a report as expected?"""
    is_linear = found.kind in ("lti", "ltv")
    return (
        found.kind in wanted.kinds
        and (found.semiring in wanted.semirings or not is_linear)
        and (wanted.structures is None or not is_linear or found.structure in wanted.structures)
        and (wanted.form == "either" or (found.form == "sequential") == (wanted.form == "sequential"))
        and (wanted.codes is None or found.code in wanted.codes)
    )


def is_as_expected(found: list[Recurrence], program: Program) -> bool:
    """Does each entry have its expectation and each expectation its entry?"""
    if program.many:
        return bool(found) and all(any(fits(r, e) for e in program.expected) for r in found)
    needed = [e for e in program.expected if not e.optional]
    optional = [e for e in program.expected if e.optional]
    for n in range(len(optional) + 1):
        for more in itertools.combinations(optional, n):
            if len(found) == len(needed) + n and any(
                all(map(fits, found, order)) for order in itertools.permutations([*needed, *more])
            ):
                return True
    return False


def told(report: Report) -> str:
    """A report in a few lines, for a failing test."""
    lines = [
        f"  {r.name}: {r.kind} {r.structure} {r.semiring} {r.form} {r.code} at {r.source}: {r.reason} {r.notes}"
        for r in report.recurrences
    ]
    return "\n".join(["found", *lines, f"  program: {report.code} {report.reason}"])


def assert_verdict(program: Program, report: Report) -> None:
    """The verdict that follows from the mathematics, and reasons that a user can act on."""
    if program.refusal and not report.recurrences:
        assert report.code in program.refusal, told(report)
        assert report.reason, "no reason is given"
        assert report.help or report.code not in CURED, f"{report.code} has a cure that is not shown"
        assert report.source.startswith(program.file), f"blamed {report.source!r}, not a line of {program.file}"
        return
    wanted = "\n".join(f"  {e}" for e in program.expected)
    assert program.expected or not report.recurrences, told(report)
    assert is_as_expected(report.recurrences, program), f"{told(report)}\nwanted\n{wanted}"
    for r in report.recurrences:
        assert r.source.startswith(program.file), f"{r.name} is blamed on {r.source!r}, not a line of {program.file}"
        if r.kind == "nonlinear" and r.code:
            assert r.reason, f"{r.name}: no reason is given"
            assert r.done, f"{r.name}: what was done instead is not said"
            assert r.help or r.code not in CURED, f"{r.name}: {r.code} has a cure that is not shown"
            assert_blames(program, r)


def assert_blames(program: Program, found: Recurrence) -> None:
    """The refusal points at the operator that breaks linearity."""
    marks = [e.blames for e in program.expected if e.blames and e.codes and found.code in e.codes]
    file, _, line = found.source.rpartition(":")
    text = linecache.getline(f"{corpus.__code__.co_filename.rpartition('/')[0]}/{file}", int(line))
    assert not marks or any(m in text or m in found.culprit for m in marks), f"blamed {text.strip()!r}, not {marks}"


@named(ALL)
def test_verdict(program: Program) -> None:
    assert_verdict(program, compiled(program.name)[1])


@named(ALL, quick=False)
def test_explain(program: Program) -> None:
    """The same verdict from `explain`, whose check against the original must not fail."""
    with torch.set_grad_enabled(program.gradients):
        report = linrec.explain(program.build(), *program.inputs(program.length(FIRST), 2))
    assert_verdict(program, report)
    assert report.verification.passed, report.verification.note


@named([p for p in ALL if p.is_refused or p.is_partial], quick=True)
def test_nothing_nonlinear_is_called_linear(program: Program) -> None:
    _, report = compiled(program.name)
    linear = [r for r in report.recurrences if r.kind in ("lti", "ltv")]
    assert len(linear) <= sum(e.form != "sequential" for e in program.expected), told(report)


# ---- parallel by count -------------------------------------------------------------------------------


def operators(call: Callable[..., Any], program: Program, steps: int) -> int:
    """How many operators a call dispatches, after a call that captures and warms up."""
    inputs = program.inputs(program.length(steps), 8)
    with torch.set_grad_enabled(program.gradients):
        call(*(x.clone() for x in inputs))
        return dispatched(call, *(x.clone() for x in inputs))


def returned_a_step(program: Program) -> int:
    """Programs that return one tensor for each step dispatch as many operators to make them."""
    leaves = [len(tree_leaves(program.build()(*program.inputs(program.length(n), 2)))) for n in (8, 16)]
    return (leaves[1] - leaves[0]) // 8


LOOPING = {"branch_on_a_step_beyond_short_traces", "reset_at_every_hundredth_step", "chunk_by_chunk"}


@named(PARALLEL)
def test_parallel_by_count(program: Program, request: pytest.FixtureRequest) -> None:
    if program.name in LOOPING:
        request.applymarker(pytest.mark.xfail(strict=True, reason="at 512 steps of its own the capture gives up"))
    # A loop grows eightfold and by at least two operators a step; a scan of two levels by sqrt(8) = 2.8.
    (made, _), spread = compiled(program.name), returned_a_step(program)
    short, long = (operators(made, program, n) - spread * n for n in (64, 512))
    assert long < 4 * short, f"{short} operators at T=64, {long} at T=512"
    if (
        long - short >= 448
    ):  # levels of many operators? Those of a loop grow by 4 over 64, 128, 256, 512, of log(T) levels by 1
        early, late = (operators(made, program, 2 * n) - spread * n - operators(made, program, n) for n in (64, 256))
        assert late < 2.8 * early, (
            f"{short} operators at T=64, {long} at T=512: {(long - short) / 448:.1f} for each step"
        )


@named(PARTIAL)
def test_linear_parts_leave_the_loop(program: Program) -> None:
    # What a step costs must fall, by at least the two operators of a linear recurrence.
    before, after = (
        operators(f, program, 512) - operators(f, program, 64) for f in (program.build(), compiled(program.name)[0])
    )
    assert after <= before - 2 * 448, f"{before / 448:.1f} operators a step before, {after / 448:.1f} after"


# ---- the corpus itself -------------------------------------------------------------------------------


def test_the_corpus_covers_what_it_should() -> None:
    expected = [e for p in ALL for e in p.expected]
    codes = {c for e in expected for c in e.codes or ()}.union(*(p.refusal for p in ALL))
    assert len(ALL) >= 140
    assert sum(p.is_refused for p in ALL) >= 45
    assert {f"LR12{i:02}" for i in range(1, 11)} | {"LR0301", "LR0302", "LR0303", "LR0405"} <= codes
    assert {s for e in expected for s in e.semirings} >= {"max-plus", "min-plus", "log-sum-exp"}
    assert {s for e in expected for s in e.structures or ()} >= {
        "scalar", "diagonal", "block-diagonal", "companion", "diagonal+low-rank", "dense",
    }  # fmt: skip


def test_programs_are_stable() -> None:
    """Results that grow without bound would hide errors behind the tolerance."""
    for program in ALL:
        torch.manual_seed(0)
        with torch.no_grad():
            result = program.build()(*program.inputs(program.length(64), 2))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.numel() and leaf.dtype != torch.bool:
                assert leaf.abs().max() < 1e4, program.name
