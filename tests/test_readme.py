"""The README's code is run as it stands, block after block."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from linrec.cli import main

ROOT = Path(__file__).parent.parent


def test_the_code_blocks_run(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    space: dict[str, Any] = {"__name__": "readme"}
    # one file, so that the user's lines are found; blank lines keep the numbers of README's
    parts, line = [], 1
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        start = text[: match.start(1)].count("\n") + 1
        parts.append("\n" * (start - line) + match[1])
        line = start + match[1].count("\n")
    source = "".join(parts)
    file = tmp_path / "readme.py"
    file.write_text(source)
    exec(compile(source, str(file), "exec"), space)
    assert space["net"].report.recurrences[0].form != "sequential"
    assert space["advantages"].report.recurrences[0].kind == "ltv"


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section on debugging: net.py as it stands, then every command, each with the result its comment promises."""
    text = (ROOT / "README.md").read_text()
    _, _, section = text.partition("## When it does not do what you want")
    section = section.partition("\n## ")[0]
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", section, re.DOTALL)
    assert [name for name, _ in files] == ["net.py"]
    (tmp_path / "net.py").write_text(files[0][1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 12
    for line in lines:
        command, _, promise = line.partition("#")
        words = shlex.split(command)
        assert words[0] == "linrec"
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        told = re.sub(r"\s+", " ", result.stdout)
        for promised in re.findall(r"LR\d{4}|ltv/diagonal|scan|nothing [a-z ]+", promise):
            assert promised.strip() in told, f"{line}\n{result.output}"
    assert (tmp_path / "net.html").read_text().startswith("<!doctype html>")
    sys.modules.pop("__linrec_net__", None)


def test_every_link_leads_somewhere() -> None:
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_main_folders_are_there() -> None:
    for name in ("pyproject.toml", "linrec", "frontends", "passes", "tests", "examples", "README.md"):
        assert (ROOT / name).exists()


def test_the_figures_are_those_of_the_benchmark() -> None:
    """The table of the section on speed says what the JSON beside the benchmark says."""
    script = ROOT / "benchmarks" / "table.py"
    space = runpy.run_path(str(script))
    _, _, rest = (ROOT / "README.md").read_text().partition(space["BEGIN"])
    assert rest.partition(space["END"])[0] == space["table"](json.loads(space["RESULTS"].read_text()))
