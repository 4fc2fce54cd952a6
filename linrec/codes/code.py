"""A code's meaning: one cause a code, one code a cause; a code never changes its meaning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A title of one line and a text that shows a minimal program and a cure."""

    title: str
    text: str
