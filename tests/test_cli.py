"""The command line: exit codes, one located line for bad usage, results on stdout, remarks on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

import linrec
from linrec.cli import main
from linrec.cli._target import read_type
from linrec.codes import CODES
from linrec.errors import CaptureError, InternalError, NotLinearError, VerificationError
from linrec.reports import Recurrence, Report, Verification

FAST = Recurrence("r0", "lti", "sum-product", "diagonal", "convolution", "net.py:8", states=("h",))
KEPT = Recurrence("r1", "nonlinear", "sum-product", "", "sequential", "net.py:9", "LR1204", "tanh is applied to h")

NET = """\
import torch
from torch import nn

import helper

class Net(nn.Module):
    def __init__(self, d=helper.D):
        super().__init__()
        self.d = d

    def forward(self, x, scale=1.0):
        return x * scale

class Wide(Net):
    def __init__(self, d):
        super().__init__(d)

def decay(x, y):
    return x + y

net = Net(3)
number = 3

def broken():
    raise RuntimeError("mine")

class Bad:
    def __init__(self):
        raise SystemExit("stop")
"""

Seen = list[tuple[Any, tuple[Any, ...]]]
Run = Callable[..., Result]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the command passes to linrec.explain."""
    calls: Seen = []

    def explain(model: Any, *inputs: Any) -> Report:
        calls.append((model, inputs))
        return Report("Net", [FAST])

    monkeypatch.setattr(linrec, "explain", explain, raising=False)
    return calls


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "helper.py").write_text("D = 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    yield invoke
    for name in ("helper", "__linrec_net__", "__linrec_torn__"):
        sys.modules.pop(name, None)


def told(result: Result) -> str:
    """The error of a result that is bad usage."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_help_is_quick_and_light() -> None:
    script = (
        "import sys\nfrom linrec.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'sympy', 'networkx', 'numpy', 'rich'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("explain ", "explain-code ", "passes "))
    assert best < 1.0  # 0.4 s on a quiet machine


def test_explain_makes_the_model_and_inputs(run: Run, seen: Seen) -> None:
    import torch

    result = run("explain", "net.py:Net", "--input", "f32[2, 7,1]", "--input", "i64[]", "--input", "none")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith("Net: 1 recurrence, 1 converted, 0 left as written\n  r0  net.py:8  h  CONVERTED")
    model, (x, index, nothing) = seen[0]
    assert type(model).__name__ == "Net" and model.d == 5
    assert (x.dtype, x.shape) == (torch.float32, (2, 7, 1))
    assert (index.dtype, index.shape, nothing) == (torch.int64, (), None)
    run("explain", "net.py:Net", "--input", "f32[2,7,1]")
    assert torch.equal(seen[1][1][0], x)  # the same inputs in every run


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["net.py:net"], 3),
        (["net.py:Wide", "--make", "Wide(d=64)"], 64),
        (["net.py", "--make", "Wide(helper.D + 1)"], 6),
        (["net.py:Net", "--make", "Net"], 5),
    ],
)
def test_explain_takes_instances_and_make(run: Run, seen: Seen, arguments: list[str], what: int) -> None:
    assert run("explain", *arguments, "--input", "f32[2]", "--input", "0.5").exit_code == 0
    assert seen[0][0].d == what
    assert seen[0][1][1] == 0.5


def test_explain_takes_functions(run: Run, seen: Seen) -> None:
    assert run("explain", "net.py:decay", "--input", "c64[2]", "--input", "-3").exit_code == 0
    assert seen[0][0].__name__ == "decay"
    assert seen[0][1][1] == -3


def test_json_and_levels(run: Run, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("explain", "net.py:Net", "--input", "f32[2]", "--json")
    data = json.loads(result.stdout)
    assert data["schema"] == 1 and data["recurrences"][0]["name"] == "r0"
    assert "passed r0" in run("explain", "net.py:Net", "--input", "f32[2]", "--level", "2").stdout
    assert "--level" in told(run("explain", "net.py:Net", "--level", "9"))
    odd = Report("Net", [FAST], verification=Verification(True, True, 1, float("nan")))
    monkeypatch.setattr(linrec, "explain", lambda *_: odd, raising=False)
    data = json.loads(run("explain", "net.py:Net", "--input", "f32[2]", "--json").stdout)
    assert data["verification"]["error"] is None


@pytest.mark.parametrize(
    ("report", "strict", "code", "words"),
    [
        (Report("Net", [FAST]), True, 0, ""),
        (Report("Net", [FAST, KEPT]), False, 0, ""),
        (Report("Net", [FAST, KEPT]), True, 1, "strict: r1 stayed sequential"),
        (Report("Net", code="LR0301", reason="it branches"), False, 0, ""),
        (Report("Net", code="LR0301", reason="it branches"), True, 1, "strict: the program stayed sequential"),
        (Report("Net", [FAST], verification=Verification(True, False, 64, 1.0)), False, 3, "error[LR5001]"),
    ],
)
def test_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, report: Report, strict: bool, code: int, words: str
) -> None:
    monkeypatch.setattr(linrec, "explain", lambda *_: report, raising=False)
    result = run("explain", "net.py:Net", "--input", "f32[2]", *["--strict"] * strict)
    assert result.exit_code == code
    assert result.stdout.startswith("Net: ")
    assert (words in result.stderr) if words else result.stderr == ""


@pytest.mark.parametrize(
    ("kind", "code"), [(CaptureError, 2), (NotLinearError, 1), (VerificationError, 3), (InternalError, 4)]
)
def test_errors_of_linrec_keep_their_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[CaptureError], code: int
) -> None:
    def explain(*_: Any) -> Report:
        raise kind("LR0102", "the trip count is not a length", help="loop over x.shape[1]")

    monkeypatch.setattr(linrec, "explain", explain, raising=False)
    result = run("explain", "net.py:Net", "--input", "f32[2]")
    assert result.exit_code == code
    assert result.stderr == "error[LR0102] the trip count is not a length\nhelp: loop over x.shape[1]\n"


@pytest.mark.parametrize(
    ("arguments", "fact", "way_out"),
    [
        (["none.py:Net"], "none.py: no such file", "FILE.py:Name"),
        (["Net"], "Net: no such file", "FILE.py:Name"),
        ([""], "no such file", "FILE.py:Name"),
        (["net.py"], "net.py: which function or class?", "net.py:Name"),
        (["net.py:"], "net.py: which function or class?", "net.py:Name"),
        (["net.py:Nett"], "net.py has no Nett", "it has Net, Wide, decay"),
        (["net.py:Net.gone"], "net.py has no Net.gone", "it has Net"),
        (["net.py:number"], "net.py:number: a int cannot be called", "name a function"),
        (["net.py:Wide"], "Wide(): TypeError: Wide.__init__() missing 1", '--make "Wide(...)"'),
        (["net.py:Bad"], "Bad(): SystemExit: stop", "--make"),
        (["net.py:Net", "--make", "Net("], '--make "Net(": ', "an expression, evaluated in net.py"),
        (["net.py:Net"], "net.py:Net takes x: no --input given", '--input "f32['),
        (["net.py:decay"], "net.py:decay takes x, y: no --input given", '--input "f32['),
        (
            ["net.py:Net", "--input", "f32[2,T]"],
            '--input "f32[2,T]", column 7: expected a length, found "T"',
            "[8,784,1]",
        ),
        (["helper.txt:Net"], "helper.txt: no such file", "FILE.py:Name"),
    ],
)
def test_bad_usage_has_a_place_and_a_way_out(
    run: Run, seen: Seen, arguments: list[str], fact: str, way_out: str
) -> None:
    text = told(run("explain", *arguments))
    assert text.startswith("error: ") and fact in text.splitlines()[0]
    assert way_out in text.splitlines()[-1] and "\nhelp: " in text
    assert not seen


def test_errors_of_the_users_file_show_the_users_frames(run: Run, seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "torn.py").write_text("import torch\n\ndef f():\n    return gone\n\nf()\n")
    text = told(run("explain", "torn.py:f", "--input", "f32[2]"))
    assert text.startswith("error: torn.py: NameError: name 'gone' is not defined\n")
    assert 'torn.py", line 4, in f' in text
    assert "importlib" not in text and "_target.py" not in text
    (tmp_path / "torn.py").write_text("def f(:\n")
    assert "SyntaxError" in told(run("explain", "torn.py:f"))


def test_errors_of_the_users_model_show_the_users_frames(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linrec, "explain", lambda model, *inputs: model(*inputs), raising=False)
    text = told(run("explain", "net.py:broken"))
    assert text.startswith("error: net.py:broken: RuntimeError: mine\n")
    assert "in broken" in text and "in invoke" not in text
    monkeypatch.setenv("LINREC_FULL_TRACE", "1")
    assert "_target.py" in told(run("explain", "net.py:broken"))


@pytest.mark.parametrize(
    ("spec", "column", "fact"),
    [
        ("", 1, "an element type"),
        ("float[2]", 1, "an element type"),
        (" f33 [2]", 2, "an element type"),
        ("f32", 4, "'[', found the end"),
        ("f32(2)", 4, "'[', found \"(\""),
        ("f32[2", 6, "']', found the end"),
        ("f32[2,]", 7, "a length"),
        ("f32[,2]", 5, "a length"),
        ("f32[-1]", 5, "a length"),
        ("f32[2, 3.5]", 8, "a length"),
        ("f32[2]]", 7, 'the end, found "]"'),
        ("f32[2] x", 8, 'the end, found "x"'),
        ("f32[9999999999999]", 5, "a length"),
        ("f32[99999, 99999]", 0, "9,999,800,001 elements, at most"),
    ],
)
def test_bad_types_have_a_column(run: Run, spec: str, column: int, fact: str) -> None:
    text = told(run("explain", "net.py:Net", "--input", spec))
    assert fact in text
    assert column == 0 or f'--input "{spec}", column {column}: expected ' in text


def test_types() -> None:
    assert read_type(" bf16 [ 2 , 0 ] ") == ("bfloat16", (2, 0))
    assert read_type("bool[]") == ("bool", ())


def test_explain_code(run: Run) -> None:
    result = run("explain-code", "lr1204")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"LR1204: {CODES['LR1204'].title}\n\n")
    assert "Cure: " in result.stdout
    assert len(run("explain-code").stdout.splitlines()) == len(CODES)
    assert "LR1204" in told(run("explain-code", "LR124"))
    assert "lists all codes" in told(run("explain-code", "tanh"))


def test_passes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class First:
        """Merge equal ops.

        More.
        """

        name: ClassVar[str] = "cse"
        after: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Second:
        name: ClassVar[str] = "dce"
        after: ClassVar[tuple[str, ...]] = ("canonicalize", "cse")
        rounds: int = field(default=1)

    manager = ModuleType("linrec.passes")
    manager.load_passes = lambda: {"cse": First, "dce": Second}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "linrec.passes", manager)
    lines = run("passes").stdout.splitlines()
    assert lines[0].split() == ["pass", "after", "does"]
    assert lines[1].split(maxsplit=1) == ["cse", "Merge equal ops."]
    assert lines[2].startswith("dce   canonicalize, cse  The command line: ")  # the module's docstring
    data = json.loads(run("passes", "--json").stdout)
    assert data["schema"] == 1
    assert data["passes"][0] == {"name": "cse", "after": [], "does": "Merge equal ops."}


def test_unknown_commands_are_bad_usage(run: Run) -> None:
    assert "No such command 'exlpain'" in told(run("exlpain"))


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from linrec.cli import _output

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = "missed[LR1204] r0: " + "long " * 60 + "[bold]h[/bold]"
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    _output._print(text, coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    _output._print(text, plain)
    assert "\x1b[" in coloured.getvalue()
    assert plain.getvalue() == text + "\n"
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue()) == text + "\n"
