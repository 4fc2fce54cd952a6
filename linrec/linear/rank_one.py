"""Rank-one structure: a recurrence on matrices as decays, rank-one updates, and reads.

    S[t] = a[t] * S[t-1] + sum_i u_i[t] (w_i[t]^T S[t-1] + v_i[t]^T),     o_m[t] = q_m[t]^T S[t or t-1] + e_m[t]

Each axis of the state has one part: *key* is the axis that updates mix and reads sum over; *passing* axes are those
that u, w or q differ along (batch, heads); *value* axes are the rest. Nothing here depends on how a program spells
this: terms of the transition, of what is added to it and of what is read from it are split into connected products of
coefficients, and a product is rank one where no coefficient joins its two ends. A matrix-valued coefficient, such as
I - b k k^T, is itself opened into the products it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from linrec.ir import Arg, Graph, Op, Recurrence, Type, Use, order
from linrec.linear.affine import Axis, Factor, Form, Label, Labels, Refusal, Term, relabel
from linrec.linear.analysis import Analysis, state_reads
from linrec.linear.folding import width

Factors = tuple[Factor, ...]
Product = tuple[tuple[Axis, ...], Factors, tuple[tuple[Axis, Axis], ...]]  # axes, coefficients, axes that are one
_CANDIDATES = 24  # values tried as the vector that a product is opened at
_OPENINGS = 32  # products opened for one recurrence: opening a shift gives another shift
_TRIES = 48  # and values looked at for that: each takes a walk over the program


@dataclass(frozen=True)
class Update:
    """u (w^T S[t-1] + v^T): `inner` and `values` are sums of products, empty where there are none."""

    left: Factors
    inner: tuple[Factors, ...]
    values: tuple[Factors, ...]


@dataclass(frozen=True)
class Read:
    """A value `out` = sum of q^T S, each with its delay, + offset; `order` are the state's axes that out has."""

    out: str
    queries: tuple[tuple[Factors, int], ...]
    order: tuple[int | None, ...]
    offset: Arg
    products: tuple[Product, ...] | None  # the same opened, where it was made of values as wide as the state
    gone: frozenset[str]  # values between the state and `out`


@dataclass
class RankOne:
    """The structure, with all factors in terms of the state's labels `axes`."""

    graph: Graph  # the program with the values that factors name
    labels: Labels
    state: str
    type: Type
    axes: tuple[Axis, ...]
    key: int
    passing: tuple[int, ...]
    values: tuple[int, ...]
    decays: tuple[Factors, ...]
    updates: tuple[Update, ...]
    reads: tuple[Read, ...]

    @property
    def form(self) -> str:
        """Its parallel form."""
        return "wy" if any(u.inner for u in self.updates) else "chunked"


def rank_one_of(graph: Graph, recurrence: Recurrence) -> RankOne | Refusal:
    """The rank-one structure of a recurrence whose states need not be stored; a refusal where it has none."""
    return _Finder(graph, recurrence).find()


