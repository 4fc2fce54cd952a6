"""Shrinking: a failing program made small, by dropping choices and making them smaller while it fails the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fuzz.choices import replayed
from fuzz.grammar import write
from fuzz.program import Generated


def shrunk(numbers: Sequence[int], fails: Callable[[Generated], bool], seconds: float) -> list[int]:
    """The smallest list of choices found in that time whose program still fails."""
    best, deadline = list(numbers), time.monotonic() + seconds
    seen = {write(replayed(best)).source}

    def accepts(candidate: list[int]) -> bool:
        if time.monotonic() > deadline:
            return False
        choices = replayed(candidate)
        program = write(choices)
        if program.source in seen:
            return False
        seen.add(program.source)
        if not fails(program):
            return False
        best[:] = choices.taken
        return True

    changed = True
    while changed and time.monotonic() < deadline:
        changed = False
        for size in (8, 4, 2, 1):  # drop
            place = 0
            while place < len(best):
                if accepts(best[:place] + best[place + size :]):
                    changed = True
                else:
                    place += size
        for size in (8, 1):  # zero
            for place in range(0, len(best), size):
                block = best[place : place + size]
                if any(block) and accepts(best[:place] + [0] * len(block) + best[place + size :]):
                    changed = True
        for place in range(len(best)):  # lower
            for smaller in range(min(3, best[place] if place < len(best) else 0)):
                if smaller < best[place] and accepts([*best[:place], smaller, *best[place + 1 :]]):
                    changed = True
                    break
    return best
