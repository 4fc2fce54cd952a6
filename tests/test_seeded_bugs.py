"""Two lists of forty seeded compiler bugs (tests/seeded): verify finds them, bisect names the pass, reduce shrinks them.

`make test` sees every fourth of them; `make test-all` all, with the bars of the whole for each list.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from seeded.bugs import BUGS
from seeded.other_programs import OTHER_PROGRAMS
from seeded.others import OTHERS
from seeded.programs import PROGRAMS
from seeded.seeding import Bug

from linrec.debug import bisect, reduce, validate
from linrec.debug.hooks import Injected
from linrec.ir import Graph
from linrec.manager import Context
from linrec.text import parse, show

SMALL = 12  # ops
FORMS = ["auto", "convolution", "chunked"]
ALL_PROGRAMS = PROGRAMS | OTHER_PROGRAMS


@dataclass(frozen=True)
class Found:
    """What the tools make of one bug."""

    verified: bool
    named: bool
    ops: int | None
    same: bool


def program(bug: Bug) -> Graph:
    return parse(ALL_PROGRAMS[bug.program], f"{bug.program}.lir")


def investigate(bug: Bug) -> Found:
    """Verify, bisect and reduce, each with the bug injected anew.

    Which form a program gets is the cost model's affair: a bug of a form is injected where a program has it.
    """
    for form in (bug.forms, *FORMS):
        injected = Injected(bug.step, bug.mutate)
        failure = validate(program(bug), hooks=[injected], context=Context(forms=form))
        if injected.applied:
            break
    assert injected.applied, f"{bug.name} does not apply to what {bug.step} makes of {bug.program}"
    named = bisect(program(bug), hooks=[Injected(bug.step, bug.mutate)], context=Context(forms=form))
    small = reduce(program(bug), hooks=[Injected(bug.step, bug.mutate)], context=Context(forms=form), budget=60)
    return Found(
        failure is not None,
        named is not None and named.first is not None and named.first.by == bug.step,
        None if small is None else small.ops[1],
        small is not None and failure is not None and small.failure.code == failure.code,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_are_right_without_a_bug(name: str, form: str) -> None:
    assert validate(parse(PROGRAMS[name]), context=Context(forms=form)) is None


@pytest.mark.parametrize(("name", "form"), sorted({(bug.program, bug.forms) for bug in OTHERS}))
def test_the_other_programs_are_right_without_a_bug(name: str, form: str) -> None:
    assert validate(parse(OTHER_PROGRAMS[name]), context=Context(forms=form)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_the_other_programs_are_right_in_every_form(name: str) -> None:
    assert [validate(parse(OTHER_PROGRAMS[name]), context=Context(forms=form)) for form in FORMS] == [None] * len(FORMS)


@pytest.mark.parametrize("bug", [pytest.param(b, id=b.name) for b in (*BUGS[::4], *OTHERS[::4])])
def test_a_sample_is_found_named_and_reduced(bug: Bug) -> None:
    found = investigate(bug)
    assert found.verified and found.named and found.same
    assert found.ops is not None and found.ops <= SMALL


@pytest.mark.slow
@pytest.mark.parametrize("bugs", [BUGS, OTHERS], ids=["bugs", "others"])
def test_all_are_found_named_and_reduced(bugs: list[Bug]) -> None:
    found = {bug.name: investigate(bug) for bug in bugs}
    assert len(found) == 40
    told = "\n".join(f"{name}: {f}" for name, f in found.items() if not (f.verified and f.named and f.same))
    assert sum(f.verified for f in found.values()) >= 38, told
    assert sum(f.named for f in found.values()) >= 38, told
    assert sum(f.same and f.ops is not None and f.ops <= SMALL for f in found.values()) >= 34, told


def test_a_reduced_program_fails_on_its_own() -> None:
    """The reproducer is a text: read again, with its passes and draw, it fails with the same code."""
    bug = next(b for b in BUGS if b.name == "carry-is-lost-every-sixty-fourth-step")
    small = reduce(program(bug), hooks=[Injected(bug.step, bug.mutate)])
    assert small is not None
    assert small.steps == (67, 65)  # the first carry that is lost
    again = parse(show(small.reproducer.graph))
    failure = validate(again, small.reproducer.passes, hooks=[Injected(bug.step, bug.mutate)], steps=[65])
    assert failure is not None and failure.code == small.failure.code
    assert validate(again, small.reproducer.passes, steps=[65]) is None


def test_what_does_not_fail_is_not_reduced() -> None:
    graph = parse(PROGRAMS["leaky"])
    assert reduce(graph) is None
    assert bisect(graph) is None
