"""Where the time of a GRPO phase goes: tokens/s of generation, log-probs and update, and their share of the matmul
peak.

FLOPs are counted by hand from the matmul parameters that a token passes through (2 a parameter forward, 6 for forward
and backward; attention scores left out), since XLA's cost analysis counts a scanned layer once. The weights are those
that the config's first stage starts from: speed does not depend on what they have learned. Lengths do, so every
completion runs to the cap, and prompts may be brought to one length. A peer, TRL on the same weights, does its step after
each phase.
"""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from r1jax.bench.measure import active_matmul_params, matmul_peak
from r1jax.bench.peers import SCRIPTS, Peer, ratio
from r1jax.data.prompts import PromptIterator
from r1jax.hf.gguf import find_smollm2
from r1jax.pipeline import plan_stages
from r1jax.policies.policy import load_init
from r1jax.policies.reward_model import load_rewards
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.engine import make_engine
from r1jax.sharding import make_mesh
from r1jax.specs.config_file import load_experiment
from r1jax.specs.policy import GgufInit
from r1jax.specs.stages import RlSpec
from r1jax.stages import rl
from r1jax.stages.rl.phase import collect_groups, make_microbatches
from r1jax.stages.rl.stage import update_on_groups
from r1jax.tasks.mixture import make_mixture
from r1jax.tasks.problem import Problem
from r1jax.text.tokenizer import Tokenizer

_PEER_MICROBATCHES = 4
PARTS = ("generate", "logprobs", "update", "step")


def run(config_path: str, *, phases: int, prompt_tokens: int | None = None, peers: str | None = None) -> dict[str, Any]:
    """Times ``phases`` warm phases of the config's RL stage. Figures are means over them.

    prompt_tokens: every prompt's tokens are repeated, or cut, to so many. peers: a Python with TRL, whose step of the
    same sizes is timed in turn. ValueError: the peer failed, or cannot do what the config says.
    """
    stages = [stage.spec for stage in plan_stages(load_experiment(config_path), Path("bench"))]
    spec = next(stage for stage in stages if isinstance(stage, RlSpec))
    mesh = make_mesh(spec.mesh.axes())
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        peer = None
        if peers is not None:
            command = _peer_command(peers, spec, stages[0].init, prompt_tokens, config_path)
            peer = stack.enter_context(Peer(command))
        policy, params, buffers = load_init(stages[0].init, mesh=mesh, seed=spec.seed)
        task = make_mixture(spec.tasks, seed=spec.seed)
        collector = _Collector(
            engine=make_engine(policy.model, spec.engine),
            tokenizer=cast(Tokenizer, _NeverStops(policy.tokenizer)),
            task=task,
            rubric=Rubric(load_rewards(spec.rewards, mesh=mesh)),
            template=spec.template,
            max_prompt_tokens=spec.max_prompt_tokens,
            prompt_tokens=prompt_tokens,
        )
        state, update, score = rl.build(spec, policy.model, params, buffers)
        prompts = PromptIterator(task, batch_size=spec.questions_per_phase, seed=spec.seed, keep=collector.fits)
        rows, theirs, loads = [], [], []
        for phase in range(phases + 1):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            collected = collect_groups(collector, state, prompts, spec, updates=phase)
            groups, advantages_PG = collected.groups, collected.advantages_PG
            state, _, spent = update_on_groups(groups, advantages_PG, state, update, score, spec, updates=phase)
            jax.block_until_ready(state)
            rows.append(collected.seconds | spent | {"step": time.perf_counter() - begin})
            rows[-1]["cpu_seconds"] = time.process_time() - cpu_begin
            print(f"phase {phase}{' (compiles)' if phase == 0 else ''}: {_line(rows[-1])}", flush=True)
            if peer is not None:
                theirs.append(peer.ask({}))
                print(f"peer's step {phase}: {_line(theirs[-1])}", flush=True)
            loads.append(os.getloadavg()[0])
    lengths = [len(r.completion.token_ids) for group in groups for r in group.rollouts]
    asked = sum(len(r.prompt_ids) for group in groups for r in group.rollouts)
    means = {name: float(np.mean([row[name] for row in rows[1:]])) for name in rows[0]}
    microbatches = make_microbatches(groups, advantages_PG, spec)
    new, trained = sum(lengths), sum(int((batch["segment_ids"] > 0).sum()) for batch in microbatches)
    passes = bool(spec.kl_coef) + 1 - 1 / spec.updates_per_phase  # the first update needs no old log-probs
    flops = 2 * active_matmul_params(policy.model.config)
    peak = matmul_peak()
    work = {"generate": flops * new, "logprobs": flops * trained * passes, "update": 3 * flops * trained}
    compared = {}
    if theirs:
        compared["peer_seconds"] = {name: float(np.mean([row[name] for row in theirs[1:]])) for name in PARTS}
        compared["ratio_to_peer"] = {
            name: ratio([row[name] for row in rows[1:]], [row[name] for row in theirs[1:]])
            for name in (*PARTS, "cpu_seconds")
        }
    return {
        "config": config_path,
        "completions": len(lengths),
        "new_tokens": new,
        "prompt_tokens": asked,
        "seconds": means,
        "seconds_of_step": [row["step"] for row in rows[1:]],
        "new_tokens_per_second": {name: new / means[name] for name in PARTS},
        "matmul_peak_gflops": peak / 1e9,
        "share_of_peak": {name: work[name] / means[name] / peak for name in work},
        "load_average": [min(loads), max(loads)],
        **compared,
    }


def _line(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds[name]:.2f} s" for name in PARTS)


def _peer_command(python: str, spec: RlSpec, init: Any, prompt_tokens: int | None, config_path: str) -> list[Any]:
    """TRL's step of the stage's sizes. ValueError: the stage has something that it would not do alike."""
    if not isinstance(init, GgufInit) or init.path != "smollm2" or prompt_tokens is None:
        raise ValueError(f"--peers: {config_path} must start from the GGUF 'smollm2', and --prompt-tokens be there")
    if spec.updates_per_phase != 1:
        raise ValueError(f"--peers: updates_per_phase={spec.updates_per_phase} in {config_path} must be 1")
    sizes = {
        "dtype": init.model.get("dtype", "float32"),
        "questions": spec.questions_per_phase,
        "samples": spec.group_size,
        "prompt-tokens": prompt_tokens,
        "new-tokens": spec.cap_at(0),
        "kl-coef": spec.kl_coef,
        "rows-per-microbatch": spec.questions_per_phase * spec.group_size // _PEER_MICROBATCHES,
    }
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    return [python, SCRIPTS / "trl_grpo.py", "--gguf", find_smollm2(), *options]


@dataclasses.dataclass(frozen=True)
class _Collector(Collector):
    prompt_tokens: int | None = None

    def _prompt_ids(self, problem: Problem) -> list[int]:
        ids = super()._prompt_ids(problem)
        return ids if self.prompt_tokens is None else np.resize(ids, self.prompt_tokens).tolist()


@dataclasses.dataclass(frozen=True)
class _NeverStops:
    """A tokenizer whose end token is no token, so that every completion has the same length."""

    inner: Any
    eos_id: int = -2
    stop_ids: tuple[int, ...] = (-2,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
