"""The programs of a stage: their shapes and layouts are those of the arrays that the stage makes, and they run on them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.plan.assumed import Assumed
from r1jax.plan.hardware import parse_topology
from r1jax.plan.inputs import Models
from r1jax.plan.programs import stage_programs
from r1jax.plan.sampling import phase_of, sampling_programs, sampling_weights
from r1jax.policies.policy import abstract_policy, config_of
from r1jax.rollout.engine import Engine
from r1jax.rollout.programs import Programs
from r1jax.sharding import make_mesh
from r1jax.specs.config_file import load_experiment
from r1jax.specs.policy import HuggingFaceInit
from r1jax.specs.reader import read
from r1jax.specs.stages import EvaluateSpec, PreferencesSpec, RlSpec
from r1jax.stages.rl import stage as rl
from tests.tiny import POLICY, V3

pytestmark = pytest.mark.usefixtures("quick_compilation")


def rl_spec(**changes) -> RlSpec:
    values = load_experiment("configs/zero.py").stages["zero"]
    tiny = {"init": POLICY, "mesh": {"fsdp": 2, "expert": 2}, "row_length": 160, "rows_per_microbatch": 4}
    return read(RlSpec, values | tiny | changes)


def described(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), tree)


@pytest.fixture(scope="module")
def planned():
    spec = rl_spec()
    mesh = make_mesh(spec.mesh.axes())
    return spec, mesh, stage_programs(spec, mesh)


def built(spec, mesh):
    """What the stage itself builds, of real weights."""
    model, params, buffers = abstract_policy(config_of(spec.init), mesh=mesh)

    def made(shape):
        return jax.device_put(jnp.full(shape.shape, 0.02, shape.dtype), shape.sharding)

    with jax.set_mesh(mesh):
        return rl.build(spec, model, *jax.tree.map(made, (params, buffers)))


def test_the_abstract_state_is_laid_out_as_the_real_one(planned):
    spec, mesh, programs = planned
    assert described(programs.state) == described(built(spec, mesh)[0])
    assert programs.state["reference"]["params"]["moe"]["ffn"]["w_up_EDF"].sharding.spec[1:3] == ("expert", "fsdp")


def test_the_compiled_update_runs_on_the_stages_own_arrays(planned):
    """Compiled from shapes, called with arrays: 4 rows of 160 tokens go through 2 experts each, in the only MoE layer."""
    spec, mesh, programs = planned
    program = next(program for program in programs.programs if program.name == "update")
    state, update, _ = built(spec, mesh)
    rng = np.random.default_rng(0)

    def filled(shape):
        values = rng.integers(1, 3, shape.shape) if shape.dtype == jnp.int32 else rng.random(shape.shape)
        return jax.device_put(np.asarray(values, shape.dtype), shape.sharding)

    batch = jax.tree.map(filled, program.arguments[-1])
    with jax.set_mesh(mesh):
        compiled = program.function.lower(*program.arguments).compile()
        grads, sums = compiled(state["params"], state["buffers"], *update.zeros(batch), batch)
    assert sums["expert_counts"]["moe"]["ffn"]["router_bias_E"].sum() == 4 * 160 * 2
    assert np.isfinite(sums["loss"]) and jax.tree.structure(grads) == jax.tree.structure(state["params"])


def test_calls_and_sizes_follow_from_the_config(planned):
    """16 questions x 16 samples in 2 updates; 128 responses of 30 tokens, with a prompt of 2 for each 5 of them, fill 24.3
    rows of 160, 7 micro-batches of 4; the first update needs no old log-probs.

    All 256 samples have a slot at once and are done after 30 steps, within the first segment. The first update of a
    phase computes its old log-probs itself.
    """
    spec, mesh, _ = planned
    assumed = Assumed(mean_new_tokens=30, mean_prompt_tokens=2, length_sigma=0.0)
    programs = stage_programs(spec, mesh, assumed=assumed)
    calls = {program.name: program.calls for program in programs.programs}
    assert calls == {
        "prefill": 0.5, "begin": 0.5, "decode": 30 / 32 / 2, "old log-probs": 3.5, "reference log-probs": 7, "zeros": 1,
        "update": 7, "apply": 1,
    }  # fmt: skip
    sizes = {program.name: dict(program.sizes) for program in programs.programs}
    assert sizes["prefill"] == {"prompts": 16, "length": 64, "mtp_layers": 0}
    cached = 256 * (2 + 29 / 2)
    assert sizes["decode"] == {"slots": 256, "tokens": 1, "steps": 32, "mtp_layers": 0, "made": 256, "cached": cached}
    assert (programs.tokens_per_step, programs.num_steps) == (128 * 32, 80)


def test_a_cap_counts_as_often_as_it_holds(planned):
    spec, _, _ = planned
    phase = phase_of(dataclasses.replace(spec, max_new_tokens=((0, 16), (60, 64))))
    assert spec.num_updates == 80 and phase.caps == {16: 0.75, 64: 0.25}


def test_a_sampler_in_another_type_gets_a_copy_and_its_cache_has_that_type(planned):
    spec, mesh, programs = planned
    assert not any("reshard" in program.name for program in programs.programs)
    spec = dataclasses.replace(spec, engine=dataclasses.replace(spec.engine, dtype="bfloat16", record_routing=True))
    by_name = {program.name.split(" ")[0]: program for program in stage_programs(spec, mesh).programs}
    params, _, layers, _ = by_name["decode"].arguments
    assert {array.dtype for array in jax.tree.leaves(layers)} == {jnp.dtype(jnp.uint16)}  # its bits, on a CPU
    assert params["embed_VD"].dtype == jnp.bfloat16 and "reshard" in by_name
    assert "experts_BNLK" in jax.eval_shape(
        lambda *arguments: by_name["decode"].function(*arguments, **by_name["decode"].static),
        *by_name["decode"].arguments,
    )[1]  # fmt: skip


def test_partial_rollouts_leave_the_longest_for_the_next_phase(planned):
    spec, mesh, programs = planned
    partial = dataclasses.replace(spec, partial_rollouts=0.25, importance_cap=2.0)
    schedule = stage_programs(partial, mesh, assumed=Assumed(mean_new_tokens=40)).schedule
    assert programs.schedule.num_carried == 0
    num_sequences = spec.questions_per_phase * spec.group_size
    assert schedule.num_new + schedule.num_carried == 1.25 * num_sequences
    assert 0 < schedule.num_carried <= num_sequences / 4  # a segment may end with a few more than were asked for


def test_sampling_and_learning_take_turns_without_overlap():
    apart = {"rollout_mesh": {"fsdp": 2, "expert": 2, "first_device": 4}, "importance_cap": 2.0}
    mesh = make_mesh(rl_spec().mesh.axes())
    for overlap in (False, True):
        assert stage_programs(rl_spec(**apart, overlap=overlap), mesh).is_overlapped == overlap


def test_nothing_is_counted_twice_between_arguments_and_residents(planned):
    _, _, programs = planned
    residents = {program.name: set(program.resident) for program in programs.programs}
    assert residents["decode"] == {"step", "opt_state", "reference"}
    assert residents["reference log-probs"] == {"step", "params", "opt_state", "buffers"}
    assert residents["apply"] == {"reference"}


@pytest.mark.parametrize(
    ("cache", "drafts"), [("dense", "none"), ("paged", "none"), ("paged", "ngram"), ("dense", "mtp")]
)
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_the_programs_are_called_with_what_the_plan_says(cache, drafts, top_p, monkeypatch):
    """Shapes, types and static arguments of the engine's own calls, in a phase whose longest prompt is the longest
    allowed.
    """
    settings = {
        "prompt_bucket": 8,
        "segment": 4,
        "cache": cache,
        "drafts": drafts,
        "num_drafts": 2,
        "prefill_tokens": 32,
    }
    tasks = load_experiment("configs/zero.py").stages["zero"]["tasks"]
    samples = {"problems": 2, "samples": 3, "max_prompt_tokens": 9, "max_new_tokens": 4, "temperature": 1.0}
    spec = read(EvaluateSpec, {"init": POLICY, "tasks": tasks, "engine": settings, "top_p": top_p} | samples)
    model, mesh = make_model(dataclasses.replace(V3, num_mtp_layers=1)), make_mesh()
    state = dict(zip(("params", "buffers"), model.abstract(), strict=True))
    state = dict(zip(state, sampling_weights(model, state, mesh), strict=True))
    planned, _ = sampling_programs(spec, model, state, mesh, assumed=Assumed(mean_new_tokens=4, length_sigma=0.0))
    called = {}

    def described(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    def spied(name, function):
        def call(*arguments, **static):
            called.setdefault(name, (described(arguments), static))
            return function(*arguments, **static)

        return call

    engine = Engine(model, spec.engine)
    monkeypatch.setattr(engine, "programs", Programs(model, drafts))
    for name in ("prefill_dense", "prefill_paged", "insert", "copy_pages", "decode"):
        monkeypatch.setattr(engine.programs, name, spied(name, getattr(engine.programs, name)))
    prompts = [[1] * 9, [2] * 9]
    weights = model.init(jax.random.key(0))
    engine.generate(*weights, prompts, num_samples=3, max_new_tokens=4, top_p=top_p, stop_ids=(), key=jax.random.key(0))
    names = {"prefill": f"prefill_{cache}", "begin": "insert" if cache == "dense" else "copy_pages", "decode": "decode"}
    for program in planned:
        arguments, static = called[names[program.name]]
        assert described(program.arguments) == arguments, program.name
        assert dict(program.static) == static, program.name


def test_a_model_without_weights_is_named_by_a_preset():
    init = HuggingFaceInit(path="models/absent", preset="deepseek_v3", model={"dtype": "bfloat16"})
    model, params, _ = abstract_policy(config_of(init), mesh=make_mesh())
    assert params["moe"]["ffn"]["w_up_EDF"].shape == (58, 256, 7168, 2048)
    assert model.config.dtype == "bfloat16"
    with pytest.raises(
        ValueError, match=r"^init.path: there is no folder models/absent.*with init\.preset which model"
    ):
        config_of(dataclasses.replace(init, preset=None))
    with pytest.raises(ValueError, match="no model preset 'deepseek'"):
        config_of(dataclasses.replace(init, preset="deepseek"))


def test_stages_without_programs_are_refused():
    judge = {"function": "r1jax.rewards.format:r1_zero"}
    values = {"candidates": {"path": "candidates.jsonl"}, "judge": judge}
    with pytest.raises(
        ValueError, match="stage 'preferences' has no programs to plan; those with some are rl, supervised"
    ):
        stage_programs(read(PreferencesSpec, values), make_mesh())


@pytest.mark.parametrize(("name", "num_updates"), [("reward_helpful", 253), ("reward_safety", 406)])
def test_updates_of_the_reward_models_follow_from_the_papers_examples(name, num_updates):
    """98 % of 66,000 pairs and of 106,000 answers, 256 an update (spec B.7)."""
    models = Models(folder=Path("configs/r1"))
    spec = models.plan(load_experiment(f"configs/r1/{name}.py"))["reward_model"]
    mesh = make_mesh(spec.mesh.axes(), devices=parse_topology("v5p:4x8x8").devices())
    assert stage_programs(spec, mesh, model_of=models).num_steps == num_updates
