"""A whole training step and the engine's programs, compiled for TPUs that are not here; nobody names an implementation.

There the engine's cache is paged, so that a decode step's attention is a kernel as well.
"""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.objectives.sums import add_metrics
from r1jax.plan.assumed import Assumed
from r1jax.plan.sampling import sampling_programs
from r1jax.sharding import tree_shardings
from r1jax.specs.reader import read
from r1jax.specs.stages import EvaluateSpec
from r1jax.specs.training import OptimizerSpec
from r1jax.stages.rl.stage import make_loss
from r1jax.training.learner import make_update, update_once
from r1jax.training.optimizer import make_optimizer
from tests.kernels.tpu_aot import check_kernels, compile_timed, mesh_of, tpu_compile
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import POLICY

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
DRAFTED = {
    "mini_v3": (dataclasses.replace(V3_WIDTH, num_heads=128, dtype="bfloat16"), "8,1,384,512"),
    "mini_llama": (dataclasses.replace(make_preset("qwen2_5_32b"), num_layers=2, dtype="bfloat16"), "8,8,15,128"),
}
"""V3's heads and Qwen2.5-32B's, with the shape of a kernel's result for three tokens of eight slots: sequences, key heads,
tokens times the query heads of one, width."""
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


def engine_programs(model, mesh, *, prompts, length, num_drafts=0):
    """(prefill, a segment of decode steps), compiled; two samples of each prompt, and drafts by n-grams."""
    drafts = {"drafts": "ngram", "num_drafts": num_drafts} if num_drafts else {}
    spec = read(EvaluateSpec, {
        "init": POLICY, "tasks": [{"kind": "mini", "name": "pair_sum"}], "problems": prompts, "samples": 2,
        "max_prompt_tokens": length, "top_p": None, "max_new_tokens": 100_000, "engine": {"segment": 16, "prompt_bucket": length, **drafts},
    })  # fmt: skip
    state = dict(zip(("params", "buffers"), weights(model, mesh, role="rollout"), strict=True))
    planned, _ = sampling_programs(spec, model, state, mesh, assumed=Assumed())
    by_name = {program.name: program for program in planned}
    with jax.set_mesh(mesh):
        return [
            compile_timed(program.function.lower(*program.arguments, **program.static))
            for program in (by_name["prefill"], by_name["decode"])
        ]


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
    num_pages, text = 8 * (783 + 1), decode.as_text()
    assert f"bf16[{num_pages}," in text
    assert not [line for line in text.splitlines() if re.search(rf"= bf16\[{num_pages},\S* (copy|transpose)\(", line)]
    assert decode.memory_analysis().temp_size_in_bytes < 2**25  # a pool has at least 2**29


@tpu_compile(generations=["v5p", "v6e"])
@pytest.mark.parametrize("name", DRAFTED)
def test_a_step_checks_drafts_in_the_kernel_that_reads_pages(generation, name):
    """Three query tokens of each of eight slots, at full widths; a kernel has the rows of all of them."""
    config, shape = DRAFTED[name]
    _, decode = engine_programs(make_model(config), mesh_of(generation, {}), prompts=4, length=128, num_drafts=2)
    (kernel,) = DECODE[name]
    found = check_kernels(generation, decode, [kernel])
    assert sum(kernel in found_one.name for found_one in found) == 2  # layers
    calls = [line for line in decode.as_text().splitlines() if "tpu_custom_call" in line and kernel in line]
    assert [re.search(r"= bf16\[([\d,]+)\]", line)[1] for line in calls] == [shape] * 2


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
