"""A whole training step and the engine's programs, compiled for TPUs that are not here; nobody names an implementation.

There the engine's cache is paged, so that a decode step's attention is a kernel as well.
"""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.objectives.sums import add_metrics
from r1jax.rollout.engine import MAX_STOP_IDS, Engine
from r1jax.sharding import tree_shardings
from r1jax.specs.rollout import EngineSpec
from r1jax.specs.training import OptimizerSpec
from r1jax.stages.rl.stage import make_loss
from r1jax.training.learner import make_update, update_once
from r1jax.training.optimizer import make_optimizer
from tests.kernels.tpu_aot import check_kernels, compile_timed, mesh_of, tpu_compile
from tests.stages.rl.test_stage import tiny_config

MODELS = {
    "mini_v3": dataclasses.replace(make_preset("mini_v3"), num_layers=2),
    "mini_llama": dataclasses.replace(make_preset("mini_llama"), num_layers=2),
}
V3_WIDTH = dataclasses.replace(
    make_preset("deepseek_v3", 2048), num_layers=2, num_heads=16, num_dense_layers=1, ffn_dim=2048, num_mtp_layers=0,
    num_experts=4, num_experts_per_token=2, num_groups=2, num_groups_per_token=1,
)  # fmt: skip
"""V3's widths (model 7168, latents 512 and 1536, heads 128 + 64, experts 2048, vocabulary 129,280), fewer of everything."""
HEADS = {
    "mini_v3": {"kv_lora_rank": 512, "rope_head_dim": 64, "nope_head_dim": 128, "value_head_dim": 128},
    "mini_llama": {"head_dim": 128},
}
DECODE = {"mini_v3": ["mla_decode"], "mini_llama": ["gqa_decode"]}
FLASH, EXPERTS = ["flash_attention_fwd"], ["route", "gate_up", "down"]
GRADIENTS = ["flash_attention_dq", "flash_attention_dkv", "token_logprob", "token_logprob_gradient"]
EXPERT_GRADIENTS = ["d_hidden", "d_x", "d_gate_up", "d_down"]


def laid_out(tree, mesh, axes=None, *, role="train"):
    """ShapeDtypeStructs that lie on the mesh, whole where no logical axes are given."""
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: whole, tree) if axes is None else tree_shardings(axes, tree, mesh, role=role)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)


def weights(model, mesh, *, role="train"):
    trees = zip(model.abstract(), model.logical_axes(), strict=True)
    return [laid_out(tree, mesh, axes, role=role) for tree, axes in trees]


def train_step(model, mesh, *, batch, length):
    """One GRPO update from one micro-batch, compiled."""
    params, buffers = weights(model, mesh)
    optimizer, schedule = make_optimizer(OptimizerSpec(learning_rate=1e-3), total_steps=10)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, param: param,
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=partial(laid_out, mesh=mesh),
    )
    scalar = laid_out(jax.ShapeDtypeStruct((), jnp.float32), mesh)
    state = {"step": laid_out(jax.ShapeDtypeStruct((), jnp.int32), mesh), "params": params, "buffers": buffers}
    state["opt_state"] = opt_state
    loss = make_loss(model, tiny_config(aggregation="token"))
    update = make_update(loss, optimizer, schedule=schedule, state=state, add_metrics=add_metrics)
    names = {"int32": ("tokens", "targets", "positions", "segment_ids")}
    names["float32"] = ("mask", "old_logp", "ref_logp", "sampler_logp", "advantage")
    arrays = {name: jax.ShapeDtypeStruct((batch, length), dtype) for dtype in names for name in names[dtype]}
    microbatch = laid_out(arrays, mesh, dict.fromkeys(arrays, ("batch", None)))
    microbatch |= dict.fromkeys(("num_sequences", "num_tokens", "temperature"), scalar)
    step = jax.jit(lambda state, microbatch: update_once(state, update, [microbatch]), donate_argnums=0)
    with jax.set_mesh(mesh):
        return compile_timed(step, state, microbatch)