class _Finder:
    def __init__(self, graph: Graph, recurrence: Recurrence) -> None:
        self.recurrence, self.labels, self.openings, self.tries = recurrence, Labels(), 0, 0
        self.graph = _with_aliases(graph)
        self.state = recurrence.states[0]

    def find(self) -> RankOne | Refusal:
        recurrence = self.recurrence
        if state_reads(self.graph, recurrence) != (Use(self.state, 1),):
            return self.refuse("it has several states, or reads one further back than one step")
        analysis = self.analyse(recurrence.members, [Use(self.state, 1)])
        form = analysis.forms.get(self.state)
        if analysis.refusal is not None or form is None or any(t.conjugate for t in form.terms):
            return self.refuse("it is not affine")
        self.before = analysis.variables[Use(self.state, 1)].terms[0].axes  # labels of the state's axes
        type_ = analysis.type(Use(self.state))
        if len(type_.shape) < 2 or type_.dtype[0] not in "fcb":
            return self.refuse("its state is no matrix")
        found = self.reads(analysis)
        if isinstance(found, Refusal):
            return found
        terms = [t for term in form.terms for t in self.opened(term)]
        mixed = {i for t in terms for i, (a, s) in enumerate(zip(t.axes, t.state_axes, strict=True)) if a != s}
        summed = {
            i for _, _, terms_, _ in found for t in terms_ for i, s in enumerate(t.state_axes) if s and s not in t.axes
        }
        if len(mixed | summed) != 1:
            return self.refuse("updates mix, or reads sum over, more than one axis of the state")
        (key,) = mixed | summed
        if not summed:
            return self.refuse("its states are read as they are")
        return self.parted(key, terms, form.offset, found, type_)

    def refuse(self, reason: str) -> Refusal:
        return Refusal("LR2002", self.state, reason)

    def analyse(self, members: Sequence[str] | set[str], variables: Sequence[Use]) -> Analysis:
        """An analysis whose new values become part of the program, with labels shared by all."""
        analysis = Analysis(self.graph, set(members), variables, labels=self.labels)
        if analysis.ops:
            self.graph = replace(self.graph, ops=order((*self.graph.ops, *analysis.ops)))
        return analysis

    # reads ----------------------------------------------------------------------------------------

    def reads(self, inside: Analysis) -> list[tuple[str, frozenset[str], tuple[Term, ...], Arg]] | Refusal:
        """Every value read from the state: the narrowest of each chain of maps that sums over one axis."""
        graph, members = self.graph, set(self.recurrence.members)
        readers, roots = graph.readers(), graph.roots()
        others = {m for r in graph.recurrences for m in r.members} - members
        found = []
        for name in self.recurrence.outputs:
            if name != self.state:
                form = inside.forms.get(name)
                if form is None or not self.is_read(form):
                    return self.refuse(f"%{name} is read beside the state")
                found.append((name, frozenset[str](), form.terms, form.offset))
                continue
            for reader in readers.get(name, []):
                if reader.result in members:
                    continue
                if reader.kind == "last" or (reader.kind == "carry" and reader.args[1] == 1):
                    continue
                read = self.chain(reader, readers, roots, others)
                if read is None:
                    return self.refuse(f"all states are read, by `{reader.kind}`")
                found.append(read)
        return found

    def chain(
        self, first: Op, readers: dict[str, list[Op]], roots: set[str], others: set[str]
    ) -> tuple[str, frozenset[str], tuple[Term, ...], Arg] | None:
        chain, op = [], first
        while op.time is not None and not op.leaves_time and op.result not in others and not op.init:
            chain.append(op.result)
            after = readers.get(op.result, [])
            if len(after) != 1 or op.result in roots:
                break
            op = after[0]
        if not chain:
            return None
        analysis = self.analyse(chain, [Use(self.state), Use(self.state, 1)])
        for place in sorted(range(len(chain)), key=lambda i: (width(self.graph, chain[i]), i)):
            form = analysis.forms.get(chain[place])
            if form is not None and self.is_read(form):
                return chain[place], frozenset(chain[:place]), form.terms, form.offset
        return None

    def is_read(self, form: Form) -> bool:
        """Does every term sum over exactly one axis of the state and keep the others, none merged or repeated?"""
        for term in form.terms:
            gone = [s for s in term.state_axes if s and s not in term.axes]
            if term.conjugate or len(gone) != 1 or any(a and a not in term.state_axes for a in term.axes):
                return False
        return bool(form.terms)

    # products -------------------------------------------------------------------------------------

    def opened(self, term: Term) -> list[Term]:
        """The term with every coefficient that joins an old to a new axis replaced by what it was made of."""
        for i, factor in enumerate(term.factors):
            mine = {x for axis in factor.axes for x in axis}
            inner = mine - {x for a, s in zip(term.axes, term.state_axes, strict=False) if a == s for x in a}
            if len(inner) < 2 or not isinstance(factor.value, Use) or not _is_plain(factor):
                continue
            # an axis pair in it joins two ends of the term: the rows and columns of a matrix
            rest = term.factors[:i] + term.factors[i + 1 :]
            parts = self.products(factor.value, joined=False)
            if parts is None:
                return [term]
            return [t for part in parts for t in self.opened(_substituted(term, rest, factor, part))]
        return [term]

    def products(self, value: Use, *, joined: bool) -> list[Product] | None:
        """`value` as a sum of products: (axes, factors, pairs of axes that are equal). None if it cannot be opened.

        Tried at each narrower value that it is made of: it must be linear in that one.
        """
        self.openings += 1
        if self.openings > _OPENINGS:
            return None
        for candidate in self.candidates(value, joined=joined):
            between = _between(self.graph, candidate, value.name)
            self.tries += bool(between)
            if not between or self.tries > _TRIES:
                continue
            before = self.graph
            analysis = self.analyse(between, [candidate])
            form = analysis.forms.get(value.name)
            if analysis.refusal is None and form is not None and form.terms:
                made = self.narrowed([self.leaf(term) for term in form.terms], width(self.graph, value.name))
                rest = self.constant_part(form.offset, joined=joined)
                if rest is not None and made is not None:
                    return made + rest
            self.graph = before
        return None

    def narrowed(self, products: list[Product], limit: int) -> list[Product] | None:
        """The same with coefficients as wide as `limit` opened in turn."""
        found: list[Product] = []
        for axes, factors, pairs in products:
            wide = next(
                (f for f in factors if isinstance(f.value, Use) and width(self.graph, f.value.name) >= limit), None
            )
            if wide is None:
                found.append((axes, factors, pairs))
                continue
            assert isinstance(wide.value, Use)
            parts = None if not _is_plain(wide) else self.products(wide.value, joined=False)
            if parts is None or any(more for _, _, more in parts):
                return None
            rest = tuple(f for f in factors if f is not wide)
            for part in parts:
                term = _substituted(Term(wide.value, (), axes, factors), rest, wide, part)
                found.append((term.axes, term.factors, pairs))
        return found

    def constant_part(self, offset: Arg, *, joined: bool) -> list[Product] | None:
        if offset is None or offset == 0:
            return []
        return self.products(offset, joined=joined) if isinstance(offset, Use) else None

    def leaf(self, term: Term) -> Product:
        """A product that ends in the value it was opened at; an identity there joins its two axes."""
        op = self.graph.by_name().get(term.state.name)
        if op is not None and op.kind == "eye" and len(term.state_axes) == 2:
            return term.axes, term.factors, ((term.state_axes[0], term.state_axes[1]),)
        if op is not None and op.kind == "diag_embed" and len(op.args) == 1:
            pair = (term.state_axes[-2], term.state_axes[-1])
            return (
                term.axes,
                (*term.factors, Factor(op.args[0], term.state_axes[:-1], conjugate=term.conjugate)),
                (pair,),
            )
        end = Factor(term.state, term.state_axes, conjugate=term.conjugate)
        return term.axes, (*term.factors, self.stripped(end)), ()

    def stripped(self, factor: Factor) -> Factor:
        """The coefficient without copies and axes of size one: equal coefficients look equal."""
        op = (
            self.graph.by_name().get(factor.value.name)
            if isinstance(factor.value, Use) and not factor.value.delay
            else None
        )
        if op is not None and op.kind == "alias":
            return self.stripped(replace(factor, value=op.args[0]))
        if op is not None and op.kind == "unsqueeze" and isinstance(op.args[1], int):
            place = op.args[1] % len(factor.axes)
            return self.stripped(replace(factor, value=op.args[0], axes=factor.axes[:place] + factor.axes[place + 1 :]))
        return factor

    def candidates(self, value: Use, *, joined: bool) -> list[Use]:
        """What a value is made of, nearest first: narrower values, and matrices with ones on the diagonal."""
        by_name, limit = self.graph.by_name(), width(self.graph, value.name)
        seen: dict[Use, None] = {}
        open_ = [value]
        while open_ and len(seen) < 4 * _CANDIDATES:
            use = open_.pop(0)
            op = by_name.get(use.name)
            if op is None or use.delay or op.kind == "signal" or op.init:
                continue
            for read in op.uses():
                if read not in seen:
                    seen[read] = None
                    open_.append(read)
        types = {i.name: i.type for i in self.graph.inputs}

        def is_narrow(use: Use) -> bool:
            op = by_name.get(use.name)
            if op is None:
                return use.name in types and len(types[use.name].shape) < 2
            wide = width(self.graph, use.name)
            return op.kind in ("eye", "diag_embed") or wide < limit or (joined and wide == limit)

        return [use for use in seen if is_narrow(use)][:_CANDIDATES]

    # parts ----------------------------------------------------------------------------------------

    def parted(
        self,
        key: int,
        terms: Sequence[Term],
        offset: Arg,
        found: Sequence[tuple[str, frozenset[str], tuple[Term, ...], Arg]],
        type_: Type,
    ) -> RankOne | Refusal:
        canon = self.before
        decays: list[Factors] = []
        updates: list[tuple[Factors, Factors | None, Factors | None]] = []
        for term in terms:
            term = _canonical(term, term.axes, canon, self.labels)
            term = replace(term, factors=tuple(map(self.stripped, term.factors)))
            if term.axes == term.state_axes:
                decays.append(term.factors)
                continue
            split = self.split(term.factors, set(term.axes[key]), set(term.state_axes[key]), canon, key)
            if split is None:
                return self.refuse("a coefficient joins the old and the new axis of the state")
            if len(term.state_axes[key]) != len(canon[key]):
                return self.refuse("an update takes an axis of the state apart otherwise than others do")
            twin = {x: (y,) for x, y in zip(term.state_axes[key], canon[key], strict=True)}
            updates.append((split[0], relabel(replace(term, factors=split[1]), twin).factors, None))
        drives = (
            []
            if offset is None or offset == 0
            else self.products(offset, joined=False)
            if isinstance(offset, Use)
            else None
        )
        if drives is None:
            return self.refuse("what is added to the state is no outer product")
        for axes, factors, pairs in drives:
            if pairs or len(axes) != len(canon):
                return self.refuse("what is added to the state is no outer product")
            term = _canonical(Term(Use(self.state, 1), (), axes, factors), axes, canon, self.labels)
            term = replace(term, factors=tuple(map(self.stripped, term.factors)))
            split = self.split(term.factors, set(canon[key]), set(), canon, key)
            if split is None or not split[0]:
                return self.refuse("what is added to the state is no outer product")
            updates.append((split[0], None, split[1]))
        reads = []
        for name, gone, terms_, added in found:
            queries = []
            order_: tuple[int | None, ...] | None = None
            for term in terms_:
                places = tuple(None if not a else term.state_axes.index(a) for a in term.axes)
                if order_ not in (None, places):
                    return self.refuse("two reads of the state lie differently")
                order_ = places
                own = _canonical(term, term.state_axes, canon, self.labels)
                queries.append((own.factors, term.state.delay))
            assert order_ is not None
            reads.append(Read(name, tuple(queries), order_, added, self.added(added), gone))
        touched = {i for left, inner, _ in updates for i in _places((*left, *(inner or ())), canon)}
        touched |= {i for r in reads for q, _ in r.queries for i in _places(q, canon)}
        passing = tuple(i for i in range(len(canon)) if i in touched and i != key)
        values = tuple(i for i in range(len(canon)) if i not in touched and i != key)
        for r in reads:
            kept = {i for i in r.order if i is not None}
            missing = set((*passing, *values)) - kept
            if any(canon[i] for i in missing):
                return self.refuse(f"%{r.out} sums over more than the key axis")
        if any(key in _places(v, canon) for _, _, v in updates if v is not None):
            return self.refuse("what is added to the state is no outer product")
        return RankOne(
            self.graph, self.labels, self.state, type_, canon, key, passing, values, tuple(decays),
            _merged(updates), tuple(reads),
        )  # fmt: skip

    def split(
        self, factors: Factors, new: set[Label], old: set[Label], canon: Sequence[Axis], key: int
    ) -> tuple[Factors, Factors] | None:
        """Factors joined to the new axis, and all others; None if some join it to the old one."""
        outer = {x for i, axis in enumerate(canon) if i != key for x in axis}
        parts: list[tuple[set[Label], list[Factor]]] = []
        for factor in factors:
            mine = {x for axis in factor.axes for x in axis} - outer
            touching = [p for p in parts if p[0] & mine]
            joined = (mine.union(*(p[0] for p in touching)), [f for p in touching for f in p[1]] + [factor])
            parts = [p for p in parts if not p[0] & mine] + [joined]
        if any(labels & new and labels & old for labels, _ in parts):
            return None
        left = tuple(f for labels, fs in parts if labels & new for f in fs)
        return left, tuple(f for labels, fs in parts if not labels & new for f in fs)

    def added(self, offset: Arg) -> tuple[Product, ...] | None:
        """What is added to a read, opened if it passes through values as wide as the state."""
        if not isinstance(offset, Use):
            return None
        limit = width(self.graph, self.state)
        by_name = self.graph.by_name()
        open_, seen = [offset.name], set[str]()
        while open_:
            op = by_name.get(open_.pop())
            if op is not None and op.result not in seen and op.kind != "signal" and not op.init:
                seen.add(op.result)
                open_ += [u.name for u in op.uses() if not u.delay]
        if not any(width(self.graph, name) >= limit for name in seen if isinstance(by_name[name].type, Type)):
            return None
        found = self.products(offset, joined=True)
        return None if found is None or any(pairs for _, _, pairs in found) else tuple(found)


