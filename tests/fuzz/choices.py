"""Choices: everything the grammar decides is a number below another, so that a program is a list of numbers.

Zero is the simplest choice everywhere. A list that is too short goes on with zeros, so that any list is a program and
shrinking is to drop numbers and to make them smaller.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Picked = TypeVar("Picked")


class Choices:
    """Draws choices from `below` and remembers them."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self._below = below
        self.taken: list[int] = []

    def below(self, bound: int) -> int:
        """A number from 0 to bound - 1."""
        if bound < 2:
            return 0
        number = self._below(bound)
        self.taken.append(number)
        return number

    def pick(self, options: Sequence[Picked]) -> Picked:
        """One of the options; the first is the simplest."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases; False is the simpler."""
        return self.below(100) >= 100 - percent


def seeded(seed: int) -> Choices:
    """Choices of a random generator with that seed."""
    return Choices(random.Random(seed).randrange)


def replayed(numbers: Sequence[int]) -> Choices:
    """Choices from a list."""
    rest = iter(numbers)
    return Choices(lambda bound: min(next(rest, 0), bound - 1))
