"""verify-each on the whole corpus: every pass, on every program that can be captured, with no false alarm."""

from __future__ import annotations

import pytest
from programs import Program, corpus

from linrec.debug import trace, validate
from linrec.errors import CaptureError

PROGRAMS = tuple(corpus().values())


def sampled() -> list[object]:
    """All in `make test-all`, every twelfth in `make test`."""
    slow = pytest.mark.slow
    return [pytest.param(p, id=p.name, marks=() if i % 12 == 0 else slow) for i, p in enumerate(PROGRAMS)]


@pytest.mark.parametrize("program", sampled())
def test_every_pass_validates(program: Program) -> None:
    try:
        graph = trace(program.build(), *program.inputs(program.length(20), 2))
    except CaptureError as error:
        pytest.skip(f"runs as written: {error.code}")
    assert validate(graph) is None


def test_almost_all_programs_are_reached() -> None:
    assert sum(not p.refusal for p in PROGRAMS) > 0.8 * len(PROGRAMS)
