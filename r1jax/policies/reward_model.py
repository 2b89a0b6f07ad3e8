"""A trained reward model as a function, conversations in, logits out, for its own stage and for RL.

A reward model's work directory holds what every stage's does; its parameters have one entry more, "reward_head", its
config says which part of a response it reads, under which template, and its summary where its rewards are centred.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.data.preferences import READS, check_kind
from r1jax.models.reward_head import REWARD_HEAD, init_reward_head, reward_head_axes, rewards_at_end
from r1jax.models.transformer import Model
from r1jax.policies.policy import Policy, load_init
from r1jax.processes import to_host
from r1jax.rewards.calls import Entry, make_entry
from r1jax.rewards.learned import LearnedReward
from r1jax.specs.policy import StageInit
from r1jax.specs.rewards import AnyReward, FunctionReward, ModelReward
from r1jax.text.chat import encode_conversation
from r1jax.text.templates import Messages
from r1jax.text.tokenizer import Tokenizer
from r1jax.training.checkpoint import load_checkpoint


def make_reward_pass(model: Model) -> Callable:
    """(params, buffers, tokens_BT, lengths_B) -> rewards [B], jitted: compiled once for each shape."""

    def score(*arguments):
        return rewards_at_end(model, *arguments)[0]

    return jax.jit(score)


def encode_response(messages: Messages, text: str, tokenizer: Tokenizer, *, template: str) -> list[int]:
    """Token ids of a conversation that ``text`` answers, with what ends the turn: there the reward is read."""
    return encode_conversation([*messages, {"role": "assistant", "content": text}], tokenizer, template=template)[0]


def pad_rows(sequences: Sequence[Sequence[int]], *, rows: int, bucket: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens_BT, lengths_B) of at most ``rows`` sequences: B = rows, T the longest, rounded up to a multiple of ``bucket``."""
    longest = max(map(len, sequences))
    tokens_BT = np.zeros((rows, -(-longest // bucket) * bucket), np.int32)
    lengths_B = np.zeros(rows, np.int32)
    for row, ids in enumerate(sequences):
        tokens_BT[row, : len(ids)], lengths_B[row] = ids, len(ids)
    return tokens_BT, lengths_B


def score_sequences(
    score: Callable, params, buffers, sequences: Sequence[Sequence[int]], *, rows: int, bucket: int
) -> np.ndarray:
    """[N] float32 rewards of token sequences, in their order; sorted by length into batches of ``rows``."""
    rewards_N = np.zeros(len(sequences), np.float32)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    for start in range(0, len(order), rows):
        batch = order[start : start + rows]
        padded = pad_rows([sequences[index] for index in batch], rows=rows, bucket=bucket)
        rewards_N[batch] = to_host(score(params, buffers, *padded))[: len(batch)]
    return rewards_N


def init_head(policy: Policy, params, *, mesh: Mesh, seed: int):
    """A policy's parameters with a new reward head, laid out over the mesh."""
    shardings = jax.tree.map(lambda array: array.sharding, abstract_head(policy.model, mesh=mesh)[REWARD_HEAD])
    init = jax.jit(lambda key: init_reward_head(policy.model.config, key), out_shardings=shardings)
    return {**params, REWARD_HEAD: init(jax.random.key(seed))}


def abstract_head(model: Model, *, mesh: Mesh) -> dict[str, Any]:
    """What a reward model's parameters have besides the policy's, as ShapeDtypeStructs on the mesh."""
    shapes = jax.eval_shape(lambda: init_reward_head(model.config, jax.random.key(0)))
    shardings = sharding.tree_shardings(reward_head_axes(), shapes, mesh)
    return {
        REWARD_HEAD: jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    }


def load_reward_model(path: str | Path, *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    """(policy, params with the head, buffers) of a finished reward model's work directory.

    Raises FileNotFoundError or CheckpointError naming what is missing, also for a stage that trained no reward model.
    """
    policy, params, buffers = load_init(StageInit(path=str(path)), mesh=mesh, seed=0)
    state, _ = load_checkpoint(path, {"params": abstract_head(policy.model, mesh=mesh)}, partial=True)
    return policy, {**params, **state["params"]}, buffers


def load_rewards(rewards: Sequence[AnyReward], *, mesh: Mesh) -> list[FunctionReward | Entry]:
    """What a ``Rubric`` takes of a stage's rewards; every trained reward model is read and made a function on the mesh."""
    return [_entry(reward, _load(reward, mesh)) if isinstance(reward, ModelReward) else reward for reward in rewards]


def stand_in_rewards(rewards: Sequence[AnyReward]) -> list[FunctionReward | Entry]:
    """The same with 0 as every reward model's logit, for a check of a config before there are any."""
    stand_in = LearnedReward(lambda asked: [0.0] * len(asked), part="whole")
    return [_entry(reward, stand_in) if isinstance(reward, ModelReward) else reward for reward in rewards]


def _entry(reward: ModelReward, function: LearnedReward) -> Entry:
    shared = {field: getattr(reward, field) for field in ("name", "weight", "tasks", "from_update")}
    return make_entry(function, **shared, deferred=True)


def _load(reward: ModelReward, mesh: Mesh) -> LearnedReward:
    path = Path(reward.path)
    policy, params, buffers = load_reward_model(path, mesh=mesh)
    config, summary = (_read(path / name) for name in ("config.json", "summary.json"))
    check_kind(config["kind"])
    score = make_reward_pass(policy.model)

    def logits(asked: Sequence[tuple[Messages, str]]) -> Sequence[float]:
        options = {"tokenizer": policy.tokenizer, "template": config["template"]}
        sequences = [encode_response(messages, text, **options) for messages, text in asked]
        rows, bucket = reward.rows_per_batch, config["length_bucket"]
        with jax.set_mesh(mesh):
            return score_sequences(score, params, buffers, sequences, rows=rows, bucket=bucket).tolist()

    return LearnedReward(logits, part=READS[config["kind"]], center=summary["center"])


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of a work directory. Raises ValueError naming the file."""
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: must be a JSON object; it is a {type(value).__name__}")
    return value
