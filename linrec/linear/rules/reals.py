"""Rules of complex numbers: maps that are linear over the reals, such as the real part, are sums of z and its conjugate."""

from __future__ import annotations

from dataclasses import replace

from linrec.dtypes import LONG
from linrec.ir import Arg, Atom, Op, Type, Use
from linrec.linear.affine import Factor, Form, Refusal, Term
from linrec.linear.rules.maps import applied, fourier_axes, matrix_of
from linrec.linear.rules.table import Builder, offset_through, rule, shape_of, through, whole


def conjugated(term: Term, build: Builder) -> Term:
    """The conjugate of a path; a real state is its own."""
    real = build.type(term.state).dtype[0] != "c"
    factors = tuple(replace(f, conjugate=not f.conjugate) for f in term.factors)
    return replace(term, factors=factors, conjugate=not (real or term.conjugate))


def is_real(term: Term, build: Builder) -> bool:
    """Is the path real because all it is made of is?"""
    parts = [f.value if isinstance(f.value, complex) else build.type(f.value).dtype[0] == "c" for f in term.factors]
    return build.type(term.state).dtype[0] != "c" and not any(parts)


@rule("_conj", "conj_physical")
def _conj(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None
    return through(op, build, 0, form, tuple(conjugated(t, build) for t in form.terms))


@rule("real", "imag")
def _part(op: Op, build: Builder) -> Form | Refusal:
    # re z = (z + z*) / 2,  im z = (z - z*) / 2i
    form = build.form(op.args[0])
    assert form is not None
    first, second = (0.5, 0.5) if op.kind == "real" else (-0.5j, 0.5j)
    terms: list[Term] = []
    for term in form.terms:
        if is_real(term, build):
            terms += [term] if op.kind == "real" else []
        else:
            terms += [term.times(Factor(first)), conjugated(term, build).times(Factor(second))]
    return through(op, build, 0, form, tuple(terms))


@rule("view_as_real")
def _view_as_real(op: Op, build: Builder) -> Form | Refusal:
    form, type_ = build.form(op.args[0]), build.type(op.args[0])
    assert form is not None
    terms: list[Term] = []
    for term in form.terms:
        for path, pair in ((term, (0.5, -0.5j)), (conjugated(term, build), (0.5, 0.5j))):
            pair_axis = build.labels.axis(2)
            weights = _constant(pair, type_.dtype, build)
            terms.append(path.times(Factor(weights, (pair_axis,)), axes=(*path.axes, pair_axis)))
    return through(op, build, 0, form, tuple(terms))


@rule("view_as_complex")
def _view_as_complex(op: Op, build: Builder) -> Form | Refusal:
    form = build.form(op.args[0])
    assert form is not None and isinstance(op.type, Type)
    weights = _constant((1.0, 1.0j), op.type.dtype, build)
    terms = tuple(t.times(Factor(weights, (t.axes[-1],)), axes=t.axes[:-1]) for t in form.terms)
    return through(op, build, 0, form, terms)


def _constant(values: tuple[complex, ...], dtype: str, build: Builder) -> Arg:
    return build.make("tensor", (values,), Type(dtype, (len(values),)), (("dtype", Atom(LONG[dtype])),))


@rule("complex")
def _complex(op: Op, build: Builder) -> Form | Refusal:
    terms: list[Term] = []
    offsets: list[Arg] = []
    for arg, unit in zip(op.args[:2], (1, 1j), strict=True):
        form = build.form(arg)
        terms += [t.times(Factor(unit)) for t in (form.terms if form is not None else ())]
        offsets.append(arg if form is None else form.offset)
    if offsets == [None, None]:
        return Form(tuple(terms))
    filled = [whole(o, build.type(a), build) for a, o in zip(op.args[:2], offsets, strict=True)]
    return Form(tuple(terms), build.clone(op, tuple(filled)))


@rule("fft_irfft", "fft_hfft", "fft_irfft2", "fft_irfftn")
def _inverse_real(op: Op, build: Builder) -> Form | Refusal:
    # f(x + iy) = P x + Q y with real P, Q: the unit vectors e and ie show them
    form, axes = build.form(op.args[0]), fourier_axes(op, build)
    assert form is not None
    matrices = [matrix_of(op, build, axes, unit) for unit in (1, 1j)]
    terms: list[Term] = []
    for matrix, weights in zip(matrices, ((0.5, 0.5), (-0.5j, 0.5j)), strict=True):
        if isinstance(matrix, Refusal):
            return matrix
        assert isinstance(matrix, Use)
        for term in form.terms:
            for path, weight in zip((term, conjugated(term, build)), weights, strict=True):
                terms.append(applied(path.times(Factor(weight)), matrix, shape_of(op), axes, build))
    return Form(tuple(terms), offset_through(op, build, 0, form))
