"""Operators on the state that keep a step affine. Each takes the text of an affine value and gives that of another.

A value comes with its gain, a bound on how much larger it can be than the state (in the maximum norm), so that the step
can be scaled to be stable at any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzz.scope import Scope, Shape, coefficient, mask, matrix, offset, param, stream
from fuzz.vocabulary import moved, summed


@dataclass(frozen=True)
class Value:
    """An affine value: its text, and its gain."""

    text: str
    gain: float = 1.0


Operator = Callable[[Scope, Value, Shape, int], Value | None]
ELEMENTWISE: list[Operator] = []
MIXING: list[Operator] = []
SHAPES: list[Operator] = []


def affine(s: Scope, value: Value, shape: Shape, depth: int) -> Value:
    """Up to `depth` operators in a row on a value of the state."""
    for _ in range(depth):
        if s.is_number:
            kinds = [ELEMENTWISE[:3]]
        else:
            kinds = [ELEMENTWISE, MIXING, SHAPES] if shape[-1:] not in ((), ("B",)) else [ELEMENTWISE]
        found = s.c.pick(s.c.pick(kinds))(s, value, shape, depth - 1)
        if found is not None:
            value = Value(s.let(found.text), found.gain)
    return value


def _last(shape: Shape) -> int:
    assert isinstance(shape[-1], int)
    return shape[-1]


# ---- elementwise -------------------------------------------------------------------------------------


def _elementwise(operator: Operator) -> Operator:
    ELEMENTWISE.append(operator)
    return operator


@_elementwise
def _scaled(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    a, h = coefficient(s, shape), v.text
    forms = [f"({a} * {h})", f"({h} * {a})", f"({h} * {a} / 1.25)"]
    if not s.is_number:
        forms += [f"torch.mul({h}, {a})", f"{h}.mul({a})"]
    return Value(s.c.pick(forms), v.gain)


@_elementwise
def _divided(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h = v.text
    forms = [f"({h} / 2)", f"({h} / (1 + {param(s, shape[-1:] if shape[-1:] != ('B',) else (), 0.1, 0.9)}))"]
    if not s.is_number:
        forms += [
            f"torch.div({h}, 1.5)",
            f"{h}.div(1 + {stream(s, shape, 'gate')})",
            f"({h} / (1 + {offset(s, shape)} ** 2))",
        ]
    return Value(s.c.pick(forms), v.gain)


@_elementwise
def _added(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, a = v.text, coefficient(s, shape)
    forms = [f"({h} - {a} * {h})", f"(-{h})", f"({h} + {a} * {h})"]
    if not s.is_number:
        u = offset(s, shape)
        forms += [
            f"torch.add({u}, {h}, alpha=0.9)", f"torch.sub({u}, {h}, alpha=0.6)", f"{h}.sub({u})", f"torch.neg({h})", f"({u} - {h})",
            f"torch.sub({h}, {h}, alpha=0.3)", f"(1 - {h})", f"torch.rsub({h}, 0.5)",
        ]  # fmt: skip
    return Value(s.c.pick(forms), 2 * v.gain)


@_elementwise
def _chosen(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, m = v.text, mask(s, shape)
    other = affine(s, v, shape, min(depth, 1))
    forms = [
        f"torch.where({m}, {h}, {other.text})", f"torch.where({m}, {other.text}, {offset(s, shape)})", f"torch.where({m}, {h}, 0.0)",
        f"{h}.masked_fill({m}, 0.0)", f"({h} * {m})", f"({h} * ~{m})", f"torch.where({m}, {h}, -0.5 * {h})",
    ]  # fmt: skip
    return Value(s.c.pick(forms), max(v.gain, other.gain))


@_elementwise
def _lerped(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, w, u = v.text, coefficient(s, shape, positive=True), offset(s, shape)
    forms = [f"torch.lerp({h}, {u}, {w})", f"torch.lerp({u}, {h}, {w})", f"{h}.lerp({u}, 0.3)"]
    if not any(w.startswith(x) for x in ("0.", "(")):
        return Value(s.c.pick(forms), v.gain)
    return Value(forms[2], v.gain)


@_elementwise
def _fused(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, u = v.text, offset(s, shape)
    a = param(s, shape[-1:], -0.9, 0.95) if shape[-1:] not in ((), ("B",)) else stream(s, shape, "gate")
    b = stream(s, shape, "gate")
    forms = [
        f"torch.addcmul({u}, {a}, {h}, value=-0.75)", f"torch.addcmul({h}, {a}, {u})", f"torch.addcdiv({u}, {h}, 1 + {b}, value=0.5)",
        f"torch.addcdiv({h}, {u}, 1 + {b})", f"torch.addcmul({h}, {h}, {a}, value=0.5)",
    ]  # fmt: skip
    return Value(s.c.pick(forms), 1.5 * v.gain)


@_elementwise
def _same(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h = v.text
    forms = [
        f"{h}.clone()",
        f"{h}.contiguous()",
        f"{h}.double()",
        f"{h}.to(torch.float64)",
        f"F.dropout({h}, 0.3, training=False)",
    ]
    forms += [f"{h}.to({stream(s, shape)})", f"{h}.type_as({stream(s, shape)})", f"torch.clone({h})"]
    if s.w.is_module:
        s.w.constructor.append("self.drop = nn.Dropout(0.2)")
        forms += [f"self.drop({h})", f"F.dropout({h}, 0.1, self.training)"]
    return Value(s.c.pick(forms), v.gain)


# ---- products and sums along axes --------------------------------------------------------------------


def _mixing(operator: Operator) -> Operator:
    MIXING.append(operator)
    return operator


@_mixing
def _product(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, n = v.text, _last(shape)
    W, is_batched = matrix(s, n, n)
    W = s.let(W)
    if is_batched:
        lead = "bxyz"[: len(shape) - 1]
        forms = [f"torch.einsum('{lead}i,bij->{lead}j', {h}, {W})"]
        if len(shape) == 2:
            forms += [f"torch.bmm({W}, {h}.unsqueeze(-1)).squeeze(-1)", f"({h}.unsqueeze(1) @ ({W})).squeeze(1)"]
            forms += [f"torch.baddbmm({offset(s, shape)}.unsqueeze(1), {h}.unsqueeze(1), {W}).squeeze(1)"]
            forms += [f"(({W}) * {h}.unsqueeze(1)).sum(-1)", f"torch.einsum('bi,bji->bj', {h}, {W})"]
        if len(shape) == 3:
            forms += [
                f"torch.bmm({h}, {W})",
                f"({h} @ ({W}))",
                f"torch.baddbmm({offset(s, shape)}, {h}, {W}, beta=0.5)",
            ]
        return Value(s.c.pick(forms), v.gain)
    forms = [
        f"({h} @ ({W}))", f"({h} @ ({W}).T)", f"torch.matmul({h}, {W})", f"F.linear({h}, {W})", f"torch.einsum('...i,ij->...j', {h}, {W})",
        f"torch.einsum('ji,...i->...j', {W}, {h})", f"F.linear({h}, {W}, {param(s, (n,), -0.5, 0.5)})",
        f"torch.tensordot({h}, {W}, dims=([-1], [0]))", f"(({W}) @ {h}.unsqueeze(-1)).squeeze(-1)",
        f"({h}.unsqueeze(-2) * ({W})).sum(-1)", f"({h}.unsqueeze(-1) * ({W})).sum(dim=-2)",
    ]  # fmt: skip
    if len(shape) == 2:
        forms += [
            f"torch.addmm({offset(s, shape)}, {h}, {W})",
            f"torch.mm({h}, {W})",
            f"torch.addmm({offset(s, shape)}, {h}, {W}, beta=0.5, alpha=0.9)",
        ]
        forms += [f"(({W}) @ {h}.T).T", f"{h}.mm({W})", f"(0.5 * {h} + 0.5 * torch.mv({W}, {h}[0]))"]
    if len(shape) == 1:
        forms += [
            f"torch.mv({W}, {h})",
            f"(({W}) @ {h})",
            f"torch.einsum('ij,j', {W}, {h})",
            f"torch.einsum('ij,j->i', {W}, {h})",
        ]
    return Value(s.c.pick(forms), v.gain)


@_mixing
def _module(s: Scope, v: Value, shape: Shape, depth: int) -> Value | None:
    if not s.w.is_module:
        return None
    n = _last(shape)
    name = s.w.name("lin")
    k = s.c.pick([n, 2])
    made = [f"self.{name} = nn.Linear({n}, {n})", f"self.{name} = nn.Linear({n}, {n}, bias=False)",
            f"self.{name} = nn.Sequential(nn.Linear({n}, {k}), nn.Dropout(0.1), nn.Linear({k}, {n}))"]  # fmt: skip
    s.w.constructor.append(s.c.pick(made))
    s.w.constructor.append(
        f"[nn.init.uniform_(p, -{1 / max(n, k)!r}, {1 / max(n, k)!r}) for p in self.{name}.parameters()]"
    )
    return Value(f"self.{name}({v.text})", v.gain)


@_mixing
def _sums(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, n = v.text, _last(shape)
    p = param(s, (n,), -0.9, 0.95)
    forms = [
        f"({h} - {h}.mean(-1, keepdim=True))", f"({h}.sum(dim=-1, keepdim=True) * {p})", f"({h} - {h}.mean(dim=0))",
        f"({h}.mean(-1).unsqueeze(-1) * {p})", f"(torch.sum({h} * {p}, -1, keepdim=True) * {p})", f"({p} * {h}.sum() / 16)",
        f"({h} + 0.5 * torch.mean({h}, dim=-1, keepdim=True))", f"(({h} @ {p}).unsqueeze(-1) * {p})",
    ]  # fmt: skip
    if len(shape) > 2:
        forms += [
            f"({h} - {h}.mean((-2, -1), keepdim=True))",
            f"({h}.sum(1, keepdim=True) + {h})",
            f"({h} - {h}.mean(dim=(-1, -2))[..., None, None])",
        ]
    return Value(s.c.pick(forms), (n + 2) * v.gain)


@_mixing
def _along_an_axis(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, n = v.text, _last(shape)
    W = param(s, (n, n), -1 / n, 1 / n)
    f = param(s, (n // 2 + 1,), 0.1, 0.9)
    unit = f"torch.eye({n}, dtype=torch.float64) + torch.tril({W}, -1)"
    forms = [
        f"torch.cumsum({h}, -1)", f"{h}.cumsum(dim=-1)",
        f"torch.linalg.solve_triangular({unit}, {h}.unsqueeze(-1), upper=False).squeeze(-1)",
        f"torch.fft.irfft(torch.fft.rfft({h}, dim=-1) * {f}, n={n}, dim=-1)", f"(torch.fft.fft({h}).real / {n})",
        f"torch.fft.ifft(torch.fft.fft({h}, dim=-1) * {param(s, (n,), 0.1, 0.9)}, dim=-1).real",
        f"torch.diff({h}, dim=-1, prepend=0 * {h}[..., :1])",
    ]  # fmt: skip
    return Value(s.c.pick(forms), (n + 2) * v.gain)


@_mixing
def _convolved(s: Scope, v: Value, shape: Shape, depth: int) -> Value | None:
    h = v.text
    if len(shape) == 2 and shape[0] == "B":
        k = param(s, (1, 1, 3), -0.33, 0.33)
        forms = [
            f"F.conv1d({h}.unsqueeze(1), {k}, padding=1).squeeze(1)", f"F.conv1d({h}[:, None], {k}, padding='same')[:, 0]",
            f"F.conv1d(F.pad({h}.unsqueeze(1), (2, 0)), {k}).squeeze(1)", f"F.conv1d(F.pad({h}.unsqueeze(1), (1, 1), mode='circular'), {k}).squeeze(1)",
        ]  # fmt: skip
        return Value(s.c.pick(forms), v.gain)
    if len(shape) == 3 and shape[0] == "B":
        n = shape[1]
        assert isinstance(n, int)
        k, g, k2 = (
            param(s, (n, n, 3), -0.33 / n, 0.33 / n),
            param(s, (n, 1, 3), -0.33, 0.33),
            param(s, (1, 1, 3, 3), -0.11, 0.11),
        )
        forms = [
            f"F.conv1d({h}, {k}, padding=1)", f"F.conv1d({h}, {g}, padding=1, groups={n})",
            f"F.conv2d({h}.unsqueeze(1), {k2}, padding=1).squeeze(1)",
        ]  # fmt: skip
        return Value(s.c.pick(forms), v.gain)
    return None


@_mixing  # twice: there are many words
@_mixing
def _worded(s: Scope, v: Value, shape: Shape, depth: int) -> Value | None:
    n = _last(shape)
    return None if n < 2 else Value(summed(s, v.text, shape), (n + 1) * v.gain)


# ---- axes --------------------------------------------------------------------------------------------


def _shapes(operator: Operator) -> Operator:
    SHAPES.append(operator)
    return operator


@_shapes
def _rearranged(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, n = v.text, _last(shape)
    index = s.c.pick([[*range(n - 1, -1, -1)], [*range(1, n), 0], [0] * n, [1, 0, *range(2, n)]])
    tensor = f"torch.tensor({index})"
    rows = f"{tensor}.expand({h}.shape)" if len(shape) > 1 else tensor
    forms = [
        f"torch.roll({h}, 1, -1)", f"{h}.flip(-1)", f"torch.flip({h}, dims=(-1,))", f"{h}[..., {index}]", f"{h}.index_select(-1, {tensor})",
        f"torch.gather({h}, -1, {rows})", f"F.pad({h}, (1, 0))[..., :-1]", f"F.pad({h}[..., 1:], (0, 1))", f"{h}[..., {tensor}]",
        f"torch.cat([{h}[..., 1:], {h}[..., :1]], dim=-1)", f"torch.cat([{h}[..., 1:], {offset(s, shape)}[..., :1]], -1)",
        f"torch.cat([torch.zeros_like({h}[..., :1]), {h}[..., :-1]], -1)", f"torch.roll({h}, shifts=-2, dims=-1)",
        f"torch.index_select({h}, -1, {tensor})", f"{h}.roll(1, dims=-1)", f"torch.cat([{h}.narrow(-1, 1, {n - 1}), 0.5 * {h}.narrow(-1, 0, 1)], -1)",
    ]  # fmt: skip
    return Value(s.c.pick(forms), v.gain)


@_shapes
def _moved(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    return Value(moved(s, v.text, shape), 2 * v.gain)


@_shapes
def _written_through_a_view(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    """A copy of the state, written through views of it, and read through others made before."""
    h, n, name, seen = v.text, _last(shape), s.w.name("w"), s.w.name("seen")
    order = ", ".join(map(str, range(len(shape) - 1, -1, -1)))
    views = [
        f"{name}.movedim(-1, 0)", f"{name}.transpose(0, -1)", f"{name}.swapaxes(-1, 0)", f"{name}[..., 1:]", f"{name}.select(-1, 0)",
        f"{name}.narrow(-1, 0, 1)", f"{name}.unsqueeze(-1)", f"{name}.permute({order})", f"{name}.unflatten(-1, (1, {n}))",
        f"{name}.reshape(-1)", f"{name}.permute({order}).reshape(-1)", f"{name}[..., ::2]", f"{name}.mT" if len(shape) > 1 else name,
        f"torch.tensor_split({name}, 2, -1)[0]", f"{name}.movedim(0, -1).reshape(-1)[:1]",
    ]  # fmt: skip
    read, written = s.c.pick(views), s.c.pick(views)
    how = s.c.pick(["mul_(0.5)", "neg_()", "mul_(-0.2)", "div_(2.0)", "add_(0.1)"])  # no zero_: nothing would be left
    s.lines += [f"{name} = 1.0 * {h}", f"{seen} = {read}", f"{written}.{how}"]
    s.trait("written through a view")
    return Value(f"({name} + 0.3 * {seen}.sum() / {seen}.numel())", 1.5 * v.gain)


@_shapes
def _in_parts(s: Scope, v: Value, shape: Shape, depth: int) -> Value:
    h, n = v.text, _last(shape)
    how = s.c.pick(["split", "chunk", "unbind", "select"])
    names = [s.w.name("q"), s.w.name("r")]
    if how == "chunk" and n % 2 == 0:
        s.lines.append(f"{names[0]}, {names[1]} = {h}.chunk(2, dim=-1)")
        half = (*shape[:-1], n // 2)
    elif how == "unbind" and n <= 4:
        parts = [s.w.name("e") for _ in range(n)]
        s.lines.append(f"{', '.join(parts)} = {h}.unbind(-1)")
        a = coefficient(s, shape[:-1])
        parts[0] = f"({parts[0]} * {a} + 0.3 * {parts[1]})"
        return Value(f"torch.stack([{', '.join(parts)}], {s.c.pick(['-1', f'dim={len(shape) - 1}'])})", 1.3 * v.gain)
    elif how == "select":
        first, rest = (f"{h}.select(-1, 0)", f"{h}[..., 1:]")
        return Value(f"torch.cat([0.5 * {rest}, {first}.unsqueeze(-1)], dim=-1)", v.gain)
    else:
        s.lines.append(f"{names[0]}, {names[1]} = torch.split({h}, [{n - 1}, 1], dim=-1)")
        left = affine(s, Value(names[0], v.gain), (*shape[:-1], n - 1), min(depth, 1))
        order = [names[1], left.text] if s.c.chance(50) else [left.text, names[1]]
        return Value(f"torch.cat([{', '.join(order)}], dim=-1)", left.gain)
    left, right = (affine(s, Value(name, v.gain), half, min(depth, 1)) for name in names)
    forms = [
        f"torch.cat([{left.text}, {right.text}], dim=-1)", f"torch.cat(({right.text}, {left.text}), -1)",
        f"torch.stack([{left.text}, {right.text}], -1).flatten(-2)", f"torch.stack([{left.text}, {right.text}], -2).reshape({h}.shape)",
        f"torch.cat([{left.text} - {names[1]}, {names[0]} + {right.text}], -1)",
    ]  # fmt: skip
    return Value(s.c.pick(forms), left.gain + right.gain)


@_shapes
def _reshaped(s: Scope, v: Value, shape: Shape, depth: int) -> Value | None:
    """There and back, with operators on the other shape in between."""
    h, n, front = v.text, _last(shape), shape[:-1]
    if n % 2 == 0 and s.c.chance(50):
        there = s.c.pick(
            [
                f"{h}.unflatten(-1, (2, {n // 2}))",
                f"{h}.reshape(*{h}.shape[:-1], 2, {n // 2})",
                f"{h}.view(*{h}.shape[:-1], 2, -1)",
            ]
        )
        inner = affine(s, Value(s.let(there), v.gain), (*front, 2, n // 2), min(depth, 2))
        back = s.c.pick([".flatten(-2)", f".reshape({h}.shape)", f".reshape(*{h}.shape[:-1], {n})"])
        return Value(inner.text + back, inner.gain)
    if len(shape) > 2:
        there, back, other = s.c.pick([
            (".transpose(-1, -2)", ".transpose(-1, -2)", (*shape[:-2], n, shape[-2])),
            (".mT", ".mT", (*shape[:-2], n, shape[-2])),
            (".permute(2, 0, 1)", ".permute(1, 2, 0)", None),
            (".flatten(1)", f".unflatten(1, ({shape[-2]}, {n}))", (*shape[:-2], n * int(shape[-2])) if len(shape) == 3 else None),
        ])  # fmt: skip
        if other is None or len(shape) != 3:
            if len(shape) != 3 or back.startswith(".unflatten"):
                return None
            return Value(f"(0.5 * {h}{there}){back}", v.gain)
        inner = affine(s, Value(s.let(h + there), v.gain), other, min(depth, 2))
        return Value(inner.text + back, inner.gain)
    there, back, other = s.c.pick([
        (".unsqueeze(-2)", ".squeeze(-2)", (*front, 1, n)), ("[..., None]", ".squeeze(-1)", (*front, n, 1)), (".unsqueeze(0)", "[0]", None),
        (f".unsqueeze(-1).expand(*{h}.shape, 2)", ".mean(-1)", (*front, n, 2)), (f"[..., None, :].repeat(*[1] * {len(front)}, 2, 1)", ".sum(-2)", None),
    ])  # fmt: skip
    if other is None:
        return Value(f"{h}{there}{back}", 2 * v.gain)
    a = coefficient(s, other) if other[-1] != 1 and other[-2] != 1 else "0.9"
    return Value(f"({a} * {h}{there}){back}", v.gain)


@_shapes
def _rotated(s: Scope, v: Value, shape: Shape, depth: int) -> Value | None:
    """Pairs of real numbers as complex ones."""
    n = _last(shape)
    if n % 2:
        return None
    s.trait("real pairs as complex")
    angle = param(s, (n // 2,), 0.1, 0.9)
    turn = s.c.pick([f"torch.polar(torch.ones_like({angle}), {angle})", f"torch.exp(1j * {angle})"])
    pairs = f"torch.view_as_complex({v.text}.reshape(*{v.text}.shape[:-1], {n // 2}, 2).contiguous())"
    turned = f"{pairs} * {turn}"
    return Value(
        s.c.pick([f"torch.view_as_real({turned}).flatten(-2)", f"torch.cat([({turned}).real, ({turned}).imag], -1)"]),
        2 * v.gain,
    )
