"""The README's code is run as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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


def test_every_link_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_main_folders_are_there() -> None:
    for name in ("pyproject.toml", "linrec", "frontends", "passes", "tests", "examples", "README.md"):
        assert (ROOT / name).exists()
