"""Loop forms: the ways people walk over time. The recurrence itself is always plain."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import TX, A, D, X, decays, linear, lti, ltv, matrix, normal, program


@program(X, D, expect=lti("diagonal"))
def for_range(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, dim=1)


@program(X, expect=lti("scalar"))
def for_range_from_one(x: Tensor) -> Tensor:
    """An exponential moving average that starts at the first sample."""
    ema = [x[:, 0]]
    for t in range(1, x.size(1)):
        ema.append(0.9 * ema[-1] + 0.1 * x[:, t])
    return torch.stack(ema, 1)


@program(X, D, expect=lti("diagonal"), smallest=2)
def for_range_to_last(x: Tensor, a: Tensor) -> Tensor:
    """Predict the next sample: the loop stops one step before the end."""
    _, T, _ = x.shape
    h = torch.zeros_like(x[:, 0])
    errors = []
    for t in range(T - 1):
        h = a * h + x[:, t]
        errors.append(h - x[:, t + 1])
    return torch.stack(errors, 1).pow(2).mean((0, 2))


@program(X, D, expect=lti("diagonal"))
def for_reversed_range(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in reversed(range(x.shape[1])):
        h = a * h + x[:, t]
        ys.append(h)
    ys.reverse()
    return torch.stack(ys, 1)


@program(normal("T", 4), expect=lti("scalar"))
def for_range_downwards(rewards: Tensor) -> Tensor:
    """Discounted returns of four environments."""
    returns = torch.zeros_like(rewards)
    running = torch.zeros(4, dtype=rewards.dtype)
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + 0.99 * running
        returns[t] = running
    return returns


@program(X, D, expect=lti("diagonal"))
def while_up(x: Tensor, a: Tensor) -> Tensor:
    t, ys = 0, []
    h = torch.zeros_like(x[:, 0])
    while t < x.shape[1]:
        h = a * h + x[:, t]
        ys.append(h)
        t += 1
    return torch.stack(ys, 1)


@program(X, D, expect=lti("diagonal"))
def while_down(x: Tensor, a: Tensor) -> Tensor:
    t = x.shape[1] - 1
    h = torch.zeros_like(x[:, 0])
    out = torch.empty_like(x)
    while t >= 0:
        h = a * h + x[:, t]
        out[:, t] = h
        t -= 1
    return out


@program(X, D, expect=lti("diagonal"))
def for_unbind(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = a * h + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(TX, D, expect=lti("diagonal"))
def for_time_major(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for u in x:
        h = a * h + u
        ys.append(h)
    return torch.stack(ys)


@program(X, D, expect=lti("diagonal"))
def for_permuted(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.permute(1, 0, 2):
        h = a * h + u
        ys.append(h)
    return torch.stack(ys).permute(1, 0, 2)


@program(normal("B", 3, "T"), D, expect=lti("diagonal"))
def for_time_last(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[..., 0]), []
    for t in range(x.shape[-1]):
        h = a * h + x[..., t]
        ys.append(h)
    return torch.stack(ys, dim=-1)


@program(X, X, expect=ltv("diagonal"))
def for_zip(x: Tensor, gates: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u, g in zip(x.unbind(1), torch.sigmoid(gates).unbind(1)):  # noqa: B905
        h = g * h + (1 - g) * u
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("T"), decays("T"), expect=ltv("scalar"))
def for_zip_reversed(r: Tensor, d: Tensor) -> Tensor:
    """Returns with a discount for each step, one episode, walked backward over two flipped lists."""
    total = torch.zeros((), dtype=r.dtype)
    out: list[Tensor] = []
    for reward, discount in zip(list(r)[::-1], list(d)[::-1], strict=True):
        total = reward + discount * total
        out.insert(0, total)
    return torch.stack(out)


@program(X, D, expect=lti("diagonal"))
def for_enumerate(x: Tensor, a: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
    for t, u in enumerate(x.transpose(0, 1)):
        h = a * h + u
        out[:, t] = h
    return out


@program(X, D, expect=lti("diagonal"))
def for_split(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, :1]), []
    for u in x.split(1, dim=1):  # type: ignore[no-untyped-call]
        h = a * h + u
        ys.append(h)
    return torch.cat(ys, dim=1)


@program(X, D, expect=lti("diagonal"))
def for_chunk(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for _, u in enumerate(torch.chunk(x, x.shape[1], dim=1)):
        h = a * h + u.squeeze(1)
        ys.append(h.unsqueeze(1))
    return torch.cat(ys, 1)


@program(X, D, expect=lti("diagonal"))
def for_narrow(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0:1]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t : t + 1]
        ys.append(h)
    return torch.cat(ys, 1)


@program(X, D, expect=lti("diagonal"))
def for_negative_index(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(1, x.shape[1] + 1):
        h = a * h + x[:, -t]
        ys.append(h)
    return torch.stack(ys[::-1], 1)


@program(X, D, expect=lti("diagonal"))
def with_iterator(x: Tensor, a: Tensor) -> Tensor:
    steps = iter(x.unbind(1))
    h = next(steps)
    ys = [h]
    for u in steps:
        h = a * h + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=lti("diagonal"))
def with_comprehension(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    return torch.stack([h := a * h + u for u in x.unbind(1)], 1)


@program(X, D, expect=lti("diagonal"))
def with_generator(x: Tensor, a: Tensor) -> Tensor:
    def steps() -> Iterator[Tensor]:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = a * h + x[:, t]
            yield h

    return torch.stack(list(steps()), 1)


@program(X, D, expect=lti("diagonal"))
def with_accumulate(x: Tensor, a: Tensor) -> Tensor:
    return torch.stack(list(itertools.accumulate(x.unbind(1), lambda h, u: a * h + u)), 1)


@program(X, D, expect=lti("diagonal"))
def with_reduce(x: Tensor, a: Tensor) -> Tensor:
    return functools.reduce(lambda h, u: a * h + u, x.unbind(1), torch.zeros_like(x[:, 0]))


@program(X, D, expect=lti("diagonal"), smallest=2, multiple=2)
def every_second_step(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(0, x.shape[1], 2):
        h = a * h + x[:, t] - x[:, t + 1]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T", 2), matrix(2, 2), expect=lti(), smallest=4, multiple=4)
def chunk_by_chunk(x: Tensor, a: Tensor) -> Tensor:
    """One step for four samples: a state that is carried from chunk to chunk."""
    B, T, d = x.shape
    state, out = x.new_zeros(B, d), []
    for start in range(0, T, 4):
        block = x[:, start : start + 4]
        out.append(block.cumsum(1) + state.unsqueeze(1))
        state = state @ a + block.sum(1)
    return torch.cat(out, 1)


@program(normal("B", "T", 2), decays(2), expect=lti(), smallest=4, multiple=4, many=True)
def steps_inside_chunks(x: Tensor, a: Tensor) -> Tensor:
    chunk = 4
    h, ys = torch.zeros_like(x[:, 0]), []
    for c in range(x.shape[1] // chunk):
        for i in range(chunk):
            h = a * h + x[:, c * chunk + i]
            ys.append(h)
    return torch.stack(ys, 1)


# ---- several loops -----------------------------------------------------------------------------------


@program(X, expect=(lti("diagonal"), lti("diagonal"), lti("diagonal")))
class LayersInSequence(nn.Module):
    """Each layer runs over all of time before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.ParameterList(torch.rand(3) for _ in range(3))
        self.mix = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for decay, mix in zip(self.decay, self.mix, strict=True):
            h, ys = torch.zeros_like(x[:, 0]), []
            for t in range(x.shape[1]):
                h = decay * h + x[:, t]
                ys.append(h)
            x = x + F.gelu(mix(torch.stack(ys, 1)))
        return x


