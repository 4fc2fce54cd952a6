"""The fuzzer: programs of the grammar, compiled, are the same, called what they are, and parallel where they must be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fuzz import check
from fuzz.choices import Choices, replayed, seeded
from fuzz.grammar import write
from fuzz.run import Summary, run
from fuzz.shrink import shrunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WRONG = tuple(kind for kind in check.FAILURES if kind != "not parallel")
PARALLEL_PERCENT = 98.0


def _assert_good(summary: Summary) -> None:
    wrong = {kind: summary.kinds[kind] for kind in WRONG if summary.kinds[kind]}
    assert not wrong, f"{wrong}\n{summary}"
    assert summary.kinds[check.INVALID] <= 0.1 * sum(summary.kinds.values()), str(summary)
    assert summary.share >= PARALLEL_PERCENT, str(summary)


@pytest.mark.parametrize("first", range(0, 200, 10))
def test_two_hundred_programs(first: int) -> None:
    """Nothing is wrong in any, and none is refused that is linear by construction, one in ten at most."""
    summary = Summary.of(run(range(first, first + 10), processes=0))
    assert not {kind: summary.kinds[kind] for kind in WRONG if summary.kinds[kind]}, str(summary)
    assert summary.linear - summary.parallel <= 1, str(summary)


@pytest.mark.slow
def test_two_thousand_programs() -> None:
    _assert_good(Summary.of(run(range(200, 2_200), processes=2)))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_programs_drawn_by_hypothesis(data: st.DataObject) -> None:
    """The same grammar with hypothesis' choices, whose shrinker reports the smallest failing program."""
    program = write(Choices(lambda bound: data.draw(st.integers(0, bound - 1))))
    with tempfile.TemporaryDirectory() as folder:
        found = check.judge(program, Path(folder))
    assert found.kind not in WRONG, f"{found}\n{program.source}"


# ---- the fuzzer itself -------------------------------------------------------------------------------


def test_a_seed_is_a_program() -> None:
    assert write(seeded(7)) == write(seeded(7))
    choices = seeded(7)
    program = write(choices)
    assert write(replayed(choices.taken)) == program
    assert len({write(seeded(n)).source for n in range(50)}) == 50


def test_the_grammar_covers_its_vocabulary() -> None:
    programs = [write(seeded(n)) for n in range(1000)]
    traits = {t for p in programs for t in p.traits}
    assert len([t for t in traits if t.startswith("loop ")]) == 11, traits
    assert len([t for t in traits if t.startswith("state_")]) == 15, traits
    assert len([t for t in traits if t.startswith("matrix state ")]) == 9, traits
    assert {f"semiring {name}" for name in ("max", "min", "log")} <= traits
    assert len([t for t in traits if t.startswith("miss ")]) >= 90, traits
    assert 0.2 < sum(p.nonlinear > 0 for p in programs) / 1000 < 0.5


def test_shrinking_keeps_the_failure() -> None:
    def fails(program: object) -> bool:
        return "torch.stack" in str(program)

    choices = next(c for c in map(seeded, range(100)) if fails(write(c)))
    whole = write(replayed(choices.taken))
    small = write(replayed(shrunk(choices.taken, fails, seconds=5)))
    assert fails(small) and len(small.source) <= len(whole.source)


def test_a_wrong_result_is_seen() -> None:
    """The judge compares: a value, a gradient and an attribute that differ are told apart."""
    import torch

    want = check.Outcome("x", [torch.ones(2)], {"h": torch.ones(2)}, {"a": torch.ones(2)})
    other = torch.tensor([1.0, 1.001])
    assert check.difference(want, want, "") is None
    for got, kind in (
        (check.Outcome("x", [other], want.effects, want.gradients), "wrong value"),
        (check.Outcome("x", want.leaves, {"h": other}, want.gradients), "wrong value"),
        (check.Outcome("x", want.leaves, want.effects, {"a": other}), "wrong gradient"),
        (check.Outcome("x", want.leaves, want.effects, {}), "wrong gradient"),
    ):
        found = check.difference(got, want, "")
        assert found is not None and found.kind == kind
