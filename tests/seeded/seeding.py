"""What a seeded bug is, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from linrec.ir import Graph

Mutate = Callable[[Graph], Graph | None]


@dataclass(frozen=True)
class Bug:
    """A mutation after pass `step` on `program`; `forms` is asked of the compiler where the bug lives in one form."""

    name: str
    step: str
    program: str
    mutate: Mutate
    forms: str = "auto"


def registering(bugs: list[Bug]) -> Callable[..., Callable[[Mutate], Mutate]]:
    """A decorator that adds a mutation to `bugs` under its function's name."""

    def bug(step: str, program: str, forms: str = "auto") -> Callable[[Mutate], Mutate]:
        def register(mutate: Mutate) -> Mutate:
            def where_it_applies(graph: Graph) -> Graph | None:
                try:
                    return mutate(graph)
                except LookupError:  # an op or a recurrence that it speaks of is not there
                    return None

            bugs.append(Bug(mutate.__name__.replace("_", "-"), step, program, where_it_applies, forms))
            return mutate

        return register

    return bug
