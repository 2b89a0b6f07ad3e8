"""The work directory of a finished RL stage, as far as what samples from it looks."""

from pathlib import Path

from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.fields import to_plain
from r1jax.specs.policy import AnyInit
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.training.checkpoint import Checkpoints
from r1jax.workdir.directory import write_json
from tests.tiny import POLICY, shaken

SPEC = {
    "init": POLICY,
    "tasks": [{"kind": "mini", "name": "pair_sum"}],
    "rewards": [
        {"function": "r1jax.rewards.accuracy:accuracy_reward"},
        {"function": "r1jax.rewards.format:r1_zero", "name": "format"},
    ],
    "template": "plain",
    "max_new_tokens": 24,
}


def write_stage(workdir: Path) -> tuple[dict, dict]:
    """Writes it, with a checkpoint after 3 updates and, of other weights, one after 2; returns those of the last."""
    workdir.mkdir(parents=True, exist_ok=True)
    policy, _, _ = load_init(read(AnyInit, POLICY), mesh=make_mesh(), seed=0)
    policy.save(workdir)
    write_json(workdir / "config.json", {**to_plain(read(RlSpec, SPEC)), "stage": "rl"})
    with Checkpoints(workdir) as checkpoints:
        for step in (2, 3):
            params, buffers = shaken(policy.model, seed=step)
            checkpoints.save(step, {"params": params, "buffers": buffers}, extra={})
    (workdir / "DONE").touch()
    return params, buffers