def engine_programs(model, mesh, *, prompts, length):
    """(prefill, a segment of decode steps), compiled; two samples of each prompt, which shares its full pages."""
    engine = Engine(model, EngineSpec(segment=16), pad_id=0)
    trees = weights(model, mesh, role="rollout")
    settings = {
        "temperature": jax.ShapeDtypeStruct((), jnp.float32),
        "top_p": None,
        "stop_ids": jax.ShapeDtypeStruct((MAX_STOP_IDS,), jnp.int32),
        "budget": jax.ShapeDtypeStruct((), jnp.int32),
        "key": jax.eval_shape(lambda: jax.random.key(0)),
    }
    with jax.set_mesh(mesh):
        rows = engine._rows(prompts, length, num_samples=2, max_new_tokens=100_000)
        batch = rows.lay_out([[0]] * prompts, pad_id=0) | {"first_row": np.int32(0)}
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
        prefill = engine._prefill.lower(*trees, batch, rows=rows)
        compiled = compile_timed(prefill)
        state = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), prefill.out_info, compiled.output_shardings
        )
        return compiled, compile_timed(engine._decode.lower(*trees, state, settings, steps=engine.spec.segment))


@tpu_compile
@pytest.mark.parametrize("name", MODELS)
def test_training_step(generation, name):
    model, mesh = make_model(MODELS[name]), mesh_of(generation, {})
    experts = EXPERTS + EXPERT_GRADIENTS if model.config.num_experts else []
    check_kernels(generation, train_step(model, mesh, batch=8, length=160), FLASH + GRADIENTS + experts)


@tpu_compile
@pytest.mark.parametrize("name", MODELS)
def test_prefill_and_decode_step(generation, name):
    model, mesh = make_model(MODELS[name]), mesh_of(generation, {})
    prefill, decode = engine_programs(model, mesh, prompts=4, length=128)
    experts = EXPERTS if model.config.num_experts else []
    check_kernels(generation, prefill, FLASH + experts)
    found = check_kernels(generation, decode, DECODE[name] + experts)
    assert sum(DECODE[name][0] in kernel.name for kernel in found) == 2  # layers
    assert not any("flash" in kernel.name for kernel in found)


@tpu_compile
@pytest.mark.parametrize("name", HEADS)
def test_a_step_writes_its_tokens_in_place(generation, name):
    """With the widths of V3 and of Llama's heads no pool, of which there is one a layer, is copied; it fits no cache."""
    config = dataclasses.replace(MODELS[name], **HEADS[name], dtype="bfloat16")
    _, decode = engine_programs(make_model(config), mesh_of(generation, {}), prompts=4, length=128)
    check_kernels(generation, decode, DECODE[name])
    num_pages, text = 4 * (1 + 2 * 783), decode.as_text()
    assert f"bf16[{num_pages}," in text
    assert not [line for line in text.splitlines() if re.search(rf"= bf16\[{num_pages},\S* (copy|transpose)\(", line)]
    assert decode.memory_analysis().temp_size_in_bytes < 2**25  # a pool has at least 2**29


@tpu_compile
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("mini_v3", {"fsdp": 2, "expert": 2}),
        ("mini_llama", {"fsdp": 2, "tensor": 2}),
    ],
)
def test_training_and_decode_step_on_four_devices(generation, name, axes):
    """The 2x2 topology: kernels run there too, each device on its part."""
    model, mesh = make_model(MODELS[name]), mesh_of(generation, axes)
    experts = model.config.num_experts > 0
    compiled = train_step(model, mesh, batch=8, length=160)
    check_kernels(generation, compiled, FLASH + GRADIENTS + (EXPERTS + EXPERT_GRADIENTS) * experts)
    if experts:
        assert "all-gather" in compiled.as_text()  # of tokens and of weights
    _, decode = engine_programs(model, mesh, prompts=4, length=128)
    check_kernels(generation, decode, DECODE[name] + EXPERTS * experts)


@tpu_compile(generations=["v5p", "tpu7x"])  # some four minutes of CPU each
def test_training_step_at_the_widths_of_v3(generation):
    compiled = train_step(make_model(V3_WIDTH), mesh_of(generation, {}), batch=1, length=1024)
    found = check_kernels(generation, compiled, FLASH + GRADIENTS + EXPERTS + EXPERT_GRADIENTS)
    # Both stacks, dense and with experts, forward and again for the gradient; one layer of experts; the head.
    assert len(found) == 2 * 2 + 2 * 2 + 2 * 3 + 4 + 2


@tpu_compile(generations=["v5p"])  # libtpu 0.0.42.1 has crashed here while it compiled for a tpu7x
def test_engine_at_the_widths_of_v3(generation):
    prefill, decode = engine_programs(make_model(V3_WIDTH), mesh_of(generation, {}), prompts=1, length=1024)
    check_kernels(generation, prefill, FLASH + EXPERTS)
    check_kernels(generation, decode, DECODE["mini_v3"] + EXPERTS)
