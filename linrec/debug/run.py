"""Running passes by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from linrec.errors import LinrecError
from linrec.ir import Graph
from linrec.manager import Context, Hook, Pass, Pipeline
from linrec.passes import load_passes


def passes_named(names: Sequence[str] | None) -> list[Pass]:
    """The passes of these names in this order; all in the default order for None. Raises LinrecError (LR6005)."""
    known = load_passes()
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or list(known)
            raise LinrecError("LR6005", f"no pass is called '{name}'", help=f"did you mean {', '.join(near)}?")
    return [known[name]() for name in (known if names is None else names)]


def optimize(
    graph: Graph,
    passes: Sequence[str] | None = None,
    hooks: Sequence[Hook] = (),
    context: Context | None = None,
) -> Graph:
    """The graph after `passes` (names; None for all, in their order), watched by `hooks`.

    Raises VerifyError if a pass breaks a law of the language, VerificationError if a `VerifyEach` among the hooks
    finds a changed meaning, LinrecError (LR6005) for an unknown name.
    """
    return Pipeline(passes_named(passes), hooks).run(graph, Context() if context is None else context)
