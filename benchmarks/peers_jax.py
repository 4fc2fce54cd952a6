"""JAX beside the benchmarks, where it is installed (`pip install '.[bench]'`): `lax.scan`, `associative_scan`, FFT.

Each peer is what a user of JAX would write for that workload, jitted, on arrays that lie ready; results are waited for.
XLA takes its threads when it is loaded: as many as torch has then.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from workloads import Workload

Peer = Callable[..., Any]


def runs(w: Workload, what: str) -> dict[str, Callable[[], object]]:
    """Calls to be timed, by name: forward, or values and gradients by all inputs; none without JAX."""
    if importlib.util.find_spec("jax") is None:
        return {}
    if torch.get_num_threads() == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
        os.environ.setdefault("NPROC", "1")
    import jax

    jax.config.update("jax_platforms", "cpu")
    arguments = [jax.numpy.asarray(x.numpy()) for x in (*w.inputs, *_weights(w))]
    found = {}
    for name, function in _peers(w).items():
        made = jax.jit(function if what == "forward" else _gradients(function, len(arguments)))
        found[name] = lambda made=made: jax.block_until_ready(made(*arguments))
    return found


def _gradients(function: Peer, count: int) -> Peer:
    import jax

    def total(*arguments: Any) -> Any:
        y = function(*arguments)
        # a fixed probe: without one the sum over all outputs could be simplified
        return (y * jax.random.normal(jax.random.key(0), y.shape)).sum()

    return jax.grad(total, argnums=tuple(range(count)))


def _weights(w: Workload) -> Sequence[Tensor]:
    if w.name.startswith("memory"):
        return w.loop.scale.detach(), w.loop.readout.weight.detach(), w.loop.readout.bias.detach()
    return (w.loop.a.detach(), w.loop.c.detach()) if w.name.startswith("modes") else ()


def _peers(w: Workload) -> dict[str, Peer]:
    kind = w.name.split()[0]
    if kind == "memory":
        return _memory(w)
    return {"gated": _gated, "attention": _attention, "delta": _delta, "modes": _modes}[kind]()


def _memory(w: Workload) -> dict[str, Peer]:
    import jax
    from jax import numpy as jnp

    a, b, read = jnp.asarray(w.loop.A.numpy()), jnp.asarray(w.loop.B.numpy()), w.loop.read

    def scan(x: Any, scale: Any, weight: Any, bias: Any) -> Any:
        def step(m: Any, x_t: Any) -> Any:
            m = m @ a.T + (scale * x_t) * b
            return m, m if read == "all" else m @ weight.T + bias if read == "readout" else None

        last, ys = jax.lax.scan(step, jnp.zeros((x.shape[0], a.shape[0])), x.swapaxes(0, 1))
        return last if read == "last" else ys.swapaxes(0, 1)

    return {"jax scan": scan}


def _gated() -> dict[str, Peer]:
    import jax
    from jax import numpy as jnp

    def scan(a: Any, x: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            h = now[0] * h + now[1]
            return h, h

        return jax.lax.scan(step, jnp.zeros_like(x[:, 0]), (a.swapaxes(0, 1), x.swapaxes(0, 1)))[1].swapaxes(0, 1)

    def associative(a: Any, x: Any) -> Any:
        return jax.lax.associative_scan(lambda f, s: (f[0] * s[0], s[0] * f[1] + s[1]), (a, x), axis=1)[1]

    return {"jax scan": scan, "jax associative": associative}


def _attention() -> dict[str, Peer]:
    import jax
    from jax import numpy as jnp

    def scan(q: Any, k: Any, v: Any, a: Any) -> Any:
        def step(s: Any, now: Any) -> Any:
            q_t, k_t, v_t, a_t = now
            s = a_t[..., None] * s + k_t[..., None] * v_t[..., None, :]
            return s, jnp.einsum("bhk,bhkv->bhv", q_t, s)

        start = jnp.zeros((*q.shape[:1], *q.shape[2:], v.shape[-1]))
        return jax.lax.scan(step, start, tuple(x.swapaxes(0, 1) for x in (q, k, v, a)))[1].swapaxes(0, 1)

    return {"jax scan": scan}


def _delta() -> dict[str, Peer]:
    import jax
    from jax import numpy as jnp

    def scan(q: Any, k: Any, v: Any, b: Any) -> Any:
        def step(s: Any, now: Any) -> Any:
            q_t, k_t, v_t, b_t = now
            error = v_t - jnp.einsum("bhk,bhkv->bhv", k_t, s)
            s = s + k_t[..., None] * (b_t * error)[..., None, :]
            return s, jnp.einsum("bhk,bhkv->bhv", q_t, s)

        start = jnp.zeros((*q.shape[:1], *q.shape[2:], v.shape[-1]))
        return jax.lax.scan(step, start, tuple(x.swapaxes(0, 1) for x in (q, k, v, b)))[1].swapaxes(0, 1)

    return {"jax scan": scan}


def _modes() -> dict[str, Peer]:
    import jax
    from jax import numpy as jnp

    def scan(x: Any, a: Any, c: Any) -> Any:
        def step(h: Any, x_t: Any) -> Any:
            h = a * h + x_t[..., None]
            return h, (c * h).sum(-1).real

        return jax.lax.scan(step, jnp.zeros((x.shape[0], *a.shape), a.dtype), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    def fft(x: Any, a: Any, c: Any) -> Any:
        # the kernel by a running product, mode by mode: a table of all powers would be H N T numbers
        steps = x.shape[1]

        def add(total: Any, mode: Any) -> Any:
            powers = jnp.exp(jnp.log(mode[0])[:, None] * jnp.arange(steps))
            return total + (mode[1][:, None] * powers).real, None

        kernel, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros((a.shape[0], steps)), (a.T, c.T))
        size = 2 * steps
        spectrum = jnp.fft.rfft(x.swapaxes(1, 2), size) * jnp.fft.rfft(kernel, size)
        return jnp.fft.irfft(spectrum, size)[..., :steps].swapaxes(1, 2)

    return {"jax scan": scan, "jax fft": fft}
