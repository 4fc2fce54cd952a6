"""A command of the user's as judge of a graph."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from linrec.cli._output import Ending
from linrec.ir import Graph
from linrec.text import show


def judged_by(command: str) -> Callable[[Graph], bool]:
    """Is a graph good? `command` gets the name of its file appended and says so by exit status 0."""
    words = shlex.split(command)
    if not words:
        raise Ending("--test is empty", 'give a command, for example --test "python check.py"')

    def good(graph: Graph) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "graph.lir"
            file.write_text(show(graph))
            try:
                return subprocess.run([*words, str(file)], check=False, capture_output=True).returncode == 0
            except OSError as error:
                raise Ending(f"--test {words[0]}: {error.strerror}", "give a command that can be run") from error

    return good
