"""Packaging: what runs in a checkout is what a wheel holds."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def folders(top: Path, package: str) -> set[str]:
    """`package` and all packages below it that lie in `top`; links, which only repeat folders, are not followed."""
    found = (Path(folder) for folder, _, files in os.walk(top) if "__init__.py" in files)
    return {".".join((package, *folder.relative_to(top).parts)) for folder in found}


def test_every_folder_is_packaged() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = setuptools["packages"]
    on_disk = set().union(*(folders(ROOT / top, name) for name, top in setuptools["package-dir"].items()))
    assert sorted(listed) == sorted(on_disk)


def test_constraints_name_no_local_build() -> None:
    # "torch==2.13.0+cpu" could be installed from one index only.
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if "==" not in line or "+" in line or "@" in line] == []
