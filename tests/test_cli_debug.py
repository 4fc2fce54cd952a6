"""The debugging commands: trace, opt, verify, bisect, reduce, bench, doctor; exit codes, streams, files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from seeded.bugs import BUGS
from seeded.programs import PROGRAMS

from linrec import reproducer as files
from linrec.cli import main
from linrec.debug.hooks import Injected
from linrec.manager import watching
from linrec.text import parse, show

NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x):
        h, g = x.new_zeros(x.shape[0], 3), x.new_zeros(x.shape[0], 3)
        ys = []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t]
            g = torch.tanh(g + h)
            ys.append(g)
        return torch.stack(ys, 1)
"""
TANH = """\
graph plain(%x: f32[B, T]) {
  time t = T
  %zero = new_zeros(%x, [B]) : f32[B]
  %u = signal(%x, 1, 0, 1) : f32[B] @t
  %w = add(%h[-1], %u) : f32[B] @t
  %h = tanh(%w) : f32[B] @t init(%zero)  // expected-remark {{the state passes through `tanh`}}
  %y = last(%h) : f32[B]
  return %y
}
"""
INPUT = ("--input", "f32[2,20,3]")
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "gated.lir").write_text(PROGRAMS["gated"])
    (tmp_path / "leaky.lir").write_text(PROGRAMS["leaky"])
    (tmp_path / "tanh.lir").write_text(TANH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def invoke(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=input)

    yield invoke
    sys.modules.pop("__linrec_net__", None)


def fine(result: Result) -> Result:
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def bad(result: Result) -> str:
    """stderr of bad usage."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "help: " in result.stderr
    return result.stderr


# ---- trace ----


def test_trace_writes_a_text_that_opt_reads(run: Run, tmp_path: Path) -> None:
    result = fine(run("trace", "net.py:Net", *INPUT, "-o", "m.lir"))
    assert result.stdout == "" and result.stderr.startswith("m.lir: ")
    text = (tmp_path / "m.lir").read_text()
    assert show(parse(text)) == text
    assert "net.py:13" in text
    bare = fine(run("trace", "net.py:Net", *INPUT, "--no-source", "--at-T", "4,7")).stdout
    assert "net.py" not in bare and parse(bare) == parse(text)
    made = fine(run("opt", "m.lir"))
    found = parse(made.stdout).recurrences[0]
    assert found.kind == "lti" and found.form not in ("", "sequential")
    assert made.stderr == ""


@pytest.mark.parametrize("steps", ["4", "4,4", "0,4", "a,b", ""])
def test_trace_needs_two_lengths(run: Run, steps: str) -> None:
    assert "--at-T" in bad(run("trace", "net.py:Net", *INPUT, "--at-T", steps))


# ---- opt ----


def test_opt_reads_stdin_and_files(run: Run, tmp_path: Path) -> None:
    result = fine(run("opt", "-", "-p", "cse,dce", "--no-verify-each", input=PROGRAMS["gated"]))
    assert parse(result.stdout) == parse(PROGRAMS["gated"])
    fine(run("opt", "gated.lir", "-p", "dce", "-o", "out.lir"))
    assert parse((tmp_path / "out.lir").read_text()) == parse(PROGRAMS["gated"])


def test_opt_prints_what_is_asked_for(run: Run, tmp_path: Path) -> None:
    result = fine(
        run("opt", "gated.lir", "--print-ir-before=hoist", "--print-ir-after=lower", "--print-ir-tree-dir=tree",
            "--timing", "--statistics", "--remarks=passed,missed", "--remarks-filter=lower|lti")
    )  # fmt: skip
    heard = result.stderr
    assert "// ---- before hoist ----" in heard and "// ---- after lower (changed) ----" in heard
    assert "remark [passed] lower: r0: lowered to scan" in heard and "hoist:" not in heard
    assert re.search(r"^pass +wall +% +rewrites +statistics$", heard, re.M)
    assert re.search(r"^verify-each +[0-9.]+ ms", heard, re.M)
    assert (tmp_path / "tree" / "gated" / "00-given.lir").exists()
    every = fine(run("opt", "gated.lir", "--print-ir-after-all", "--print-ir-before-all")).stderr
    assert every.count("// ---- after ") == every.count("// ---- before ") > 10
    changed = fine(run("opt", "gated.lir", "--print-ir-after-change")).stderr
    assert 0 < changed.count("// ---- after ") < 10 and "(no change)" not in changed


def test_opt_bisect_limit(run: Run) -> None:
    none = fine(run("opt", "gated.lir", "--bisect-limit=0"))
    assert parse(none.stdout) == parse(PROGRAMS["gated"])
    some = fine(run("opt", "gated.lir", "--bisect-limit=3")).stderr
    assert some.count("BISECT: running") == 3 and "BISECT: NOT running rewrite (4)" in some


def test_opt_emits(run: Run) -> None:
    data = json.loads(fine(run("opt", "leaky.lir", "--emit=json", "--forms=chunked")).stdout)
    assert data["schema"] == 1 and data["recurrences"][0]["form"] == "chunked"
    assert "def run(constants, x, h0," in fine(run("opt", "leaky.lir", "--emit=python")).stdout
    assert "state_h_next" in fine(run("opt", "leaky.lir", "--emit=step")).stdout
    both = fine(run("opt", "leaky.lir", "--emit=python,ir")).stdout
    assert both.index("graph leaky") < both.index("// -----") < both.index("def run")
    backward = run("opt", "-", "--emit=step", input=PROGRAMS["backward"])
    assert backward.exit_code == 2 and "LR4003" in backward.stderr


def test_opt_shows_passes(run: Run) -> None:
    assert fine(run("opt", "gated.lir", "-p", "dce,cse", "--show-passes")).stdout == "dce\ncse\n"
    assert fine(run("opt", "gated.lir", "--show-passes")).stdout.splitlines()[-1] == "lower"


def test_opt_splits_and_verifies_diagnostics(run: Run, tmp_path: Path) -> None:
    wrong = "graph g(%x: f32[B]) {\n  return %y  // expected-error {{%y, which nothing defines}}\n}\n"
    (tmp_path / "two.lir").write_text(TANH + "// -----\n" + wrong)
    both = ("--split-input-file", "--verify-diagnostics")
    fine(run("opt", "two.lir", *both, "--remarks=missed"))
    (tmp_path / "two.lir").write_text(
        TANH.replace("`tanh`}}", "`relu`}}") + "// -----\n" + wrong.replace("expected", "")
    )
    result = run("opt", "two.lir", *both, "--remarks=missed")
    assert result.exit_code == 2
    assert "two.lir: expected remark not produced: line 6: the state passes through `relu`" in result.stderr
    assert "unexpected line 6: remark: prove-linear: r0: the state passes through `tanh`" in result.stderr
    assert "unexpected line 12: error: return reads %y" in result.stderr
    result = run("opt", "two.lir", "--split-input-file", "--no-verify-each")
    assert result.exit_code == 2 and "error[LR6104] two.lir:12:3" in result.stderr
    assert result.stdout.startswith("graph plain")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.lir"], "gone.lir: "),
        (["gated.lir", "-p", "csee"], "no pass is called 'csee'"),
        (["gated.lir", "--print-ir-after=csee"], "no pass is called 'csee'"),
        (["gated.lir", "--remarks=loud"], "no remark is called 'loud'"),
        (["gated.lir", "--emit=c"], "nothing to emit is called 'c'"),
        (["gated.lir", "--remarks-filter=("], '--remarks-filter "("'),
        (["gated.lir", "-o", "no/where.lir"], "no/where.lir"),
    ],
)
def test_opt_bad_usage(run: Run, arguments: list[str], words: str) -> None:
    assert words in bad(run("opt", *arguments))


def test_opt_located_syntax_error(run: Run) -> None:
    result = run("opt", "-", input="graph g(%x) {}")
    assert result.exit_code == 2
    assert result.stderr.startswith("error[LR6001] -:1:11: expected ':'")


def test_opt_failure_writes_a_reproducer(run: Run, tmp_path: Path) -> None:
    bug = next(b for b in BUGS if b.name == "gate-is-reversed")
    with watching(Injected(bug.step, bug.mutate)):
        result = run("opt", "gated.lir")
        assert result.exit_code == 3
        assert result.stderr.startswith("error[LR5001] after lower (T=2, integers, seed 0): output 0: error ")
        assert "repro: linrec-repro/gated-LR5001.lir   next: linrec reduce" in result.stderr
        found = files.read((tmp_path / "linrec-repro" / "gated-LR5001.lir").read_text())
        assert found.failure == "LR5001 after lower" and found.passes is not None and found.passes[-1] == "lower"
        fine(run("opt", "gated.lir", "--no-verify-each"))

    def crash(graph: object) -> None:
        raise ZeroDivisionError("no")

    with watching(Injected("cse", crash)):
        result = run("opt", "gated.lir", "--reproducer", "here.lir")
        assert result.exit_code == 4 and "error[LR9002] ZeroDivisionError: no" in result.stderr
        assert "'cse'" in result.stderr
    assert files.read((tmp_path / "here.lir").read_text()).passes == ("canonicalize", "cse")


# ---- verify, bisect, reduce ----


def test_verify_a_text_and_a_model(run: Run) -> None:
    assert re.match(
        r"passes: [0-9]+ run, [1-9][0-9]* checks, worst [0-9.e-]+\n$", fine(run("verify", "gated.lir")).stdout
    )
    result = fine(run("verify", "net.py:Net", *INPUT, "--T", "2,9", "--dtypes", "f64", "--grad", "2"))
    assert len(re.findall(r"^L[123] .* holds$", result.stdout, re.M)) == 6
    data = json.loads(fine(run("verify", "net.py:Net", *INPUT, "--T", "3", "--laws", "L1", "--json")).stdout)
    assert data["schema"] == 1 and data["failure"] is None and data["checks"] > 3
    assert [x["law"] for x in data["laws"]] == ["L1"]


def test_verify_bisect_reduce_a_broken_compiler(run: Run, tmp_path: Path) -> None:
    """The path of a person who met a wrong number."""
    bug = next(b for b in BUGS if b.name == "gate-is-reversed")
    with watching(Injected(bug.step, bug.mutate)):
        result = run("verify", "gated.lir")
        assert result.exit_code == 3
        assert "verify: FAIL LR5001 after lower" in result.stdout
        assert "next: linrec bisect gated.lir" in result.stderr
        result = run("bisect", "gated.lir")
        assert result.exit_code == 3
        assert re.search(r"^BISECT rewrite 1\.\.[0-9]+ -> [0-9]+ (ok|FAIL)", result.stdout, re.M)
        assert re.search(r"^first bad rewrite: \([0-9]+\) lower on seeded bug$", result.stdout, re.M)
        place = re.search(r"repro: (\S+)", result.stderr)
        assert place and files.read((tmp_path / place[1]).read_text()).failure == "LR5001 after lower"
        result = run("reduce", place[1])
        assert result.exit_code == 3
        assert re.search(r"^reduced: T 2 -> [12], ops [0-9]+ -> [1-9], same failure LR5001$", result.stdout, re.M)
        small = files.read((tmp_path / place[1]).with_suffix(".reduced.lir").read_text())
        assert len(small.graph.ops) < 10
        assert run("verify", str(Path(place[1]).with_suffix(".reduced.lir"))).exit_code == 3
    assert fine(run("bisect", "gated.lir")).stdout.startswith("nothing is broken")
    assert fine(run("reduce", "gated.lir")).stdout.startswith("nothing to reduce")


def test_bisect_with_a_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text("import sys\nsys.exit('scan_diagonal' in open(sys.argv[1]).read())\n")
    result = run("bisect", "gated.lir", "--test", f"{sys.executable} check.py")
    assert result.exit_code == 3 and "lower on r0" in result.stdout
    assert "--test" in bad(run("bisect", "gated.lir", "--test", "./no-such-command"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "gated.lir", "--T", "1,x"], '--T "1,x"'),
        (["verify", "gated.lir", "--laws", "L9"], "no law is called 'L9'"),
        (["verify", "gated.lir", "--dtypes", "f33"], "no element type is called 'f33'"),
        (["reduce", "gated.lir", "--budget", "soon"], '--budget "soon"'),
        (["verify", "gone.lir"], "gone.lir: "),
        (["verify", "net.py:Net"], "net.py:Net takes x"),
    ],
)
def test_debugging_commands_bad_usage(run: Run, arguments: list[str], words: str) -> None:
    assert words in bad(run(*arguments))


# ---- explain, bench, doctor, completion ----


def test_explain_levels_three_and_four(run: Run) -> None:
    three = fine(run("explain", "net.py:Net", *INPUT, "--level", "3")).stdout
    assert "r0: the step as captured, t0 = 0 .. T - 1\n  %" in three
    assert re.search(r"^r0: all steps at once, as \w+\n  %r0\.", three, re.M)
    assert "r1: runs as captured" in three and "guards:" not in three
    four = fine(run("explain", "net.py:Net", *INPUT, "--level", "4")).stdout
    assert re.search(r"^choose-form +[0-9.]+ ms", four, re.M)
    assert "guards: a call that differs" in four and "\n  a: f32[3], device" in four


def test_explain_strict(run: Run) -> None:
    result = run("explain", "net.py:Net", *INPUT, "--strict")
    assert result.exit_code == 1 and "strict: r1 stayed sequential" in result.stderr


def test_bench(run: Run, tmp_path: Path) -> None:
    result = fine(run("bench", "net.py:Net", *INPUT, "--T", "8", "--train", "--repeats", "1", "--save", "b.json"))
    assert result.stdout.splitlines()[0].split()[:2] == ["T", "form"]
    data = json.loads((tmp_path / "b.json").read_text())
    assert {"loop", "auto"} <= {t["form"] for t in data["times"]}
    assert all(t["seconds"] > 0 and t["T"] == 8 for t in data["times"])


def test_doctor_exits_with_zero(run: Run) -> None:
    text = fine(run("doctor")).stdout
    assert re.search(r"^torch +2\.", text, re.M) and "known bugs of torch" in text
    assert re.search(r"^self-test +a decay of 40 steps runs as \w+, error ", text, re.M)
    assert json.loads(fine(run("doctor", "--json")).stdout)["schema"] == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    assert "_LINREC_COMPLETE" in fine(run("completion", shell)).stdout


def test_passes_and_codes_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, count, wanted in (
        ("linrec opt m.lir -p cse,d", "4", "cse,dce"),
        ("linrec explain-code lr120", "2", "LR1204"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", count)
        monkeypatch.setenv("_LINREC_COMPLETE", "bash_complete")
        result = CliRunner().invoke(main, [], prog_name="linrec")
        assert f"plain,{wanted}" in result.stdout.splitlines()


def test_commands_without_numbers_do_not_load_torch(tmp_path: Path) -> None:
    """Help of every command, lists, and passes on a text: at once."""
    (tmp_path / "gated.lir").write_text(PROGRAMS["gated"])
    assert isinstance(main, click.Group)
    commands = [[name, "--help"] for name in main.list_commands(click.Context(main))]
    commands += [["passes"], ["explain-code", "LR1204"]]
    commands += [["opt", str(tmp_path / "gated.lir"), "-p", "cse,dce", "--no-verify-each", "--timing"]]
    script = (
        "import sys\nfrom linrec.cli import main\n"
        f"for words in {commands!r}:\n"
        "    try:\n        main(words, standalone_mode=False)\n"
        "    except SystemExit as end:\n        assert not end.code, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5.0  # sixteen commands; one takes 0.2 s on a quiet machine
