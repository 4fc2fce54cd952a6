"""What people read of a report: each verdict, place, reason and way out is there, whatever the width."""

from __future__ import annotations

import json
import re

import pytest

from linrec.codes import CODES
from linrec.render import is_converted, level1, level2
from linrec.reports import Cost, Recurrence, Report, Verification

FAST = Recurrence(
    name="r0",
    kind="lti",
    semiring="sum-product",
    structure="diagonal",
    form="convolution",
    source="net.py:21",
    states=("h",),
    cost=Cost("convolution", "2*B*T*log2(T)", "8*B*T", "1", 1.5e-3, 96),
    alternatives=(Cost("sequential", "2*B*T", "8*B*T", "T", 0.02),),
    notes=("a does not vary with time",),
)
KEPT = Recurrence(
    name="r1",
    kind="nonlinear",
    semiring="sum-product",
    structure="",
    form="sequential",
    source="net.py:54",
    code="LR1204",
    reason="`tanh` is applied to h,\n so h_t is not affine in h_{t-1}",
    help="h = self.U(h) + z\ny = torch.tanh(h)",
    culprit="torch.tanh",
    states=("h",),
    done="the matmul that reads only x was moved out of the loop",
    notes=("superposition on h: error 1.2e+00, allowed 1e-09",),
    lines=(
        ("/home/me/net.py", 52, "        for x_t in x.unbind(1):", "kept as written"),
        ("/home/me/net.py", 54, "            h = torch.tanh(self.U(h) + z)", "tanh is not affine in h"),
        ("/home/me/net.py", 55, "            ys.append(h)", ""),
    ),
)
REPORT = Report(
    name="Net",
    recurrences=[FAST, KEPT],
    captures=1,
    seconds={"capture": 0.11, "passes": 0.02},
    verification=Verification(True, True, 64, 3.1e-7, 2.4e-6, 0.012, gradients=True),
    versions={"torch": "2.13.0", "linrec": "0.1"},
)

MESSAGE = """\
missed[LR1204] r1: `tanh` is applied to h, so h_t is not affine in h_{t-1}
 --> net.py:54   h = torch.tanh(self.U(h) + z)
                     ^^^^^^^^^^
note: superposition on h: error 1.2e+00, allowed 1e-09
help: h = self.U(h) + z
      y = torch.tanh(h)
done: the matmul that reads only x was moved out of the loop
docs: linrec explain-code LR1204
"""

HEAD = """\
Net: 2 recurrences, 1 converted, 1 left as written            torch 2.13.0  linrec 0.1
  r0  net.py:21  h  CONVERTED  lti/diagonal  convolution  pays from 96 steps
  r1  net.py:54  h  kept       LR1204 `tanh` is applied to h, so h_t is not affine in h_{t-1}
"""

FOOT = """\
verified on 64 steps: error 3.1e-07, allowed 2.4e-06, gradients checked, took 12.0 ms
1 capture, 130.0 ms: capture 110.0 ms, passes 20.0 ms"""


def test_level1_is_a_line_a_recurrence() -> None:
    assert level1(REPORT) == HEAD + FOOT + "\nmore: linrec explain --level 2, linrec explain-code LR1204"


def test_str_adds_reasons() -> None:
    assert str(REPORT) == HEAD + MESSAGE + FOOT


def test_level2_shows_the_users_lines_and_costs() -> None:
    listing = """
  net.py                                | recurrence
  52          for x_t in x.unbind(1):   | r1 kept as written
  54              h = torch.tanh(self.U(h) + z) |    tanh is not affine in h
"""
    text = level2(REPORT)
    assert text.startswith(HEAD)
    assert MESSAGE in text
    assert text.endswith(FOOT)
    squeezed = re.sub(r" +\|", " |", text)
    for line in listing.strip("\n").splitlines():
        assert re.sub(r" +\|", " |", line) in squeezed
    assert len({line.index(" | ") for line in text.splitlines() if line.startswith("  5") and " | " in line}) == 1
    assert (
        """\
passed r0: lti/diagonal runs as convolution
 --> net.py:21
note: a does not vary with time
cost: convolution: 2*B*T*log2(T) flops, 8*B*T bytes, depth 1, predicted 1.5 ms, pays from 96 steps
else: sequential: 2*B*T flops, 8*B*T bytes, depth T, predicted 20.0 ms
"""
        in text
    )


def test_lines_of_several_recurrences_stand_once() -> None:
    line = ("net.py", 7, "a, b = b, a", "swaps")
    both = [Recurrence(n, "lti", "sum-product", "dense", "scan", "net.py:7", lines=(line,)) for n in ("r0", "r1")]
    text = level2(Report(name="f", recurrences=both))
    assert text.count("7  a, b = b, a") == 1
    assert "| r0 swaps" in text and "| r1 swaps" in text


def test_a_refused_program_says_why() -> None:
    report = Report(
        "Net", code="LR0301", reason="it branches on h.sum() > 0", help="use torch.where", source="net.py:75"
    )
    for text in (level1(report), level2(report), str(report)):
        assert text.startswith("Net: not converted, runs as written\nmissed[LR0301] it branches on h.sum() > 0\n")
        assert " --> net.py:75\nhelp: use torch.where\ndone: the program runs as written\n" in text
        assert "explain-code LR0301" in text


def test_no_report_is_empty() -> None:
    assert str(Report()) == "the program: no recurrence found, runs as written"
    kept = Recurrence("r0", "lti", "sum-product", "dense", "sequential", "net.py:1")
    assert "missed r0: no reason is known" in str(Report(recurrences=[kept]))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Verification(), "not verified against the original"),
        (Verification(note="verify=off"), "not verified against the original (verify=off)"),
        (
            Verification(True, True, 1, 0.0, 1e-6, 0.0001),
            "verified on 1 step: error 0.0e+00, allowed 1.0e-06, gradients not",
        ),
        (
            Verification(True, False, 64, float("nan"), 1e-6, 2.0),
            "NOT VERIFIED on 64 steps: error nan, allowed 1.0e-06",
        ),
    ],
)
def test_verification_is_told(found: Verification, words: str) -> None:
    assert words in str(Report(recurrences=[FAST], verification=found))


def test_other_semirings_are_named() -> None:
    found = Recurrence("r0", "ltv", "max-plus", "dense", "associative", "net.py:3")
    assert is_converted(found)
    assert "CONVERTED  ltv/dense over max-plus  associative" in level1(Report(recurrences=[found]))


def test_to_dict_is_plain() -> None:
    data = json.loads(json.dumps(REPORT.to_dict()))
    assert data["schema"] == 1
    assert data["recurrences"][1]["code"] == "LR1204"


@pytest.mark.parametrize("code", CODES)
def test_codes_show_a_program_and_a_cure(code: str) -> None:
    found = CODES[code]
    assert re.fullmatch(r"LR\d{4}", code)
    assert "\n" not in found.title and found.title[0].islower() and not found.title.endswith(".")
    assert "Cure: " in found.text or code == "LR6001"
    assert "\n    " in found.text or found.text.startswith("    ")  # code stands indented
    assert max(map(len, found.text.splitlines())) <= 110
