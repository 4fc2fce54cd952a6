"""Time-invariant kernels: s[k] = A s[k-1] + G w[k], y[k] = C s[k-1] + D w[k], in plain operators.

Shapes: A (g, n, n), G (g, n, p), C (g, q, n), D (g, q, p), w (b, T, g, p), y (b, T, g, q). `plain` says that y
is s, that is C = A and D = G. Everything is differentiable to any order in every argument, works under
torch.func and torch.compile, and is the reference for any faster path beside it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from linrec.kernels import compiled, layout
from linrec.kernels.diagonal import doubled, responses
from linrec.kernels.single import CHUNK, single_chunked

BURST = 1e3  # a drive this much louder in one block than in another is not convolved by FFT in float32
GROWTH = 1e2  # nor is a response that grows this much beyond its first quarter
_BLOCK = 64
_LONG = 32 * _BLOCK  # steps from which on the first block is convolved by itself
_CACHED = 1 << 21  # numbers of a block of FFTs
_SMALL = 1 << 14  # numbers that are one block, and that operators move as fast
_HALF = (torch.float16, torch.bfloat16)  # computed in single precision and rounded once


@functools.lru_cache(maxsize=1024)
def smooth(n: int) -> int:
    """The smallest 2^a 3^b 5^c that is at least n: lengths that FFTs are fast at."""
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max((-(-n // three) - 1).bit_length(), 0)
            if n <= two < best:
                best = two
            three *= 3
        five *= 5
    return best


def powers(a: Tensor, g: Tensor, count: int) -> Tensor:  # (g,n,n), (g,n,p) -> (count, g, n, p)
    """G, A G, A^2 G, ...: doubling, [X, A^m X], so log2(count) matrix products.

    O(count g n^2 p + log(count) g n^3) operations.
    """
    groups, n, p = g.shape
    if count == 0:
        return g.new_empty(0, groups, n, p)
    done = g.unsqueeze(1)  # (g, m, n, p)
    step = a
    while (m := done.shape[1]) < count:
        take = min(m, count - m)
        # A^m applied to the first `take` terms: one product with all of them side by side
        side = done[:, :take].permute(0, 2, 1, 3).reshape(groups, n, take * p)
        new = (step @ side).reshape(groups, n, take, p).permute(0, 2, 1, 3)
        done = torch.cat([done, new], 1)
        if done.shape[1] < count:
            step = step @ step
    return done.transpose(0, 1)


def lti_impulse(
    a: Tensor, g: Tensor, c: Tensor, d: Tensor, length: int, plain: bool, real: bool = False
) -> Tensor:  # (g,n,n) or (g,n), (g,n,p), (g,q,n), (g,q,p) -> (T, g, q, p)
    """The impulse response K[0] = D, K[k] = C A^(k-1) G; built in double precision and cast.

    In single precision the powers of a non-normal A lose an order of magnitude more than the FFT does. `a` without
    its last axis is a diagonal. `real`: the real part alone.
    """
    wide = torch.complex128 if a.is_complex() else torch.float64
    kept = torch.float32 if a.dtype in _HALF else a.dtype.to_real() if real else a.dtype
    if a.dim() == 2 and plain:  # y = s, so K[k] = A^k G
        found = doubled(a.to(wide)[..., None, None], g.to(wide).unsqueeze(2), length, 2).permute(2, 0, 1, 3)
        return (found.real if real else found).to(kept)
    if a.dim() == 2:
        rows = responses(a, g, c, max(length - 1, 0), real, kept)
        first = (d.real if real else d).to(kept).unsqueeze(-1)
        return torch.cat([first, rows], -1)[..., :length].permute(3, 0, 1, 2)
    a64, g64, c64, d64 = a.to(wide), g.to(wide), c.to(wide), d.to(wide)
    if plain:
        found = powers(a64, g64, length)
    else:
        found = torch.cat([d64.unsqueeze(0), _responses(a64, g64, c64, length - 1)])[:length]
    return (found.real if real else found).to(kept)


def lti_states(a: Tensor, g: Tensor, length: int) -> Tensor:
    """The response of the states, G, A G, ..., A^(T-2) G, (T-1, g, n, p); built in double precision and cast."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    return powers(a.to(wide), g.to(wide), max(length - 1, 0)).to(torch.float32 if a.dtype in _HALF else a.dtype)


