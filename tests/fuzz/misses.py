"""Near misses: functions of the state that are not affine, most of them close to the identity.

Each is a text with holes: {h} the state, {u} an input of the same shape, {m} a mask, {n} the size of the last axis.
Statements that must come first are lines before the last one, which is the value; {v} is a new name.
"""

from __future__ import annotations

from fuzz.operators import Value
from fuzz.scope import Scope, Shape, mask, stream

EVERYWHERE = (  # any shape
    "({h} - 0.001 * {h} * {h})", "torch.addcmul({h}, {h}, {h}, value=0.001)", "({h} - 0.001 * {h} ** 2)", "{h} * torch.sigmoid({h})",
    "({h} + 0.001 * torch.square({h}))", "torch.round({h}, decimals=6)", "{h}.round(decimals=3)", "({h} + ({h}.round() - {h}).detach())",
    "{h}.clamp(-1e6, 1e6)", "{h}.clamp(min=-1e6)", "torch.clamp({h}, max=1e6)", "{h}.clip(-1e6, 1e6)", "F.hardtanh({h}, -1e9, 1e9)",
    "torch.nan_to_num({h})", "torch.minimum({h}, torch.full_like({h}, 1e6))", "torch.where({h} > 0, {h}, 0.99 * {h})",
    "torch.where({h} > -1e9, {h}, {u})", "torch.where({u} > {h}, {h}, 0.5 * {h})", "{h} * ({h} > -1e9)", "{h}.masked_fill({h} > 3, 1.0)",
    "{h}.detach()", "{h}.data.clone()", "({h} + {h}.detach()) / 2", "torch.where({m}, {h}, {h}.detach())", "({h} + 0.0 * torch.tanh({h}))", "torch.tanh({h})",
    "torch.sin({h})", "torch.exp(-{h}.abs())", "F.relu({h})", "{h}.abs()", "F.leaky_relu({h}, 0.999)", "F.softplus({h})", "F.gelu({h})", "F.elu({h})",
    "torch.sqrt({h} * {h} + 1)", "{h} / (1 + {h}.abs())", "1 / (2 + {h}.abs())", "torch.reciprocal(2 + {h} * {h})", "{u} / (2 + torch.cos({h}))",
    "({h} - 0.1 * {h}.floor())", "{h}.trunc()", "{h}.frac()", "torch.remainder({h}, 100.0)", "{h} % 50.0", "torch.fmod({h}, 10.0)", "{h} // 0.01 * 0.01",
    "{h}.to(torch.int64).to(torch.float64)", "{h}.long() * 0.5", "({h} + 0.1 * torch.sign({h}))", "({h} + 0.1 * torch.heaviside({h}, {u}))",
    "torch.hypot({h}, {u})", "torch.atan2({h}, {u})", "torch.lerp({h}, {u}, torch.sigmoid({h}))", "torch.maximum({h}, {u}) * 0.5",
    "torch.where({m}, {h}, {h}.clamp(-3, 3))", "F.dropout({h}, 0.1, training=True)", "({h} * torch.sigmoid({h} + {u}) + {u})", "torch.erf({h})",
    "F.threshold({h}, 0.1, 0.0)", "F.hardshrink({h}, 0.01)", "F.softsign({h})", "torch.log1p({h}.abs())", "{h} * ({h} != 0)", "{h} ** 3 * 1e-5",
    "(torch.pow(0.9, {h}.abs()) + {h})", "(0.5 * {h}.logaddexp({u}))",
    "with torch.no_grad():\n    {v} = 0.9 * {h}\n{v}", "{v} = {h}\nif {v}.sum() > 0:\n    {v} = 0.5 * {v}\n{v}", "{v} = {h} * float({h}.mean() > 0.1)\n{v}",
    "{v} = {h} if {h}.abs().max() < 1e9 else 0 * {h}\n{v}", "{v} = {h}.clone()\n{v}[{v} > 1] = 0.5\n{v}", "{v} = {h}.clone()\n{v}.clamp_(-4, 4)\n{v}",
    "{v} = {h}.clone()\n{v}.tanh_()\n{v}", "{v} = {h}.clone()\n{v}.mul_({v} > 0)\n{v}",
)  # fmt: skip
ALONG_AN_AXIS = (  # a last axis of two or more
    "F.layer_norm({h}, ({n},))", "F.normalize({h}, dim=-1)", "{h} / (1 + {h}.norm(dim=-1, keepdim=True))", "torch.softmax({h}, -1)",
    "F.log_softmax({h}, dim=-1)", "{h} / (1 + {h}.detach().abs().sum(-1, keepdim=True))", "0.5 * {h}.amax(-1, keepdim=True) * torch.ones_like({h})",
    "{h}.sort(-1).values", "({h} + 0.1 * {h}.gather(-1, {h}.argmax(-1, keepdim=True)))", "{h} + 0.01 * {h}.var(-1, keepdim=True)",
    "({h} + 0.001 * torch.einsum('...i,...i->...', {h}, {h}).unsqueeze(-1))", "0.5 * torch.logsumexp({h}, -1, keepdim=True) * torch.ones_like({h})",
    "({h} + torch.tanh({h}.prod(-1, keepdim=True)))", "0.5 * torch.cummax({h}, -1).values", "{h} - 0.5 * {h}.max(-1, keepdim=True).values",
    "({h} + torch.linalg.vector_norm({h}, dim=-1, keepdim=True))", "0.5 * {h}.topk(1, -1).values * torch.ones_like({h})", "F.rms_norm({h}, ({n},))",
    "({h} + 0.001 * ({h} * {h}).mean(-1, keepdim=True))", "({h} * {h}.softmax(-1))", "0.5 * torch.cumprod(torch.tanh({h}), -1)",
    "{v} = torch.roll({h}, int({h}.abs().sum()) % {n}, -1)\n{v}", "{v} = {h}.clone()\n{v}[..., int({h}.abs().sum()) % {n}] = 0\n{v}",
    "({h} + 0.1 * torch.eye({n}, dtype=torch.float64)[{h}.argmax(-1)])",
)  # fmt: skip


def missed(s: Scope, value: Value, shape: Shape) -> Value:
    """A function of the state that is not affine."""
    has_axis = shape[-1:] not in ((), ("B",))
    text = s.c.pick(EVERYWHERE + ALONG_AN_AXIS * 2 if has_axis else EVERYWHERE)
    s.trait(f"miss {text}")
    if not value.text.isidentifier() and "\n" in text:
        name = s.w.name("v")
        s.lines.append(f"{name} = {value.text}")
        value = Value(name, value.gain)
    holes = {
        "h": value.text,
        "u": stream(s, shape) if "{u}" in text else "",
        "m": mask(s, shape) if "{m}" in text else "",
        "n": str(shape[-1]) if has_axis else "",
        "v": s.w.name("v") if "{v}" in text else "",
    }
    *before, last = text.format(**holes).split("\n")
    s.lines += before
    return Value(f"({last})", 2.5 * value.gain)
