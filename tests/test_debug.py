"""The debugging tools in Python: hooks, the rewrite counter, claims, laws, diagnostics, reproducers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seeded.bugs import BUGS
from seeded.programs import PROGRAMS
from strategies import graphs
from torch import Tensor, nn

import linrec
from linrec import reproducer as files
from linrec.debug import VerifyEach, bisect, check_laws, optimize, trace, validate
from linrec.debug.diagnostics import Diagnostic, compared, expectations, pieces
from linrec.debug.draws import draw, draws
from linrec.debug.export import export, plain
from linrec.debug.hooks import Injected, Limit, Measure, PrintIR, PrintRemarks, PrintRewrites, WriteTree
from linrec.debug.outcomes import difference, outcome
from linrec.errors import LinrecError, StateError, VerificationError, VerifyError
from linrec.ir import Graph
from linrec.manager import Context, Hook, Pass, Pipeline, Stages, watching
from linrec.passes import load_passes
from linrec.text import parse, show

LEAKY, GATED, MEMORY = (parse(PROGRAMS[name]) for name in ("leaky", "gated", "memory"))


class Leaky(nn.Module):
    """A decay with a dense readout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Parameter(torch.full((3,), 0.7)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Batch, time, 3."""
        h = x.new_zeros(x.shape[0], 3)
        ys = []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t]
            ys.append(self.out(h))
        return torch.stack(ys, 1)


# ---- hooks ----


def test_every_flag_is_a_hook(tmp_path: Path) -> None:
    lines: list[str] = []
    measure, stages = Measure(), Stages()
    hooks: list[Hook] = [
        measure, stages, WriteTree(tmp_path), PrintRemarks(lines.append, ("passed",), re.compile("lower")),
        PrintIR(lines.append, ["lower"], ["cse"], after_change=True),
    ]  # fmt: skip
    made = optimize(GATED, hooks=hooks)
    assert list(stages.graphs) == list(load_passes()) == list(measure.rows)
    assert stages.graphs["lower"] == made
    texts = "\n".join(lines)
    assert "// ---- before lower ----\ngraph gated" in texts
    assert "// ---- after cse (no change) ----" in texts
    assert "// ---- after lower (changed) ----" in texts
    assert "after dce" not in texts
    assert [x for x in lines if x.startswith("remark")] == ["remark [passed] lower: r0: lowered to scan"]
    written = sorted(p.name for p in (tmp_path / "gated").iterdir())
    assert written[0] == "00-given.lir" and len(written) == 1 + len(load_passes())
    assert parse((tmp_path / "gated" / written[-1]).read_text()) == made
    table = measure.table(timing=True, statistics=True)
    row = next(r for r in table if r[0] == "lower")
    assert table[0] == ("pass", "wall", "%", "rewrites", "statistics")
    assert row[3] == "1" and row[4].startswith("lowered to scan 1, +")


def test_hooks_watch_what_compile_does() -> None:
    stages = Stages()
    x = torch.randn(2, 9, 3)
    with watching(stages):
        linrec.compile(Leaky())(x)
    assert "lower" in stages.graphs
    assert Context().hooks == ()


def test_a_pass_that_fails_is_named_and_shown() -> None:
    lines: list[str] = []

    def broken(graph: Graph) -> Graph:
        return replace(graph, ops=graph.ops[1:])

    hooks = [Injected("cse", broken), PrintIR(lines.append, after_failure=True)]
    with pytest.raises(VerifyError) as caught:
        optimize(LEAKY, hooks=hooks)
    assert caught.value.code == "LR6104"
    assert any("'cse'" in note for note in caught.value.__notes__)
    assert lines[0].startswith("// ---- cse failed on ----\ngraph leaky")


# ---- the counter of rewrites ----


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_prefix_of_the_rewrites_is_right(name: str) -> None:
    """What makes bisection sound: allowed any first n, the program means the same."""
    graph = parse(PROGRAMS[name])
    context = Context()
    optimize(graph, context=context)
    assert [r.number for r in context.rewrites] == list(range(1, len(context.rewrites) + 1))
    for limit in range(len(context.rewrites)):
        assert validate(graph, hooks=[Limit(limit)], steps=(1, 3)) is None, f"{name} after {limit} rewrites"


def test_no_rewrite_allowed_changes_nothing() -> None:
    assert optimize(GATED, hooks=[Limit(0)]) == GATED
    lines: list[str] = []
    optimize(GATED, hooks=[PrintRewrites(lines.append, 2), Limit(2)])
    assert lines[0].startswith("BISECT: running rewrite (1) ")
    assert lines[-1].startswith("BISECT: NOT running rewrite (")


def test_a_pass_that_never_asks_counts_as_one_rewrite() -> None:
    @dataclass(frozen=True)
    class Rename(Pass):
        name: ClassVar[str] = "rename"

        def run(self, graph: Graph, context: Context) -> Graph:
            return replace(graph, name="other")

    context = Context()
    assert Pipeline([Rename()]).run(LEAKY, context).name == "other"
    assert [str(r) for r in context.rewrites] == ["(1) rename on leaky"]
    assert Pipeline([Rename()], [Limit(0)]).run(LEAKY, Context()) == LEAKY


def test_bisect_with_a_test_of_the_users() -> None:
    found = bisect(GATED, test=lambda graph: "scan_diagonal" not in show(graph))
    assert found is not None and found.first is not None
    assert found.first.by == "lower"
    assert str(found).splitlines()[1] == f"first bad rewrite: ({found.first.number}) lower on r0"
    assert bisect(GATED, test=lambda graph: True) is None


# ---- validation ----


def test_validation_is_bit_by_bit_unless_a_pass_reassociates() -> None:
    chosen = next(d for d in draws(GATED) if d.steps == 16)
    first = outcome(GATED, chosen)
    near = replace(first, values={k: v * (1 + 2e-16) for k, v in first.values.items()})
    found = difference(first, near, exact=True)
    assert found is not None and found.code == "LR5001" and found.allowed == 0.0
    assert difference(first, near, exact=False) is None
    far = replace(first, values={k: v * (1 + 1e-9) for k, v in first.values.items()})
    assert difference(first, far, exact=False) is not None


def test_draws_are_the_same_each_time_and_fit_the_loops() -> None:
    backward = parse(PROGRAMS["backward"])
    for chosen in draws(backward):
        inputs = draw(backward, chosen)
        assert inputs["v"].shape[0] == chosen.steps + 1
        torch.testing.assert_close(inputs, draw(backward, chosen), rtol=0, atol=0, equal_nan=True)
    assert [d for d in draws(LEAKY, (0, 2)) if d.steps == 0] == []


def test_verify_each_counts_and_raises() -> None:
    check = VerifyEach((1, 3))
    optimize(GATED, hooks=[check])
    assert check.checks > 3 and 0 <= check.worst < 1e-13 and check.failure is None
    check = VerifyEach((1, 3))
    with pytest.raises(VerificationError) as caught:
        optimize(LEAKY, hooks=[Injected("dce", _without_skip), check])
    assert caught.value.code == "LR5001"
    assert check.failure is not None and check.failure.step == "dce"
    assert str(check.failure).startswith("FAIL LR5001 after dce (T=1, integers, seed 0): output 0: error ")


def _without_skip(graph: Graph) -> Graph:
    text = show(graph).replace("%g = add(%h, %s)", "%g = alias(%h)")
    return parse(text)


def _changed(old: str, new: str) -> Callable[[Graph], Graph]:
    def mutate(graph: Graph) -> Graph:
        text = show(graph)
        assert old in text
        return parse(text.replace(old, new))

    return mutate


@pytest.mark.parametrize(
    ("step", "old", "new", "code"),
    [
        ("cse", "relu(%o)", "sigmoid(%o)", "LR5001"),
        ("cse", "%p = mul(%h[-1], %a)", "%p = mul(%h[-1], %c)", "LR5005"),
        ("cse", "%s = mul(%u, 0.5) : f32[B, 4]", "%s = mul(%u, 0.5) : f32[4, B]", "LR5004"),
        ("cse", "%g = add(%h, %s)", "%hd = detach(%h) : f32[B, 4] @t\n  %g = add(%hd, %s)", "LR5002"),
        ("find-recurrences", "outputs(%h)", "outputs(%p)", "LR5003"),
    ],
)
def test_each_kind_of_failure_has_its_code(step: str, old: str, new: str, code: str) -> None:
    failure = validate(LEAKY, hooks=[Injected(step, _changed(old, new))])
    assert failure is not None and (failure.code, failure.step) == (code, step)


def test_a_pass_that_raises_is_a_failure() -> None:
    def raising(graph: Graph) -> Graph:
        raise KeyError("h")

    failure = validate(LEAKY, hooks=[Injected("hoist", raising)])
    assert failure is not None and (failure.code, failure.step) == ("LR9002", "hoist")
    with pytest.raises(LinrecError) as caught:
        validate(LEAKY, ["hoistt"])
    assert caught.value.code == "LR6005" and "hoist" in (caught.value.help or "")


# ---- the user's model ----


def test_trace_and_export() -> None:
    x = torch.randn(2, 30, 3)
    graph = trace(Leaky(), x)
    assert parse(show(graph)) == graph
    assert any(op.source is not None for op in graph.ops)
    bare = trace(Leaky(), x, sources=False, steps=(5, 7))
    assert all(op.source is None for op in bare.ops) and bare == graph
    made = optimize(graph)
    assert export(graph, made, "ir") == show(made).rstrip("\n")
    assert "def run(constants, x, " in str(export(graph, made, "python"))
    assert "state_h" in str(export(graph, made, "step"))
    assert plain(made)["recurrences"][0]["kind"] == "lti"
    backward = parse(PROGRAMS["backward"])
    with pytest.raises(StateError):
        export(backward, optimize(backward), "step")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_laws_hold(dtype: str) -> None:
    found = list(check_laws(Leaky(), [torch.randn(2, 20, 3)], steps=(1, 2, 17), dtypes=[dtype], order=2))
    assert {v.law for v in found} == {"L1", "L2", "L3"}
    assert all(v.holds and v.error <= v.allowed for v in found), found
    assert all(0 < v.allowed < (1e-2 if dtype == "float32" else 1e-10) for v in found if v.law == "L1")


def test_laws_see_a_bug_of_the_compiler() -> None:
    """A gate of the step before, injected into `linrec.compile` itself."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], 3)
            for t in range(x.shape[1]):
                z = torch.sigmoid(self.gate(x[:, t]))
                h = z * h + (1 - z) * x[:, t]
            return h

    late = next(b for b in BUGS if b.name == "gate-is-of-the-step-before")
    with watching(Injected(late.step, late.mutate)):
        found = [v for v in check_laws(Gated(), [torch.randn(2, 20, 3)], steps=(16,), order=1) if not v.holds]
    assert [v.code for v in found if v.law == "L1"] == ["LR5001"]


def test_laws_say_where_they_do_not_apply() -> None:
    def backward(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        out = []
        for t in reversed(range(x.shape[1])):
            h = 0.5 * h + x[:, t]
            out.append(h)
        return torch.stack(out[::-1], 1)

    found = list(check_laws(backward, [torch.randn(2, 20, 3)], steps=(8,)))
    assert [v.note for v in found if v.law != "L1"] == ["no recurrent form: LR4003"] * 2
    assert all(v.holds for v in found)


def test_a_number_taken_out_of_a_captured_tensor_follows_it() -> None:
    scale = torch.tensor(0.5)

    def scaled(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h * float(scale.item()) + x[:, t]
        return h

    made = linrec.compile(scaled)
    x = torch.randn(2, 12, 4)
    torch.testing.assert_close(made(x), scaled(x))
    scale.fill_(0.9)
    torch.testing.assert_close(made(x), scaled(x))


# ---- diagnostics and files ----


def test_pieces_keep_their_lines() -> None:
    found = pieces("a\n// -----\nb\n// ----- more\nc")
    assert [p.strip() for p in found] == ["a", "b", "c"]
    assert [p.count("\n", 0, p.rindex(x)) + 1 for p, x in zip(found, "abc", strict=True)] == [1, 3, 5]


def test_expected_diagnostics() -> None:
    text = "x // expected-remark {{tanh}}\n// expected-error@above {{no}} expected-error@+1 {{yes}}\n"
    wanted = expectations(text)
    assert wanted == [Diagnostic("remark", 1, "tanh"), Diagnostic("error", 1, "no"), Diagnostic("error", 3, "yes")]
    found = [Diagnostic("remark", 1, "the tanh of h"), Diagnostic("error", 3, "oh yes"), Diagnostic("remark", 2, "z")]
    assert compared(wanted, found, complete=False) == ["expected error not produced: line 1: no"]
    assert compared(wanted, found, complete=True)[1:] == ["unexpected line 2: remark: z"]
    assert compared([], [Diagnostic("error", 1, "e")], complete=False) == ["unexpected line 1: error: e"]


def test_reproducers_are_texts() -> None:
    found = files.Reproducer(LEAKY, ("cse", "dce"), "chunked", "LR5001 after dce", (3, "reals", 2))
    assert files.read(files.write(found)) == found
    assert files.read(show(LEAKY)) == files.Reproducer(LEAKY)


def test_a_first_call_that_fails_leaves_a_reproducer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decay(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
        return h

    def wrong(graph: Graph) -> Graph:
        return parse(show(graph).replace("0.9", "0.5"))

    monkeypatch.chdir(tmp_path)
    x = torch.randn(2, 12, 4)
    place = Path("linrec-repro") / "decay-LR5001.lir"
    with watching(Injected("cse", wrong)):
        made: Any = linrec.compile(decay)
        torch.testing.assert_close(made(x), decay(x))  # the loop, still
        assert f"repro: {place}   next: linrec bisect {place}" in caplog.text
        assert f"\nrepro: {place}   next: linrec bisect {place}" in str(made.report)
        found = bisect(files.read(place.read_text()).graph)
        assert found is not None and found.first is not None and found.first.by == "cse"
        place.unlink()
        place.parent.rmdir()
        place.parent.touch()  # where no folder can be made, the call goes on without
        again: Any = linrec.compile(decay)
        torch.testing.assert_close(again(x), decay(x))
    assert not again.report.verification.passed and again.report.verification.reproducer == ""


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(), st.none() | st.tuples(st.integers(0, 999), st.sampled_from(["reals", "positive"]), st.integers(0, 9)))
def test_any_graph_is_a_reproducer(graph: Graph, chosen: tuple[int, str, int] | None) -> None:
    found = files.Reproducer(graph, ("cse",), "auto", "LR5001 after cse", chosen)
    assert files.read(files.write(found)) == found
