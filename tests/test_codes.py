"""Codes: the program in each text gets its code, and the edit that stands beside it cures it.

The blocks are taken out of the text of `linrec explain-code` and run. A block that defines `net` is a whole program; a
loop alone stands in a function of x (batch, time, 4) that starts from h = 0 and returns what it appended, or h; the other
names that loops read are those of PREAMBLE.
"""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import linrec
from linrec.codes import CODES
from linrec.errors import LinrecError
from linrec.text import parse

PREAMBLE = """\
import random
import re
from dataclasses import replace

import networkx as nx
import numpy as np
import scipy.signal
import sympy
import torch
import torch.nn.functional as F
from torch import nn
from sympy import Eq
from torch.utils._pytree import tree_map

import linrec
from linrec.debug import VerifyEach, check_laws, optimize, trace, validate
from linrec.debug.hooks import Injected
from linrec.ir import Graph, Input, Op, Type, Use
from linrec.manager import Context, watching
from linrec.probe import superposition
from linrec.text import parse, show

a = torch.full((4,), 0.5)
scale = torch.tensor(0.5)
lengths = torch.tensor([12, 7])
A, B = 0.2 * torch.eye(4), 0.1 * torch.eye(4)
U, Wx, Uh = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
for p in (*U.parameters(), *Wx.parameters(), *Uh.parameters()):
    p.requires_grad_(False)
key = torch.randint(0, 4, (2, 12, 1))
x8, x4 = torch.randn(8, 12, 4), torch.randn(4, 12, 4)


def decay(x):
    h = torch.zeros_like(x[:, 0])
    y = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        y.append(h)
    return torch.stack(y, 1)


leaky = parse(
    "graph leaky(%x: f32[B, T], %h0: f32[B]) {\\n  time t = T\\n  %u = signal(%x, 1, 0, 1) : f32[B] @t\\n"
    "  %p = mul(%h[-1], 0.9) : f32[B] @t\\n  %h = add(%p, %u) : f32[B] @t init(%h0)\\n"
    "  %y = stack(%h, 1) : f32[B, T]\\n  return %y\\n}"
)
rnn = linrec.compile(decay).recurrent(torch.randn(2, 12, 4))
"""
HEAD = "def net(x):\n    h = n = d = torch.zeros_like(x[:, 0])\n    v, w, ys = x, x, []\n"
TAIL = "    return torch.stack(ys, 1) if ys else h\n"
ROOT = Path(__file__).parent.parent


def blocks(text: str) -> list[str]:
    """The indented blocks of a text."""
    found = re.findall(r"(?m)(?:^    [^\n]*\n|^\n(?=    ))+", text)
    return [textwrap.dedent(b).strip("\n") + "\n" for b in found if b.strip()]


def program_and_cure(code: str) -> tuple[list[str], list[str]]:
    before, cure, after = CODES[code].text.partition("\nCure")
    assert cure, f"{code} has no cure"
    return blocks(before + "\n"), blocks(after)


def program(code: str, block: str) -> str:
    """The block as a whole program."""
    if (
        code < "LR3"
        and not code.startswith("LR05")
        and not re.search(r"(?m)^(def net|class Net|net =|codes =|@)", block)
    ):
        return PREAMBLE + HEAD + textwrap.indent(block, "    ") + TAIL
    return PREAMBLE + block


def codes_of(code: str, block: str, file: Path) -> Iterator[str]:
    """Every code that a block gets, from errors, remarks, reports and warnings."""
    if re.match(r"graph \w+\(", block):
        try:
            parse(block)
        except LinrecError as error:
            yield error.code
        return
    source = program(code, block)
    file.write_text(source)
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.extend(re.findall(r"LR\d{4}", record.getMessage()))

    listener = Listener()
    logger = logging.getLogger("linrec")
    logger.addHandler(listener)
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "code", "x": torch.randn(2, 12, 4)}
    space["net"] = None
    try:
        exec(compile(source, str(file), "exec"), space)
        if (net := space["net"] or space.get("Net")) is not None:
            net = net() if isinstance(net, type) else net
            report = linrec.explain(net, *space.get("inputs", (space["x"],)))
            yield from (report.code, *(r.code for r in report.recurrences))
            yield from re.findall(r"LR\d{4}", " ".join(n for r in report.recurrences for n in r.notes))
        yield from space.get("codes", ())
    except LinrecError as error:
        yield error.code
    finally:
        logger.removeHandler(listener)
    yield from heard


def sampled() -> list[Any]:
    """Every code in `make test-all`, every third in `make test`; texts of graphs always, they take no time."""
    return [c if c >= "LR6" or (i % 3 == 0 and c != "LR0407") else pytest.param(c, marks=pytest.mark.slow)
            for i, c in enumerate(CODES)]  # fmt: skip


@pytest.mark.parametrize("code", sampled())
def test_the_program_gets_the_code_and_the_edit_cures_it(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # LR5001 leaves a reproducer
    programs, cures = program_and_cure(code)
    assert programs and cures, f"{code} needs a program and a cure"
    got = {c for block in programs for c in codes_of(code, block, tmp_path / "net.py")}
    assert code in got, f"the program gets {got - {''}}"
    for block in cures:
        got = set(codes_of(code, block, tmp_path / "cure.py"))
        assert code not in got, "the cure gets it too"


def test_every_code_that_can_be_met_has_a_text() -> None:
    """What the source mentions is explained, and what is explained is somewhere in the source."""
    folders = [ROOT / "linrec", ROOT / "passes", ROOT / "frontends"]
    files = [p for f in folders for p in f.rglob("*.py") if "codes" not in p.parts]
    used = {c for p in files for c in re.findall(r"\bLR\d{4}\b", p.read_text())}
    assert used <= CODES.keys(), sorted(used - CODES.keys())
    assert CODES.keys() <= used, sorted(CODES.keys() - used)


def test_texts_are_short_and_titled() -> None:
    for code, found in CODES.items():
        assert re.fullmatch(r"LR\d{4}", code) and found.title[0].islower() and not found.title.endswith(".")
        assert max(map(len, found.text.splitlines())) <= 110, code