def _with_aliases(graph: Graph) -> Graph:
    """Two reads of one value by one op get two names, so that a square opens like any other product."""
    by_name = graph.by_name()
    types = {i.name: i.type for i in graph.inputs} | {o.result: o.type for o in graph.ops if isinstance(o.type, Type)}
    ops: list[Op] = []
    for op in graph.ops:
        if op.kind in ("einsum", "mul", "matmul", "bmm", "mm", "outer", "ger"):
            twins = _Twins(op.result, types, by_name)
            op = replace(op, args=tuple(_mapped(a, twins) for a in op.args))
            ops += twins.ops
        ops.append(op)
    return replace(graph, ops=order(tuple(ops)))


@dataclass
class _Twins:
    """Gives the second read of a value, and every further one, a name of its own."""

    reader: str
    types: Mapping[str, Type]
    by_name: Mapping[str, Op]
    ops: list[Op] = field(default_factory=list)
    seen: set[Use] = field(default_factory=set)

    def __call__(self, use: Use) -> Arg:
        if use not in self.seen or use.delay or use.name not in self.types or not self.types[use.name].shape:
            self.seen.add(use)
            return use
        name, source = f"{self.reader}.twin{len(self.ops)}", self.by_name.get(use.name)
        self.ops.append(Op(name, "alias", (use,), (), self.types[use.name], None if source is None else source.time))
        return Use(name)


