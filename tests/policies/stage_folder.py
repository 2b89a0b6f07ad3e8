"""The work directory of a finished RL stage, as far as what samples from it looks."""

from pathlib import Path

import jax

from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.fields import to_plain
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.text.templates import TEMPLATES
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


DENSE_R1 = {
    "init": POLICY
    | {
        "preset": "mini_llama",
        "model": {"model_dim": 32, "ffn_dim": 48, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "init_std": 0.2},
        "tokenizer": POLICY["tokenizer"]
        | {"vocab_size": 320, "special_tokens": ("<|endoftext|>", "<|pad|>", *TEMPLATES["r1"].tokens)},
    },
    "template": "r1",
}
"""What a dense student's stage has otherwise."""


def write_stage(workdir: Path, **fields) -> tuple[dict, dict]:
    """Writes it, with a checkpoint after 3 updates and, of other weights, one after 2; returns those of the last.

    fields: of the stage's spec, where they differ from ``SPEC``.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    spec = read(RlSpec, SPEC | fields)
    policy, _, _ = load_init(spec.init, mesh=make_mesh(), seed=0)
    policy.save(workdir)
    write_json(workdir / "config.json", {**to_plain(spec), "stage": "rl"})
    with Checkpoints(workdir) as checkpoints:
        for step in (2, 3):
            params, buffers = shaken(policy.model, seed=step)
            buffers = jax.tree.map(abs, buffers)  # transformers masks groups with 0, not with -inf
            checkpoints.save(step, {"params": params, "buffers": buffers}, extra={})
    (workdir / "DONE").touch()
    return params, buffers
