"""DeepSeek-V3's update against the figure that MaxText publishes, on the same assumptions. Ours is modelled, theirs measured."""

import dataclasses

import pytest

from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.plan import budget
from r1jax.plan.hardware import parse_topology
from r1jax.plan.roofline import modelled_time
from tests.plan.test_budget import program

SECONDS, TOKENS = 90.668, 25_165_824
"""Of a step on 512 v5p chips, rows of 8,192 tokens (tpu-recipes, training/v5p/DeepSeek3-671B-MaxText)."""


@pytest.mark.slow
def test_671b_update_on_512_chips():
    topology = parse_topology("v5p:8x8x8")
    fields = {"num_mtp_layers": 0, "expert_parallel": "ragged_all_to_all", "remat": "everything"}
    model = make_model(dataclasses.replace(make_preset("deepseek_v3"), **fields))
    given = program("accumulate", model, {"fsdp": 64, "expert": 8}, "v5p", rows=512, length=8192)
    moments = {"opt_state": (given.resident["params"],) * 2}
    plan = budget.plan_accumulate(dataclasses.replace(given, resident=moments), model)
    calls = TOKENS // (512 * 8192)
    assert calls == 6  # of a micro-batch: all 25 million tokens at once would need 298 GiB a device
    assert plan.total_bytes < topology.hbm_bytes
    assert calls * plan.flops / SECONDS / topology.peak_flops == pytest.approx(0.332, abs=0.002)  # theirs by our count
    likely, ideal = (modelled_time(plan, topology, efficiency=e) for e in (0.75, 1.0))
    assert 0.42 < likely.mfu < 0.45
    assert 0.54 < ideal.mfu < 0.57
    assert calls * likely.total < 0.8 * SECONDS
    assert likely.bound == ideal.bound == "FLOPs"
