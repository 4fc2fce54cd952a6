"""Each file in tests/filecheck shows in text what one pass does; FileCheck lines say what must be there."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts

from linrec.manager import Context, Pipeline
from linrec.passes import load_passes
from linrec.text import parse, show

FILES = sorted((Path(__file__).parent / "filecheck").glob("*.lir"))


def run(text: str, file: str) -> str:
    """What `opt -p PASSES` prints for a file: remarks, then the graph."""
    found = re.search(r"// RUN: opt -p ([\w,-]+)", text)
    assert found, f"{file}: no RUN line"
    kinds = load_passes()
    context = Context()
    graph = Pipeline([kinds[name]() for name in found[1].split(",")]).run(parse(text, file), context)
    remarks = "".join(f"remark [{r.kind}] {r.by}: {r.where}: {r.message}\n" for r in context.remarks)
    return remarks + show(graph)


def check(output: str, text: str) -> str:
    """FileCheck's complaint, empty if all is well."""
    options = Options(match_filename="-")
    parser = Parser(options, io.StringIO(text), *pattern_for_opts(options))
    heard = io.StringIO()
    with redirect_stdout(heard), redirect_stderr(heard):
        code = Matcher(options, FInput("<output>", output), parser).run()
    return heard.getvalue() or "does not match" if code else ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file(path: Path) -> None:
    text = path.read_text()
    output = run(text, path.name)
    complaint = check(output, text)
    assert not complaint, f"{complaint}\n{output}"


def test_a_wrong_expectation_is_found() -> None:
    assert check("%a = add(%x, %x)\n", "// CHECK: %b = mul\n")


def test_every_pass_has_a_file() -> None:
    tested = {name for p in FILES for name in re.findall(r"-p ([\w,-]+)", p.read_text())[0].split(",")}
    assert tested == set(load_passes())
