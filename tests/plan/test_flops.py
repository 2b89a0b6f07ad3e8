"""FLOPs by count: parameters that a token passes, MaxText's published figure, literal recomputation."""

import pytest

from r1jax.models.presets import make_preset
from r1jax.models.transformer import parameter_counts
from r1jax.plan.flops import Forward, forward_flops, hardware_train, slowest_part


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2_lite", "llama3_1_8b", "qwen2_5_14b", "mini_v3"])
def test_two_flops_for_every_parameter_that_a_token_passes(name):
    """Embedding rows are looked up; norms and biases do not multiply matrices."""
    config = make_preset(name)
    matrices = parameter_counts(config).activated - config.vocab_size * config.model_dim
    counted = forward_flops(config, tokens=1, pairs=0, head_tokens=1).total
    assert counted == pytest.approx(2 * matrices, rel=2e-3)
    assert counted <= 2 * matrices


def test_a_token_of_deepseek_v3_costs_what_maxtext_counts():
    """152.415 TFLOP/s and 542.108 tokens/s a device, rows of 8,192 (tpu-recipes, DeepSeek3-671B-MaxText on v5p)."""
    counted = 3 * forward_flops(make_preset("deepseek_v3"), tokens=1, pairs=(8192 + 1) / 2, head_tokens=1).total
    assert counted == pytest.approx(152.415e12 / 542.108, rel=2e-3)


def test_absorbed_decoding_compares_with_the_latent():
    """Of V3 a query and a cached token: 128 heads, 576 numbers for the score, 512 for the value, in each of 61 layers."""
    parts = forward_flops(make_preset("deepseek_v3"), tokens=0, pairs=1, head_tokens=0, is_absorbed=True)
    assert parts.total == parts.scores == 2 * 128 * (576 + 512) * 61


PARTS = Forward(projections=10, keys=2, scores=4, ffn=6, experts=8, head=1)


@pytest.mark.parametrize(
    ("options", "executed"),
    [
        ({"remat": "none"}, 3 * 26 + 4.5 * 4 + 4),
        ({"remat": "dots"}, 3 * 26 + 4.5 * 4 + 4 + 8),
        ({"remat": "full"}, 3 * 26 + 4.5 * 4 + 4 + 26),
        ({"remat": "none", "num_sequence_parts": 3}, 3 * 30 + 4.5 * 4 + 4),
        ({"remat": "full", "slowest": 1.5}, 3 * 26 + 4.5 * 6 + 4 + 26),
        ({"remat": "everything"}, 3 * 26 + 4.5 * 4 + 4 + 26 + 4),
        ({"remat": "everything", "slowest": 1.5}, 3 * 26 + 4.5 * 6 + 4 + 26 + 6),
    ],
)
def test_executed_flops(options, executed):
    assert hardware_train(PARTS, **options) == executed


@pytest.mark.parametrize(
    ("length", "parts", "segment", "expected"),
    [(64, 8, 64, 1), (64, 8, 100, 1), (64, 1, 16, 1), (64, 8, 4, 1), (64, 8, 8, 1.25), (64, 8, 16, 1.375)],
)
def test_the_part_of_a_row_that_sees_most(length, parts, segment, expected):
    """The half of a part that ends a segment of s sees p·(s − p/2) of its s²/2 pairs; the mirrored half the mean."""
    assert slowest_part(length=length, num_parts=parts, segment_length=segment) == expected