def _is_plain(factor: Factor) -> bool:
    """Is it the value itself, neither its inverse nor its conjugate?"""
    return not (factor.inverse or factor.conjugate)


def _mapped(arg: Arg, change: Callable[[Use], Arg]) -> Arg:
    if isinstance(arg, Use):
        return change(arg)
    return tuple(_mapped(a, change) for a in arg) if isinstance(arg, tuple) else arg


def _between(graph: Graph, source: Use, target: str) -> set[str]:
    """The ops on the ways from a read to a value."""
    by_name = graph.by_name()
    reach: dict[str, bool] = {}

    def reaches(name: str) -> bool:
        if name not in reach:
            reach[name] = False
            op = by_name.get(name)
            if op is not None and not op.init and op.kind != "signal":
                hits = [
                    use == source or (use.delay == 0 and use.name != source.name and reaches(use.name))
                    for use in op.uses()
                ]
                reach[name] = any(hits)
        return reach[name]

    reaches(target)
    return {name for name, found in reach.items() if found}


def _substituted(
    term: Term,
    rest: Factors,
    factor: Factor,
    part: Product,
) -> Term:
    """`factor` replaced by one of the products that it is the sum of."""
    axes, factors, pairs = part
    change: dict[Label, Axis] = {}
    for mine, theirs in zip(axes, factor.axes, strict=True):
        if len(mine) == len(theirs):
            change |= {m: (t,) for m, t in zip(mine, theirs, strict=True)}
        elif len(mine) == 1:
            change[mine[0]] = theirs
    opened = relabel(Term(term.state, (), (), factors), change).factors
    new = replace(term, factors=(*rest, *opened))
    for left, right in pairs:
        # the identity: both axes are one
        one = [x for label in left for x in change.get(label, (label,))]
        two = [x for label in right for x in change.get(label, (label,))]
        new = relabel(new, {b: (a,) for a, b in zip(one, two, strict=True)})
    return new


