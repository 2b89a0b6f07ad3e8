"""One device's part of DeepSeek-V3, by hand, on a mesh that is nowhere."""

import dataclasses

import pytest

from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.plan.local import Local
from r1jax.sharding import Role
from tests.plan.meshes import abstract_mesh

V3 = dataclasses.replace(make_preset("deepseek_v3"), num_mtp_layers=0)


def local(axes, *, rows=128, length=32_768, role: Role = "train", config=V3, **fields) -> Local:
    return Local(make_model(dataclasses.replace(config, **fields)), abstract_mesh(axes, "v5p"), rows, length, role)


def by_kind(exchanges, *, is_hidden):
    return {(e.kind, e.group): e.bytes for e in exchanges if e.is_hidden == is_hidden}


def test_tokens_heads_and_experts_of_a_device():
    part = local({"fsdp": 16, "expert": 8, "sequence": 8}, expert_parallel="all_to_all")
    assert (part.tokens, part.keys, part.sequence_parts, part.heads) == (4096, 32_768, 8, 128)
    assert (part.moved, part.is_exchanged) == (8, True)
    assert part.routed_rows == 4096 * 8 * 1.25
    assert part.expert_weights == 3 * 32 * 7168 * 2048
    assert part.attention_width() == (128 * (192 + 128), 128 * 256)


def test_without_an_exchange_a_device_has_room_for_all_rows():
    assert local({"expert": 8}, rows=8, length=4096, expert_parallel="auto").routed_rows == 8 * 4096 * 8
    assert local({"expert": 8}, rows=8, length=4096, expert_parallel="ring").routed_rows == 4096 * 8 * 1.25


def test_a_token_goes_to_four_of_eight_devices_and_comes_back():
    part = local({"fsdp": 16, "expert": 8, "sequence": 8}, expert_parallel="ragged_all_to_all")
    once = 58 * 4096 * 4 * 7168 * 2
    (forward,) = part.expert_exchanges(passes=1, has_gradients=False)
    assert (forward.kind, forward.group, forward.is_hidden, forward.bytes) == ("all-to-all", 8, False, 2 * once)
    (update,) = part.expert_exchanges(passes=2, has_gradients=True)
    assert update.bytes == 6 * once


def test_the_ring_gathers_tokens_and_sums_in_float32():
    part = local({"expert": 8}, rows=8, length=4096, expert_parallel="ring")
    found = by_kind(part.expert_exchanges(passes=1, has_gradients=False), is_hidden=False)
    rows = 58 * 8 * 4096
    assert found == {("all-gather", 8): rows * (7168 * 2 + 8 * (4 + 4)), ("reduce-scatter", 8): rows * 7168 * 4}


def test_weights_are_gathered_over_the_axes_that_split_them():
    """Of the experts an eighth is a device's; over fsdp · sequence it is put together, twice, and its gradient split once."""
    part = local({"fsdp": 16, "expert": 8, "sequence": 8})
    found = by_kind(part.weight_exchanges(has_gradients=True), is_hidden=True)
    experts = 58 * 256 * 3 * 7168 * 2048 * 2 / 8
    others = 2 * 17_117_648_384  # all other parameters; norms and router biases are not split
    assert found["reduce-scatter", 128] == pytest.approx(experts + others, rel=2e-3)
    assert found["all-gather", 128] == 2 * found["reduce-scatter", 128]
    assert found["all-reduce", 8] == pytest.approx(2 * others / 128, rel=2e-2)  # float32, over "expert" alone


def test_no_weights_travel_where_the_sampler_has_them():
    part = local({"data": 4, "expert": 256}, rows=1024, length=1, role="rollout", expert_parallel="all_to_all")
    assert part.weight_exchanges(has_gradients=False) == []


def test_keys_of_a_row_are_gathered_as_latents_and_queries_swapped():
    """576 numbers a token and layer, whose gradients go home; of half the tokens queries of 192 and results of 128 a head."""
    found = by_kind(
        local({"fsdp": 16, "expert": 8, "sequence": 8}).activation_exchanges(passes=2, has_gradients=True),
        is_hidden=False,
    )
    latent = 61 * 32_768 * 576 * 2
    swapped = 3 * 61 * 2048 * 128 * (192 + 128) * 2
    assert found == {
        ("all-gather", 8): 2 * latent,
        ("reduce-scatter", 8): latent,
        ("collective-permute", 8): swapped,
    }


def test_sums_over_tensor():
    """After attention and after the feed-forward, of all tokens of a device."""
    part = local({"fsdp": 4, "tensor": 4}, rows=4, length=8192, config=make_preset("llama3_1_8b"))
    found = by_kind(part.activation_exchanges(passes=2, has_gradients=True), is_hidden=False)
    assert found == {("all-reduce", 4): 2 * 3 * 32 * 8192 * 4096 * 2}
