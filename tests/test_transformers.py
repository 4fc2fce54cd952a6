"""Models of others, as users bring them: the slow paths of transformers' recurrent models, with random weights.

Each compiles, or is refused with the right reason, and its outputs are those of the original. Needs the extra `models`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import linrec
from linrec.reports import Report

pytest.importorskip("transformers", reason="the extra `models` is not installed: pip install linrec[models]")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

LENGTHS = (13, 29, 2, 1)
TOLERANCE = 1e-4  # these models compute in float32, whatever they are given


def _leaves(result: Any) -> list[Tensor]:
    return [x for x in tree_leaves(dict(result) if hasattr(result, "keys") else result) if isinstance(x, Tensor)]


def _same_at_all_lengths(original: Callable[..., Any], inputs: Callable[[int], tuple[Tensor, ...]]) -> Report:
    """Compare at several lengths, gradients at the first; gives the report."""
    compiled = linrec.compile(copy.deepcopy(original) if isinstance(original, nn.Module) else original, verify="off")
    for steps in LENGTHS:
        given = inputs(steps)
        with torch.no_grad():
            wanted, got = _leaves(original(*given)), _leaves(compiled(*given))
        assert len(wanted) == len(got)
        for a, b in zip(got, wanted, strict=True):
            assert torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE), f"T={steps}: {(a - b).abs().max()}"
    slopes = []
    for call in (original, compiled):
        given = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in inputs(LENGTHS[0]))
        roots = [x for x in given if x.requires_grad]
        roots += [p for p in call.parameters() if p.requires_grad] if isinstance(call, nn.Module) else []
        total = sum(x.sin().sum() for x in _leaves(call(*given)) if x.requires_grad)
        assert isinstance(total, Tensor)
        slopes.append(torch.autograd.grad(total, roots, allow_unused=True))
    for a, b in zip(*slopes, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.allclose(a, b, rtol=1e-3, atol=1e-3)
    return linrec.report(compiled)


def _linear(report: Report) -> list[tuple[str, str]]:
    return [(r.kind, r.semiring) for r in report.recurrences if r.form != "sequential"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _hidden(steps: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, steps, 8, generator=torch.Generator().manual_seed(steps)),)


def _tokens(steps: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (2, steps), generator=torch.Generator().manual_seed(steps)),)


def _mamba(kind: str, **more: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=8, state_size=4, num_hidden_layers=2, vocab_size=11, conv_kernel=3, use_cache=False, **more
    )
    model: nn.Module = getattr(transformers, f"{kind}Model")(config).eval()
    return model


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_selective_scan(kind: str) -> None:
    """One layer's mixer: a gated diagonal recurrence."""
    mixer: Any = _mamba(kind).get_submodule("layers.0.mixer")
    assert _linear(_same_at_all_lengths(mixer, _hidden)) == [("ltv", "sum-product")]


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_whole_models(kind: str) -> None:
    assert _linear(_same_at_all_lengths(_mamba(kind), _tokens)) == 2 * [("ltv", "sum-product")]


def _delta_rule(steps: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(steps)
    q, k, v = (torch.randn(2, steps, 2, 4, generator=generator) for _ in range(3))
    g, beta = (torch.rand(2, steps, 2, generator=generator) for _ in range(2))
    return q, k, v, -g, beta


@pytest.mark.parametrize("final", [False, True])
def test_gated_delta_rule(final: bool) -> None:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    def rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Any:
        return torch_recurrent_gated_delta_rule(
            q, k, v, g, beta, output_final_state=final, use_qk_l2norm_in_kernel=True
        )

    report = _same_at_all_lengths(rule, _delta_rule)
    assert [(r.kind, r.structure) for r in report.recurrences] == [("ltv", "diagonal+low-rank")]
    assert report.recurrences[0].form != "sequential"


def _rwkv() -> nn.Module:
    from transformers import RwkvConfig, RwkvModel

    config = RwkvConfig(hidden_size=8, num_hidden_layers=2, vocab_size=11, context_length=64, use_cache=False)
    model: nn.Module = RwkvModel(config)  # type: ignore[no-untyped-call, unused-ignore]
    model.eval()
    return model


def test_stabilised_linear_attention() -> None:
    """A running maximum sets the decays of a numerator and a denominator."""
    report = _same_at_all_lengths(_rwkv().get_submodule("blocks.0.attention"), _hidden)
    assert sorted(_linear(report)) == [("lti", "max-plus"), ("ltv", "sum-product"), ("ltv", "sum-product")]


def test_a_model_that_changes_itself_is_refused() -> None:
    """The first forward in eval mode rescales the weights and remembers that in a Python flag; later ones do not."""
    with torch.no_grad():
        report = linrec.explain(_rwkv(), *_tokens(LENGTHS[0]))
    assert report.code == "LR0402" and "layers_are_rescaled" in report.reason
    _same_at_all_lengths(_rwkv(), _tokens)