def _canonical(term: Term, axes: Sequence[Axis], canon: Sequence[Axis], labels: Labels) -> Term:
    """The term with the labels of `axes` renamed to the state's own."""
    change: dict[Label, Axis] = {}
    clash = {x for axis in canon for x in axis} & {x for axis in term.state_axes for x in axis}
    mine = {x for axis in axes for x in axis}
    for label in clash - mine:  # an old axis that happens to carry the state's label
        change[label] = labels.axis(labels.size[label])
    for have, want in zip(axes, canon, strict=True):
        change |= {h: (w,) for h, w in zip(have, want, strict=False)}
    return relabel(term, change)


def _places(factors: Factors, canon: Sequence[Axis]) -> set[int]:
    held = {x for f in factors for axis in f.axes for x in axis}
    return {i for i, axis in enumerate(canon) if held & set(axis)}


def _merged(updates: Sequence[tuple[Factors, Factors | None, Factors | None]]) -> tuple[Update, ...]:
    """Updates with one left vector are one update: u (w^T S + v^T)."""
    found: dict[Factors, Update] = {}
    for left, inner, value in updates:
        key = tuple(sorted(left, key=repr))
        old = found.get(key, Update(left, (), ()))
        found[key] = Update(
            old.left,
            old.inner if inner is None else (*old.inner, inner),
            old.values if value is None else (*old.values, value),
        )
    return tuple(found.values())
