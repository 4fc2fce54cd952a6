"""Histories: lists that Python code shifts from step to step, whose values come back later than short traces show.

With `past = deque([zero] * 20, maxlen=20)`, nothing that a step writes is read within 20 steps: a trace of six would
take `past[0]` for a zero that stays. A list that keeps its values in their places shows them at the next step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

_DEEPEST = 3
_MORE = 3  # moves beyond the first values
_LONGEST = 512  # lists that are compared entry by entry
_CONTAINERS = (list, tuple, deque, dict)


@dataclass
class Histories:
    """Lists of tensors by name: how long each was when it was first seen, and how often its values have moved."""

    lengths: dict[Hashable, int] = field(default_factory=dict)
    moves: Counter[Hashable] = field(default_factory=Counter)
    writes: Counter[Hashable] = field(default_factory=Counter)  # a single other value in its place, as in a ring
    filling: dict[Any, set[int]] = field(default_factory=dict)  # how long queues that a name holds may get
    _last: dict[Hashable, list[int]] = field(default_factory=dict)

    def see(self, name: Hashable, value: Any) -> None:
        """Note what a name holds now."""
        for key, items in _lists(value, (name,), 0):
            now = [id(item) for item in (items if len(items) <= _LONGEST else (items[0], items[-1]))]
            before = self._last.get(key)
            if before is None:
                self.lengths[key] = len(items)
                if isinstance(items, deque) and items.maxlen is not None and len(items) < items.maxlen:
                    self.filling.setdefault(name, set()).add(items.maxlen)
            elif _is_shifted(now, before):
                self.moves[key] += 1
            elif now != before:
                self.writes[key] += 1
            self._last[key] = now

    def rings(self) -> set[int]:
        """How many slots lists have in which single values are written in place."""
        return {n for key, n in self.lengths.items() if n > 1 and self.writes[key] and not self.moves[key]}

    def hidden(self) -> dict[Hashable, tuple[int, float]]:
        """Lists that still hold what they held at first: how long they are, and how many times more must move."""
        found: dict[Hashable, tuple[int, float]] = {}
        for key, length in self.lengths.items():
            # a ring goes around twice: at first it holds what was there before
            ways = [(self.moves[key], length), (self.writes[key], 2 * length)]
            if length > 1 and all(times <= needed for times, needed in ways):
                times, needed = max(ways)
                found |= {key: (length, (needed + _MORE) / times)} if times else {}
        return found


def _is_shifted(now: list[int], before: list[int]) -> bool:
    """Whether values have moved to other places; a single other value may as well have been written in its place."""
    if len(now) != len(before):
        return True
    changed = sum(a != b for a, b in zip(now, before, strict=True))
    return changed > 1 and (now[1:] == before[:-1] or now[:-1] == before[1:] or len(now) == 2)


def _lists(value: Any, key: tuple[Hashable, ...], depth: int) -> Iterator[tuple[Hashable, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, _CONTAINERS):
                yield from _lists(item, (*key, name if isinstance(name, Hashable) else id(name)), depth + 1)
    elif isinstance(value, list | tuple | deque):
        if any(isinstance(item, Tensor) for item in value):
            yield key, value
        for place, item in enumerate(value):
            if isinstance(item, _CONTAINERS):
                yield from _lists(item, (*key, place), depth + 1)
    elif isinstance(value, nn.Module) or type(value).__module__ not in ("builtins", "torch"):
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict) and not isinstance(value, Tensor | type):
            for name, item in held.items():
                if isinstance(item, _CONTAINERS) and not name.startswith("_"):
                    yield from _lists(item, (*key, name), depth + 1)