def lti_read(states: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The impulse response of what is read: K[0] = D, K[k] = C states[k-1]; one product, O(T g q n p)."""
    count, groups, n, p = states.shape
    if p == 1:  # as it lies in memory
        column = states.squeeze(-1).transpose(0, 1) @ c.to(states.dtype).mT
        return torch.cat([d.to(states.dtype).unsqueeze(0), column.transpose(0, 1).unsqueeze(-1)])
    rows = states.permute(1, 2, 0, 3).reshape(groups, n, count * p)
    read = (c.to(states.dtype) @ rows).reshape(groups, c.shape[1], count, p).permute(2, 0, 1, 3)
    return torch.cat([d.to(states.dtype).unsqueeze(0), read])


def _responses(a: Tensor, g: Tensor, c: Tensor, count: int) -> Tensor:  # -> (count, g, q, p)
    """C G, C A G, C A^2 G, ...: with k = i L + j the product of C A^(i L), for all i, with A^j G, for all j.

    O(sqrt(count)) powers instead of count, then O(count g n p q) operations in one product.
    """
    groups, q, n = c.shape
    p = g.shape[2]
    if count <= 1:
        return (c @ g).unsqueeze(0)[:count]
    fine = math.isqrt(count - 1) + 1
    coarse = -(-count // fine)
    right = powers(a, g, fine).permute(1, 2, 0, 3).reshape(groups, n, fine * p)
    left = powers(torch.linalg.matrix_power(a, fine).mT, c.mT, coarse).permute(1, 0, 3, 2)
    whole = left.reshape(groups, coarse * q, n) @ right
    rows = whole.reshape(groups, coarse, q, fine, p).permute(1, 3, 0, 2, 4)
    return rows.reshape(coarse * fine, groups, q, p)[:count]


def lti_reversed(response: Tensor) -> Tensor:  # (T, g, q, p) -> (g, T p, q)
    """The response laid out for `lti_final`: last step first, contiguous."""
    t, g, q, p = response.shape
    return response.flip(0).permute(1, 0, 3, 2).reshape(g, t * p, q).contiguous()


def lti_final(w: Tensor, reverse: Tensor) -> Tensor:  # (b,T,g,p), (g, T p, q) -> (b, 1, g, q)
    """The last output alone, y[T-1] = sum_k K[T-1-k] w[k]: one product, O(b T g p q)."""
    b, t, g, p = w.shape
    if w.dtype in _HALF:
        return lti_final(w.float(), reverse).to(w.dtype)
    if g == 1:
        return (w.reshape(b, t * p) @ reverse[0]).reshape(b, 1, 1, reverse.shape[2])
    rows = w.permute(2, 0, 1, 3).reshape(g, b, t * p)
    return (rows @ reverse).transpose(0, 1).unsqueeze(1)


def lti_spectrum(response: Tensor, length: int) -> Tensor:  # (T, g, q, p) -> (g, q, p, F)
    """The response's Fourier transform, padded for a causal convolution of `length` steps."""
    rows = response.permute(1, 2, 3, 0)
    size = smooth(2 * length - 1)
    spectrum: Tensor = torch.fft.fft(rows, size) if response.is_complex() else torch.fft.rfft(rows, size)
    return spectrum


def lti_convolution(
    w: Tensor, response: Tensor, spectrum: Tensor, a: Tensor, g: Tensor, c: Tensor, d: Tensor, plain: bool
) -> Tensor:  # (b,T,g,p), (T,g,q,p), (g,q,p,F) -> (b,T,g,q)
    """All outputs by FFT: O((b p + b q) g T log T + b g p q T). Goes chunk by chunk where an FFT would be inexact."""
    if w.dtype in _HALF:
        return lti_convolution(w.float(), response, spectrum, a, g, c, d, plain).to(w.dtype)
    if not is_tame(w, response):
        y = lti_chunked(w.to(a.dtype), a, g, c, d, plain)
        return y if response.is_complex() or w.is_complex() else y.real
    if not compiled.is_eager(w, response, spectrum):
        return _convolved(w, response, spectrum)
    if torch.is_grad_enabled() and (w.requires_grad or response.requires_grad):
        return _Convolution.apply(w, response, spectrum)  # type: ignore[no-any-return, no-untyped-call]
    return _blocked(w, response, spectrum, False)[0]


def _convolved(w: Tensor, response: Tensor, spectrum: Tensor) -> Tensor:
    """All at once, in operators that every transform of torch knows."""
    t = w.shape[1]
    size = smooth(2 * t - 1)
    is_complex = w.is_complex() or response.is_complex()
    return _inverse(_channels(_transform(w, size, is_complex), spectrum), size, t, is_complex)


def _transform(x: Tensor, size: int, is_complex: bool) -> Tensor:  # (b,T,g,p) -> (b,g,p,F)
    rows = x.permute(0, 2, 3, 1)
    found: Tensor = torch.fft.fft(rows, size) if is_complex else torch.fft.rfft(rows, size)
    return found


def _inverse(x: Tensor, size: int, steps: int, is_complex: bool) -> Tensor:  # (b,g,q,F) -> (b,T,g,q)
    whole: Tensor = torch.fft.ifft(x, size) if is_complex else torch.fft.irfft(x, size)
    return whole[..., :steps].permute(0, 3, 1, 2)


def _channels(w: Tensor, k: Tensor) -> Tensor:  # (b,g,p,F), (g,q,p,F) -> (b,g,q,F)
    if w.shape[2] == 1:
        return w * k.squeeze(2)
    return torch.einsum("bgpf,gqpf->bgqf", w, k)


def _blocks(batch: int, groups: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Parts of the batch and of the groups whose `width` numbers each stay in cache from one FFT to the next."""
    rows = max(_CACHED // width, 1)
    some, many = (groups, rows // groups) if rows >= groups else (rows, 1)
    for at in range(0, groups, some):
        for row in range(0, batch, many):
            yield slice(row, row + many), slice(at, at + some)


class _Rows:
    """Blocks of a signal as channels of steps, padded with zeros for an FFT of `size`: one buffer for all of them."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.padded = self.spectrum = torch.empty(0)

    def transformed(self, x: Tensor) -> Tensor:  # (b,T,g,p) -> (b,g,p,F), until the next block
        shape = (x.shape[0], *x.shape[2:], self.size)
        if self.padded.shape != shape:
            self.padded = torch.zeros(shape, dtype=self.dtype, device=x.device)
            count = self.size if self.dtype.is_complex else self.size // 2 + 1
            self.spectrum = torch.empty((*shape[:-1], count), dtype=self.dtype.to_complex(), device=x.device)
        layout.to_rows(x, self.padded)
        found: Tensor = (torch.fft.fft if self.dtype.is_complex else torch.fft.rfft)(self.padded, out=self.spectrum)
        return found

    def written(self, x: Tensor, to: Tensor) -> None:  # (b,g,q,F) -> (b,T,g,q)
        layout.from_rows(torch.fft.ifft(x) if self.dtype.is_complex else torch.fft.irfft(x, self.size), to)


def _blocked(w: Tensor, response: Tensor, spectrum: Tensor, is_kept: bool) -> tuple[Tensor, Tensor | None]:
    """The convolution with one block's spectra at a time: no memory but the output's.

    With `is_kept` the drive's spectrum as well, if it is one block: the gradient of the response is made of it.
    """
    (b, t, groups, p), q = w.shape, response.shape[2]
    if b * t * groups * max(p, q) <= _SMALL:
        return _convolved(w, response, spectrum), None
    rows = _Rows(smooth(2 * t - 1), torch.promote_types(w.dtype, response.dtype))
    out = compiled.fresh(torch.empty(b, t, groups, q, dtype=rows.dtype, device=w.device))
    blocks = list(_blocks(b, groups, q * rows.size))
    is_kept = is_kept and len(blocks) == 1
    for row, at in blocks:
        x = rows.transformed(w[row, :, at])
        y = x.mul_(spectrum[at].squeeze(1)) if q == x.shape[2] == 1 and not is_kept else _channels(x, spectrum[at])
        rows.written(y, out[row, :, at])
    if t >= _LONG:
        out[:, :_BLOCK] = _first(w, response)
    return out, rows.spectrum if is_kept else None


def _first(w: Tensor, response: Tensor) -> Tensor:
    """The first steps of the convolution, by themselves.

    The error of an FFT is relative to the loudest steps, and the first ones, sums of few terms, are quiet.
    """
    head = response[:_BLOCK]
    return _convolved(w[:, :_BLOCK], head, lti_spectrum(head, _BLOCK))


class _Convolution(torch.autograd.Function):
    """The blocked convolution with its first derivatives; a derivative of these is taken through operators."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, response: Tensor, spectrum: Tensor) -> Tensor:
        y, drive = _blocked(w, response, spectrum, ctx.needs_input_grad[1])
        ctx.save_for_backward(w, response, spectrum, drive)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        # the spectrum is made of the response, which takes the whole derivative
        w, response, spectrum, drive = ctx.saved_tensors
        if torch.is_grad_enabled() or not compiled.is_eager(w, response, spectrum, g):
            with torch.enable_grad():
                w, response = compiled.apart(w, response)
                wanted = [x for x, needed in zip((w, response), ctx.needs_input_grad, strict=False) if needed]
                y = _convolved(w, response, lti_spectrum(response, w.shape[1]))
                found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
            dw, dk = (next(found) if needed else None for needed in ctx.needs_input_grad[:2])
            return dw, dk, None
        return *_correlated(w, response, spectrum, drive, g, *ctx.needs_input_grad[:2]), None


def _correlated(
    w: Tensor, response: Tensor, spectrum: Tensor, drive: Tensor | None, g: Tensor, for_drive: bool, for_response: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dw[s] = sum_t conj(K[t-s]) g[t] and dK[k] = sum_t g[t] conj(w[t-k]): correlations, by FFT as well.

    `drive` is the spectrum of w where it was kept.
    """
    (b, t, groups, _), q = w.shape, response.shape[2]
    size, is_complex = smooth(2 * t - 1), g.is_complex()
    rows, more = _Rows(size, g.dtype), _Rows(size, g.dtype)
    dw = compiled.fresh(torch.empty_like(w, dtype=g.dtype)) if for_drive else None
    sums = torch.zeros_like(spectrum) if for_response else None
    conjugate = spectrum.conj().resolve_conj() if for_drive else spectrum
    for row, at in _blocks(b, groups, q * size):
        y = rows.transformed(g[row, :, at])
        if sums is not None:
            x = (more.transformed(w[row, :, at]) if drive is None else drive).conj()
            if q == x.shape[2] == 1:
                sums[at] += (y * x).sum(0).unsqueeze(1)
            else:
                sums[at] += torch.einsum("bgqf,bgpf->gqpf", y, x)
        if dw is not None:
            y = (
                y.mul_(conjugate[at].squeeze(1))
                if q == w.shape[3] == 1
                else torch.einsum("bgqf,gqpf->bgpf", y, conjugate[at])
            )
            rows.written(y, dw[row, :, at])
    if dw is not None and t >= _LONG:  # the last steps are the first of the correlation
        dw[:, -_BLOCK:] = _first(g[:, -_BLOCK:].flip(1), response[:_BLOCK].conj().transpose(2, 3)).flip(1)
    dk = None
    if sums is not None:
        whole = torch.fft.ifft(sums, size) if is_complex else torch.fft.irfft(sums, size)
        dk = whole[..., :t].permute(3, 0, 1, 2)
        dk = dk if response.is_complex() or not is_complex else dk.real
    if dw is not None and is_complex and not w.is_complex():
        dw = dw.real
    return dw, dk


def is_concrete(x: Tensor) -> bool:
    """May a decision depend on the numbers of this tensor? Not inside torch.func transforms or a trace."""
    return not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def is_tame(w: Tensor, response: Tensor) -> bool:
    """May this drive be convolved by FFT? Not if anything is non-finite, unstable, or has loud bursts.

    An FFT's error is relative to the loudest part of the signal and one NaN reaches every step.
    """
    if w.numel() == 0 or response.numel() == 0 or not (is_concrete(w) and is_concrete(response)):
        return False  # nothing to transform, or numbers that nobody may look at
    w, response = w.detach(), response.detach()
    head = _loudest(response[: max(response.shape[0] // 4, 1)])
    if not math.isfinite(head) or not _loudest(response) <= GROWTH * head:
        return False
    loud = layout.loudest(w)
    blocks = torch.nn.functional.pad(loud, (0, -len(loud) % _BLOCK)).view(-1, _BLOCK).amax(1).tolist()
    if not all(map(math.isfinite, blocks)):
        return False
    if w.dtype in (torch.float64, torch.complex128):
        return True
    heard = [x for x in blocks if x > 0]
    return not heard or max(heard) <= BURST * min(heard)


def _loudest(x: Tensor) -> float:
    if x.is_complex():
        return float(torch.linalg.vector_norm(x, math.inf))
    least, most = torch.aminmax(x)
    return max(-float(least), float(most))


def lti_chunked(w: Tensor, a: Tensor, g: Tensor, c: Tensor, d: Tensor, plain: bool, chunk: int = 64) -> Tensor:
    """All outputs chunk by chunk: dense inside (Toeplitz), a carry A^C between.

    O(b T g (C p q / 2 + n q + n p) + b T/C g n^2) operations in large products, T/C dependent steps.
    """
    if w.dtype in _HALF:
        return lti_chunked(w.float(), a.float(), g.float(), c.float(), d.float(), plain, chunk).to(w.dtype)
    b, t, groups, p = w.shape
    n, q = a.shape[1], c.shape[1]
    if groups == p == q == 1 and not plain and t >= 4 * CHUNK:
        rows = single_chunked(w[:, :, 0, 0], a[0], g[0], c[0], d[0], powers)
        if rows is not None:
            return rows.unsqueeze(-1).unsqueeze(-1)
    # 0 * nan is nan: inside a dense chunk a non-finite step would reach the steps before it
    size = min(chunk, t) if not is_concrete(w) or bool(torch.isfinite(w.detach()).all()) else 1
    count = -(-t // size)
    padded = torch.nn.functional.pad(w, (0, 0, 0, 0, 0, count * size - t))
    blocks = padded.reshape(b, count, size, groups, p).permute(3, 1, 0, 2, 4)  # (g, count, b, C, p)
    response = lti_impulse(a, g, c, d, size, plain)  # (C, g, q, p)
    # M[s p, t q] = K[t - s] for s <= t
    at = torch.arange(size, device=w.device)
    gap = at.unsqueeze(0) - at.unsqueeze(1)  # [s, t] = t - s
    toeplitz = response[gap.clamp(min=0)] * (gap >= 0).to(w.dtype)[:, :, None, None, None]
    inside = toeplitz.permute(2, 0, 4, 1, 3).reshape(groups, size * p, size * q)
    rows = blocks.reshape(groups, count * b, size * p)  # one product for a group: a broadcast one copies its matrix
    y = (rows @ inside).reshape(groups, count, b, size * q)
    if count > 1:
        wide = torch.complex128 if a.is_complex() else torch.float64
        a64 = a.to(wide)
        # the state a chunk ends in: sum_s A^(C-1-s) G w[s]; what a carry adds at step t: C A^t
        ends = powers(a64, g.to(wide), size).flip(0).permute(1, 0, 3, 2).reshape(groups, size * p, n).to(a.dtype)
        added = (rows[:, : (count - 1) * b] @ ends).reshape(groups, count - 1, b, n)
        after = torch.linalg.matrix_power(a64, size).to(a.dtype).mT
        carries = [added[:, 0]]
        for k in range(1, count - 1):
            carries.append(carries[-1] @ after + added[:, k])
        seen = powers(a64.mT, c.to(wide).mT, size).permute(1, 2, 0, 3).reshape(groups, n, size * q).to(a.dtype)
        carried = (torch.stack(carries, 1).reshape(groups, (count - 1) * b, n) @ seen).reshape(y[:, 1:].shape)
        y = torch.cat([y[:, :1], y[:, 1:] + carried], 1)
    steps = y.reshape(groups, count, b, size, q).permute(2, 1, 3, 0, 4)
    return steps.reshape(b, count * size, groups, q)[:, :t]


def lti_free(
    initial: Tensor | None,  # (b or 1, g, n)
    a: Tensor,
    c: Tensor | None,
    constant: Tensor | None,  # (b or 1, g, n), added to the state at every step
    added: Tensor | None,  # (b or 1, g, q), added to the output at every step
    length: int,
    final: bool,
) -> Tensor:
    """The response to an initial state and to constants, without drives: (b or 1, T or 1, g, q)."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    total: Tensor | None = None
    if c is not None and (initial is not None or constant is not None):
        # as columns: s[k-1] for k = 0 .. T-1 is A^k s[-1] + (I + A + ... + A^(k-1)) c, the state before step k
        a64, c64 = a.to(wide), c.to(wide)
        g, n = a.shape[0], a.shape[1]
        lead = max(x.shape[0] for x in (initial, constant) if x is not None)
        start = (
            torch.zeros(lead, g, n, dtype=wide, device=a.device)
            if initial is None
            else initial.to(wide).expand(lead, g, n)
        )
        if constant is not None:
            # [s; 1] -> [A c; 0 1] [s; 1]: only for one c, so each row of the batch has its own matrix
            more = constant.to(wide).expand(lead, g, n)
            a64 = torch.cat([a64.expand(lead, g, n, n), more.unsqueeze(-1)], -1)
            bottom = torch.zeros(lead, g, 1, n + 1, dtype=wide, device=a.device)
            bottom[..., -1] = 1
            a64 = torch.cat([a64, bottom], -2).reshape(lead * g, n + 1, n + 1)
            column = torch.cat([start, torch.ones_like(start[..., :1])], -1).reshape(lead * g, n + 1, 1)
            states = _states(a64, column, length, final)[..., :-1, :]
            states = states.reshape(-1, lead, g, n).permute(1, 0, 2, 3)
        else:
            states = _states(a64, start.permute(1, 2, 0), length, final).permute(3, 0, 1, 2)  # (lead, T, g, n)
        total = torch.einsum("gqn,btgn->btgq", c64, states).to(a.dtype)
    if added is not None:
        total = added.unsqueeze(1) if total is None else total + added.unsqueeze(1)
        if not final:
            total = total.expand(-1, length, -1, -1)
    assert total is not None
    return total


def _states(a: Tensor, column: Tensor, length: int, final: bool) -> Tensor:  # -> (T or 1, g, n, p)
    if final:
        power: Tensor = torch.linalg.matrix_power(a, length - 1)
        return (power @ column).unsqueeze(0)
    return powers(a, column, length)
