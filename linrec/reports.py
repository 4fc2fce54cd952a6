"""The report: what linrec found in a program, one entry a recurrence.

`str(report)` is for people, `report.to_dict()` for programs; the two never disagree because both
read the same records.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from linrec.render import brief


@dataclass(frozen=True)
class Cost:
    """Predicted work of one form; `pays_from` is the length from which it beats the loop."""

    form: str
    flops: str
    bytes: str
    depth: str
    seconds: float
    pays_from: int | None = None


@dataclass(frozen=True)
class Recurrence:
    """One recurrence of the program and what became of it.

    `kind` is "lti", "ltv" or "nonlinear"; `form` is the form it runs in, "sequential" when it was
    left a loop; `code`, `reason` and `help` say why, `source` is "file.py:21".
    """

    name: str
    kind: str
    semiring: str
    structure: str
    form: str
    source: str
    code: str = ""
    reason: str = ""
    help: str = ""
    culprit: str = ""
    states: tuple[str, ...] = ()
    done: str = ""
    cost: Cost | None = None
    alternatives: tuple[Cost, ...] = ()
    notes: tuple[str, ...] = ()
    lines: tuple[tuple[str, int, str, str], ...] = ()  # file, line, text, remark: for the listing of level 2
    # impulse responses in n, where somebody asked: linrec.report(net); they say nothing new about the program
    closed: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Verification:
    """What the check against the original on the first call found."""

    ran: bool = False
    passed: bool = True
    steps: int = 0
    error: float = 0.0
    allowed: float = 0.0
    seconds: float = 0.0
    gradients: bool = False
    note: str = ""
    reproducer: str = ""  # the file that was written when it failed


@dataclass(frozen=True)
class Report:
    """What was found in one program, and what it cost to find out."""

    name: str = ""
    recurrences: list[Recurrence] = field(default_factory=list)
    captures: int = 0
    code: str = ""
    reason: str = ""
    help: str = ""
    source: str = ""
    line: str = ""  # of the user's, that `source` names
    seconds: dict[str, float] = field(default_factory=dict)
    verification: Verification = field(default_factory=Verification)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; `schema` is 1."""
        return {"schema": 1, **asdict(self)}

    def __str__(self) -> str:
        """What became of each recurrence, with reasons for what was kept; see linrec.render."""
        return brief(self)
