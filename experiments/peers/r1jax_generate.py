"""The engine of the r1jax that PYTHONPATH names, this checkout or another, for ``r1jax.bench rollout``.

    PYTHONPATH=checkout python experiments/peers/r1jax_generate.py --model smollm2 --dtype float32

Request: {"prompts": [token ids], "lengths": [new tokens of each], "slots": rows at a time or null}; reply: {"seconds": s,
"lengths": [...], "occupancy": share of slot-steps whose slot was in use, while requests waited for one, or null}.

An engine with one budget for all prompts is made to end each row at its length: there the sampled token is replaced by
the stop token. Nothing else of it changes, and what a row costs does not depend on its tokens.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import json
import time
from collections import Counter
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from turns import serve

from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from r1jax.policies.policy import load_init
from r1jax.rollout import engine as engines
from r1jax.sharding import make_mesh
from r1jax.specs.policy import GgufInit
from r1jax.specs.rollout import EngineSpec

NO_STOP = -2  # no token has this id
STOP = 0  # of rows that are made to end
SLOTS = "slots" if "slots" in {field.name for field in dataclasses.fields(EngineSpec)} else "max_rows"
BUDGETS_DIFFER = inspect.signature(engines.Engine.generate).parameters["max_new_tokens"].annotation not in (int, "int")
PAD = {"pad_id": 0} if "pad_id" in inspect.signature(engines.Engine).parameters else {}  # of checkouts from before


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="'smollm2', or a preset, which gets random weights")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--engine", type=json.loads, default={}, help="fields of EngineSpec as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    use_compilation_cache()
    mesh = make_mesh({})
    with jax.set_mesh(mesh):
        model, params, buffers = load(options.model, options.dtype, mesh)
        serve(lambda request: generate(model, params, buffers, options.engine, **request))


def load(name: str, dtype: str, mesh: jax.sharding.Mesh) -> tuple:
    """(model, params, buffers) as a stage would load them, or with random weights."""
    if name == "smollm2":
        policy, params, buffers = load_init(GgufInit(path="smollm2", model={"dtype": dtype}), mesh=mesh, seed=0)
        return policy.model, params, buffers
    model = make_model(dataclasses.replace(make_preset(name), dtype=dtype))
    return model, *jax.jit(model.init)(jax.random.key(0))


def generate(model, params, buffers, fields: dict, *, prompts: list, lengths: list, slots: int | None) -> dict:
    """One call of the engine; see the module."""
    spec = EngineSpec(**fields | ({} if slots is None else {SLOTS: slots}))
    settings = {"temperature": 1.0, "key": jax.random.key(0), "stop_ids": [NO_STOP]}
    is_forced = len(set(lengths)) > 1 and not BUDGETS_DIFFER
    if is_forced:
        engine, forcing = forced_engine(model, spec, tuple(lengths)), ends_at(lengths)
        settings |= {"max_new_tokens": max(lengths), "stop_ids": [STOP]}
    else:
        engine, forcing = engines.make_engine(model, spec, **PAD), contextlib.nullcontext()
        settings |= {"max_new_tokens": lengths[0] if len(set(lengths)) == 1 else lengths}
    counts = Counter()
    if "counts" in inspect.signature(engine.generate).parameters:
        settings["counts"] = counts
    begin = time.perf_counter()
    with forcing:
        groups = engine.generate(params, buffers, prompts, **settings)
    seconds = time.perf_counter() - begin
    occupancy = batches_occupancy(lengths, slots) if is_forced else None
    if counts["busy_slot_steps"]:
        occupancy = counts["busy_row_steps"] / counts["busy_slot_steps"]
    return {
        "seconds": seconds,
        "lengths": [len(completion.token_ids) for (completion,) in groups],
        "occupancy": occupancy,
    }


@functools.cache
def forced_engine(model, spec: EngineSpec, lengths: tuple[int, ...]) -> engines.Engine:
    """An engine whose programs are traced within ``ends_at(lengths)`` alone."""
    return engines.Engine(model, spec, **PAD)


@contextlib.contextmanager
def ends_at(lengths: list[int]) -> Iterator[None]:
    """Makes row i of an engine sample ``STOP`` as its token number ``lengths[i]``, and never before."""
    uniforms, sample, lengths_R = engines.row_uniforms, engines.sample_tokens, np.asarray(lengths)

    def row_uniforms(key, rows_B, step):
        return jnp.where(step + 1 >= jnp.asarray(lengths_R)[rows_B], 2.0, uniforms(key, rows_B, step))

    def sample_tokens(logits_BV, uniform_B, *, top_p=None):
        is_last_B = uniform_B > 1
        token_B, logp_B = sample(logits_BV, jnp.where(is_last_B, 0.5, uniform_B), top_p=top_p)
        return jnp.where(is_last_B, STOP, jnp.where(token_B == STOP, STOP + 1, token_B)), logp_B

    engines.row_uniforms, engines.sample_tokens = row_uniforms, sample_tokens
    try:
        yield
    finally:
        engines.row_uniforms, engines.sample_tokens = uniforms, sample


def batches_occupancy(lengths: list[int], slots: int) -> float | None:
    """Of batches of ``slots`` requests, each as long as its longest; the last batch is admitted when the others end."""
    batches = [lengths[first : first + slots] for first in range(0, len(lengths), slots)][:-1]
    return sum(map(sum, batches)) / (slots * sum(map(max, batches))) if batches else None


if __name__ == "__main__":
    main()
