"""Vocabulary: operators as text with holes, each linear in the state and of its shape.

{h} is the state, {u} an input of the same shape, {n} the size of the last axis, {i} indices into that axis, {r} the rank.
What only moves numbers is linear over every semiring.
"""

from __future__ import annotations

from fuzz.scope import Scope, Shape, stream

MOVES = (  # any shape
    "{h}.clone()", "{h}.contiguous()", "(+{h})", "F.dropout({h}, 0.2, False)", "{h}.type_as({u})", "{h}.resolve_conj()",
    "{h}.resolve_neg()", "torch.ops.aten._to_copy({h}, dtype=torch.float64)", "torch.ops.aten._unsafe_view({h}, {h}.shape)",
    "torch.ops.aten.alias({h})", "{h}.unsqueeze(0).squeeze(0)", "{h}.expand(2, *{h}.shape)[1]", "torch.stack([{u}, {h}])[1]",
    "{h}.masked_fill(torch.zeros_like({h}, dtype=torch.bool), 1.0)", "torch.where({u} < 9, {h}, {u})",
)  # fmt: skip
MOVES_ALONG_AN_AXIS = (  # a last axis of two or more
    "{h}.roll(1, -1)", "{h}.flip(-1)", "{h}.index_select(-1, torch.tensor({i}))", "{h}[..., {i}]",
    "torch.cat([{h}.narrow(-1, 1, {n} - 1), {u}.narrow(-1, 0, 1)], -1)", "torch.cat([{u}[..., 1:], {h}[..., :1]], dim=-1)",
    "{h}.repeat_interleave(2, dim=-1)[..., :{n}]", "{h}.repeat(*[1] * ({r} - 1), 2)[..., 1:{n} + 1]",
    "torch.gather({h}, -1, torch.tensor({i}).expand({h}.shape))", "torch.constant_pad_nd({h}, (1, 0))[..., 1:]",
    "F.pad({h}, (0, 1))[..., :{n}]", "{h}.unsqueeze(-1).transpose(-1, -2)[..., 0, :]", "{h}.unsqueeze(-1).mT.squeeze(-2)",
    "{h}.unsqueeze(0).swapaxes(0, -1)[..., 0].movedim(0, -1)", "{h}.movedim(-1, 0).movedim(0, -1)", "{h}.select(-1, 0).unsqueeze(-1).expand({h}.shape)",
    "{h}.unsqueeze(-2).permute(*range({r} - 1), -1, -2).flatten(-2)", "{h}.reshape(*{h}.shape[:-1], 1, {n}).view({h}.shape)",
    "{h}.flatten().unflatten(0, {h}.shape)", "{h}.reshape(-1, {n}).t().t().reshape({h}.shape)", "{h}.reshape(-1, {n}).T.T.view({h}.shape)",
    "torch.select_scatter({h}, {u}.select(-1, 0), -1, 0)", "torch.slice_scatter({h}, {u}[..., 1:], -1, 1)", "torch.slice_scatter({u}, {h}[..., :1], -1, 0, 1)",
    "{h}.scatter(-1, torch.tensor([{n} - 1]).expand(*{h}.shape[:-1], 1), {u}[..., :1])", "{h}.index_fill(-1, torch.tensor([0]), 0.5)",
    "{h}.index_copy(-1, torch.tensor([{n} - 1, 0]), {u}[..., :2])", "torch.index_put({h}, [torch.tensor([0])], {u}[:1])",
    "torch.tile({h}, (2,))[..., 1:{n} + 1]", "{h}.moveaxis(-1, 0).moveaxis(0, -1)", "{h}.swapdims(0, -1).swapdims(-1, 0)",
    "torch.take_along_dim({h}, torch.tensor({i}).expand({h}.shape), -1)", "torch.cat(torch.tensor_split({h}, 2, -1)[::-1], -1)",
    "torch.concat([{h}[..., 1:], {u}[..., :1]], -1)", "{h}.index_fill(-1, torch.tensor([0]), {u}.mean())", "{h}.masked_fill({u} > 1, {u}.mean())", "torch.diagonal_scatter({h}.reshape(-1, {n}), {u}.reshape(-1, {n}).diagonal()).reshape({h}.shape)",
    "{h}.ravel().reshape({h}.shape)", "torch.broadcast_to({h}, (2, *{h}.shape))[1]",
    "F.embedding(torch.tensor({i}), {h}.reshape(-1, {n}).T).T.reshape({h}.shape)", "{h}.masked_scatter({u} > 1, {u})",
    "{u}.index_copy(-1, torch.tensor([0]), {h}[..., 1:2])", "torch.rot90({h}.unsqueeze(-1), 1, (-2, -1)).squeeze(-2)",
    "{h}.scatter(-1, torch.tensor([0]).expand(*{h}.shape[:-1], 1), {h}[..., 1:2])", "torch.hstack([{h}.reshape(-1, {n})[:, 1:], {h}.reshape(-1, {n})[:, :1]]).reshape({h}.shape)",
    "torch.index_put({h}.movedim(-1, 0), [torch.tensor([1])], {h}.movedim(-1, 0)[:1]).movedim(0, -1)",
)  # fmt: skip
SUMS_ALONG_AN_AXIS = (  # (+, x) alone; each at most {n} times as large as the state
    "torch.diagonal({h}.unsqueeze(-1) * {h}.new_ones({n}), dim1=-2, dim2=-1)", "torch.diag_embed({h}).sum(-1)",
    "(({h}.unsqueeze(-1) * {u}.new_ones({n})).tril().sum(-2) / {n})", "(({h}.unsqueeze(-1) * {u}.new_ones({n})).triu(1).sum(-1) / {n})",
    "torch.diff({h}, dim=-1, append={h}[..., :1])", "torch.diff({h}, dim=-1, prepend={u}[..., :1])",
    "F.avg_pool1d({h}.reshape(-1, 1, {n}), 3, 1, 1).reshape({h}.shape)", "F.avg_pool2d({h}.reshape(-1, 1, 1, {n}), (1, 3), 1, (0, 1)).reshape({h}.shape)",
    "F.avg_pool3d({h}.reshape(-1, 1, 1, 1, {n}), (1, 1, 3), 1, (0, 0, 1)).reshape({h}.shape)",
    "F.adaptive_avg_pool1d({h}.reshape(-1, 1, {n}), 1).reshape({h}.shape[:-1]).unsqueeze(-1).expand({h}.shape)",
    "F.adaptive_avg_pool2d({h}.reshape(-1, 1, 1, {n}), (1, 1)).reshape(*{h}.shape[:-1], 1).expand({h}.shape)",
    "F.conv3d({h}.reshape(-1, 1, 1, 1, {n}), {h}.new_full((1, 1, 1, 1, 3), 0.3), padding=(0, 0, 1)).reshape({h}.shape)",
    "(torch.fft.fft2({h}.unsqueeze(-2)).real.squeeze(-2) / {n})", "torch.fft.ifft2({h}.unsqueeze(-2)).imag.squeeze(-2)",
    "torch.fft.irfft2(torch.fft.rfft2({h}.unsqueeze(-2)) * 0.5, s=(1, {n})).squeeze(-2)", "(torch.fft.fftn({h}, dim=(-1,)).imag / {n})",
    "torch.fft.ifftn(torch.fft.fftn({h}, dim=(-1,)) * 1j, dim=(-1,)).imag", "torch.fft.irfftn(torch.fft.rfftn({h}, dim=(-1,)), s=({n},), dim=(-1,))",
    "(torch.fft.hfft({h}, n={n}) / (2 * {n}))", "torch.linalg.solve(torch.eye({n}, dtype=torch.float64).triu() * 1.5, {h}.unsqueeze(-1)).squeeze(-1)",
    "(F.bilinear({h}, torch.tanh({u}), torch.linspace(-1, 1, {n} ** 3, dtype=torch.float64).reshape({n}, {n}, {n})) / {n} ** 2)",
    "{h}.scatter_add(-1, torch.tensor({i}).expand({h}.shape), {u})", "{h}.index_add(-1, torch.tensor({i}), {u})",
    "F.batch_norm({h}.reshape(-1, {n}), *torch.linspace(0.5, 1.5, 4 * {n}, dtype=torch.float64).reshape(4, {n}).unbind()).reshape({h}.shape)",
    "torch.inner({h}, {h}.new_ones({n}, {n}) / {n})", "(torch.linalg.vecdot({h}, torch.tanh({u})).unsqueeze(-1) * {u}.new_ones({n}))",
    "torch.trapezoid({h}, dim=-1).unsqueeze(-1).expand({h}.shape)", "torch.outer({h}.ravel(), {h}.new_ones(1)).reshape({h}.shape)",
    "F.linear({h}.new_ones(1, {n}), {h}.reshape(-1, {n})).reshape(*{h}.shape[:-1], 1).expand({h}.shape)",
    "F.conv1d({h}.reshape(-1, 1, {n}), {h}.new_full((1, 1, 3), 0.3), {h}.new_ones(1), padding=1).reshape({h}.shape)",
    "F.conv_transpose1d({h}.reshape(-1, 1, {n}), {h}.new_full((1, 1, 3), 0.3), {h}.new_ones(1), padding=1).reshape({h}.shape)",
    "F.interpolate({h}.reshape(-1, 1, {n}), scale_factor=2.0, mode='linear')[..., ::2].reshape({h}.shape)",
    "F.pad({h}, (1, 1)).unfold(-1, 3, 1).mean(-1)", "F.unfold({h}.reshape(-1, 1, 1, {n}), (1, 3), padding=(0, 1)).mean(1).reshape({h}.shape)",
    "(0 * {u}).index_add(-1, torch.tensor({i}), {h})", "(0 * {u}).scatter_add(-1, torch.tensor({i}).expand({h}.shape), {h})",
    "({h}.scatter_reduce(-1, torch.tensor({i}).expand({h}.shape), {h}, 'sum') / 2)", "torch.gradient({h}, dim=-1)[0]",
    "torch.subtract(torch.multiply({h}, 0.9), {u})", "torch.true_divide({h}, 2.0)", "(torch.dot({h}.ravel(), torch.ones_like({h}).ravel()) / {h}.numel() * torch.tanh({u}))",
    "torch.conj({h}.to(torch.complex128) * (0.3 + 0.4j)).imag", "torch.conj_physical({h} * (0.3 + 0.4j)).real", "torch.complex({h}, {u}).imag + torch.complex({u}, {h}).imag * 0.5",
)  # fmt: skip
OF_THREE = (
    "(0.5 * torch.linalg.cross({h}, {u}.tanh(), dim=-1))",
    "(0.5 * torch.cross({u}.sin(), {h}, dim=-1))",
)  # a last axis of three


def moved(s: Scope, text: str, shape: Shape, known: str = "") -> str:
    """The text of a value with its numbers moved about; `known` is an input of that shape, drawn where none is given."""
    return _spoken(s, MOVES + MOVES_ALONG_AN_AXIS * _has_axis(shape), text, shape, known)


def summed(s: Scope, text: str, shape: Shape, known: str = "") -> str:
    """The text of a value with its last axis mixed, at most as many times as large as that is long."""
    return _spoken(s, SUMS_ALONG_AN_AXIS + OF_THREE * (shape[-1] == 3), text, shape, known)


def _has_axis(shape: Shape) -> bool:
    return shape[-1:] not in ((), ("B",), (1,))


def _spoken(s: Scope, texts: tuple[str, ...], value: str, shape: Shape, known: str) -> str:
    text = s.c.pick(texts)
    n = shape[-1] if _has_axis(shape) else 1
    assert isinstance(n, int)
    order = s.c.pick([[*range(n - 1, -1, -1)], [*range(1, n), 0], [0] * n])
    u = known or (stream(s, shape) if "{u}" in text else "")
    return "(" + text.format(h=value, u=u, n=n, i=order, r=len(shape)) + ")"