@program(X, expect=(lti("dense"), lti("dense")))
class LayersInterleaved(nn.Module):
    """All layers take their step inside one loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))
        for cell in self.cells:
            nn.init.normal_(cell.weight, std=0.25)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0]) for _ in self.cells]
        ys = []
        for t in range(x.shape[1]):
            u = x[:, t]
            for i, cell in enumerate(self.cells):
                states[i] = cell(states[i]) + u
                u = torch.relu(states[i])
            ys.append(u)
        return torch.stack(ys, 1)


@program(X, D, D, expect=(lti("diagonal"), lti("diagonal")))
def forward_and_backward(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    T = x.shape[1]
    h, hs = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = a * h + x[:, t]
        hs.append(h)
    g, gs = torch.zeros_like(x[:, 0]), []
    for t in range(T - 1, -1, -1):
        g = b * g + x[:, t]
        gs.append(g)
    return torch.cat([torch.stack(hs, 1), torch.stack(gs, 1).flip(1)], dim=-1)


@program(X, D, D, expect=(lti("diagonal"), lti("diagonal")))
def both_directions_in_one_loop(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    T = x.shape[1]
    h = g = torch.zeros_like(x[:, 0])
    hs, gs = [], []
    for t in range(T):
        h = a * h + x[:, t]
        g = b * g + x[:, T - 1 - t]
        hs.append(h)
        gs.append(g)
    return torch.stack(hs, 1), torch.stack(gs[::-1], 1)


@program(normal("B", "T", 3), normal("B", "T+5", 3), D, expect=(lti("diagonal"), lti("diagonal")))
def encoder_then_decoder(source: Tensor, target: Tensor, a: Tensor) -> Tensor:
    """Two loops of different lengths; the second starts where the first ended."""
    h = torch.zeros_like(source[:, 0])
    for s in range(source.shape[1]):
        h = a * h + source[:, s]
    ys = []
    for t in range(target.shape[1]):
        h = a * h + 0.5 * target[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, A, expect=lti("dense"))
def forecast_after_filter(x: Tensor, a: Tensor) -> Tensor:
    """A filter over the data, then a fixed number of steps ahead without data."""
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
    ahead = []
    for _ in range(4):
        h = h @ a
        ahead.append(h)
    return torch.stack(ahead, 1)


# ---- loops inside and around -------------------------------------------------------------------------


@program(normal("B", "T", 2, 3), normal("B", "T", 3), expect=ltv())
def householder_steps(v: Tensor, x: Tensor) -> Tensor:
    """A product of two reflections at every step, applied one after the other."""
    v = F.normalize(v, dim=-1)
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        for i in range(v.shape[2]):
            w = v[:, t, i]
            h = h - 2 * w * (w * h).sum(-1, keepdim=True)
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=lti("diagonal"))
def euler_substeps(x: Tensor, k: Tensor) -> Tensor:
    """Four steps of a solver for each sample."""
    h, ys, dt = torch.zeros_like(x[:, 0]), [], 0.25
    for t in range(x.shape[1]):
        for _ in range(4):
            h = h + dt * (x[:, t] - k * h)
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T"), decays("B"), expect=lti("scalar", "diagonal"), many=True)
def loop_over_batch(x: Tensor, a: Tensor) -> Tensor:
    rows = []
    for b in range(x.shape[0]):
        h, ys = torch.zeros((), dtype=x.dtype), []
        for t in range(x.shape[1]):
            h = a[b] * h + x[b, t]
            ys.append(h)
        rows.append(torch.stack(ys))
    return torch.stack(rows)


@program(normal("B", "T", 2, 3), decays(2), expect=lti("scalar", "diagonal"), many=True)
def loop_over_heads(x: Tensor, a: Tensor) -> Tensor:
    heads = []
    for i in range(x.shape[2]):
        s = torch.zeros_like(x[:, 0, i])
        outs = []
        for t in range(x.shape[1]):
            s = a[i] * s + x[:, t, i]
            outs.append(s)
        heads.append(torch.stack(outs, 1))
    return torch.cat(heads, dim=-1)


@program(normal("B", "T", 2, 3), decays(2), expect=lti("scalar", "diagonal"), many=True)
def heads_inside_time(x: Tensor, a: Tensor) -> Tensor:
    states = [torch.zeros_like(x[:, 0, i]) for i in range(2)]
    ys = []
    for t in range(x.shape[1]):
        for i in range(2):
            states[i] = a[i] * states[i] + x[:, t, i]
        ys.append(torch.cat(states, dim=-1))
    return torch.stack(ys, dim=1)


@program(X, D, expect=linear("diagonal"))
def helper_function_takes_the_step(x: Tensor, a: Tensor) -> Tensor:
    def step(h: Tensor | None, u: Tensor) -> Tensor:
        return u if h is None else torch.lerp(u, h, a)

    state, ys = None, []
    for u in x.unbind(1):
        state = step(state, u)
        ys.append(state)
    return torch.stack(ys, 1)


def over_time(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A user's own scan, as a decorator that keeps the name of what it decorates."""

    @functools.wraps(step)
    def run(x: Tensor, *rest: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        return torch.stack([h := step(h, u, *rest) for u in x.unbind(1)], 1)

    return run


@program(X, D, expect=lti("diagonal"))
@over_time
def loop_in_a_decorator(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + u


@program(normal("B", "T", "T"), decays(), expect=lti("scalar", "diagonal"), many=True, smallest=2)
def square_image(image: Tensor, a: Tensor) -> Tensor:
    """Time and width have the same length; the loop runs over rows."""
    h, rows = torch.zeros_like(image[:, 0]), []
    for i in range(image.shape[1]):
        h = a * h + image[:, i]
        rows.append(h)
    return torch.stack(rows, 1)


@program(X, D, decays("B", 3), expect=linear("diagonal"), many=True)
def batch_as_long_as_time(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    """A given first state and a loop over `len(x[0])`, an unusual way to ask for the length."""
    h, ys = h0, []
    for t in range(len(x[0])):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)
