"""The optional compiled kernels: plain C, built with OpenMP where the compiler has it, left out where there is none.

Everything else of the build is declared in pyproject.toml.
"""

from __future__ import annotations

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# limited range: complex products are four products, as in torch; no flag here lets the compiler ignore inf or nan
FLAGS = [
    "-std=c11",
    "-O3",
    "-fcx-limited-range",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-ffp-contract=fast",
]
KERNELS = Extension(
    "linrec.native._kernels",
    sources=["linrec/native/linrec.c"],
    depends=[f"linrec/native/{name}.h" for name in ("types", "wide", "scan", "matrix", "dense", "layout")],
    optional=True,
)


class BuildKernels(build_ext):
    """Try with OpenMP, then without."""

    def build_extension(self, ext: Extension) -> None:
        """Build the one extension; setuptools skips an optional one that fails."""
        if sys.platform == "win32":
            return super().build_extension(ext)  # MSVC has no C complex numbers: it fails, and is skipped
        ext.extra_compile_args, ext.extra_link_args = [*FLAGS, "-fopenmp"], ["-fopenmp"]
        try:
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = FLAGS, []
            super().build_extension(ext)


setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildKernels})
