"""What the stages of the miniature share: the world, the rewards, and a function for each kind of stage."""

from typing import Any

PAIRS = {"count": 4, "low": 1, "high": 20, "heldout_fraction": 0.1}
PAIR_SUM = {"kind": "mini", "name": "pair_sum", "config": PAIRS}
HELPFUL = {"kind": "mini", "name": "helpful"}
SAFETY = {"kind": "mini", "name": "safety"}
SHARES = {"general_share": 0.15, "prose_share": 0.1}
"""Of the base's documents."""
TOKENS = ("<｜end▁of▁sentence｜>", "<｜pad｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
ADAM = {"warmup_steps": 5, "b2": 0.99}
GENERAL = "r1jax.tasks.mini.general"
TEXTS = "r1jax.tasks.mini.general_texts"

# Rewards by name; a weight of 0.0 only logs.
ZERO_ACCURACY = {"function": "r1jax.rewards.accuracy:accuracy_reward"}
ZERO_FORMAT = {"function": "r1jax.rewards.format:r1_zero", "name": "format"}
ACCURACY = {
    "function": "r1jax.rewards.accuracy:accuracy_reward",
    "name": "accuracy",
    "tasks": ["pair_sum"],
}
FORMAT = {"function": "r1jax.rewards.format:r1", "name": "format"}
REFLECTION = {
    "function": "r1jax.rewards.reflection:reflection_reward",
    "weight": 0.0,
    "name": "reflection",
    "tasks": ["pair_sum"],
}
TRUE_HELPFULNESS = {"function": f"{GENERAL}:helpfulness", "weight": 0.0, "tasks": ["helpful"]}
TRUE_SAFETY = {"function": f"{GENERAL}:safety", "weight": 0.0, "tasks": ["safety"]}


def language(weight: float) -> dict[str, Any]:
    """The share of the thought's words in the language of the question (R1v2 Eq. 7)."""
    return {"function": "r1jax.rewards.language:consistency", "weight": weight, "name": "language"}


def model_rewards(*, from_update: int) -> list[dict[str, Any]]:
    """The reward models of R1 Eqs. 8-10: each for the prompts of its own kind."""
    return [
        {
            "kind": "reward_model",
            "path": f"{{reward_{name}}}",
            "name": f"model_{name}",
            "tasks": [name],
            "from_update": from_update,
        }
        for name in ("helpful", "safety")
    ]


def base(*, preset: str, num_updates: int) -> dict[str, Any]:
    """Pretraining on the mini corpus, in which few authors work carefully and many mix languages."""
    corpus = {"config": PAIRS, **SHARES}
    sample = {"config": PAIRS, "general_share": SHARES["general_share"]}
    return {
        "stage": "supervised",
        "workdir": "{workdir}/../base-{hash}",
        "init": {
            "kind": "random",
            "preset": preset,
            "model": {"init_std": 0.05},
            "tokenizer": {
                "source": {"function": f"{TEXTS}:tokenizer_text", "arguments": sample},
                "num_texts": 3000,
                "vocab_size": 640,
                "special_tokens": list(TOKENS),
            },
        },
        "data": {"function": f"{TEXTS}:world_text", "arguments": corpus | {"warmup_documents": 18_000}},
        "template": "plain",
        "documents_per_update": 28,
        "row_length": 192,
        "num_updates": num_updates,
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup_steps": 50,
            "final_fraction": 0.05,
            "weight_decay": 0.01,
        },
        "bias_rate": 0.001,
        "log_every": 20,
        "checkpoint_every": 500,
        "keep_checkpoints": 1,
    }


def sft(*, init: str, data: str, num_epochs: int, learning_rate: float) -> dict[str, Any]:
    """Supervised fine-tuning on records of an earlier stage (R1 Sec. B.4.2: cosine to 1/10)."""
    return {
        "stage": "supervised",
        "init": {"kind": "stage", "path": init},
        "data": {"path": data},
        "documents_per_update": 16,
        "row_length": 256,
        "rows_per_microbatch": 4,
        "num_epochs": num_epochs,
        "optimizer": {
            "learning_rate": learning_rate,
            "warmup_steps": 5,
            "weight_decay": 0.01,
        },
        "bias_rate": 0.001,
        "checkpoint_every": 500,
        "keep_checkpoints": 1,
    }


def rl(*, init: str, **changes: Any) -> dict[str, Any]:
    """GRPO in phases of 16 questions × 16 outputs and 2 updates (R1v2: 512 × 16 and 16)."""
    return {
        "stage": "rl",
        "init": {"kind": "stage", "path": init},
        "tasks": [PAIR_SUM],
        "questions_per_phase": 16,
        "updates_per_phase": 2,
        "max_prompt_tokens": 48,
        "optimizer": ADAM | {"learning_rate": 1e-4},
        "bias_rate": 0.001,
        "eval": {"final_problems": 128, "problems_per_batch": 32, "temperature": 1.0, "top_p": None},
        "checkpoint_every": 40,
        "keep_checkpoints": 1,
    } | changes


def zero(*, init: str, with_language: bool = False, num_updates: int = 60) -> dict[str, Any]:
    """R1-Zero: no supervised data, rule rewards only (R1v2 Sec. 2); the language reward is an ablation (B.6.2)."""
    return rl(
        init=init,
        template="plain",
        rewards=[ZERO_ACCURACY, ZERO_FORMAT, language(1.0 if with_language else 0.0), REFLECTION],
        num_updates=num_updates,
        max_new_tokens=112,
    )


def rl2(*, general_from: int, num_updates: int) -> dict[str, Any]:
    """RL stage 2: mixed prompts, T = 0.7; general data and reward models join at `general_from` (R1v2 Sec. 3.2.2)."""
    general = [task | {"weight": 0.5, "from_update": general_from} for task in (HELPFUL, SAFETY)]
    rewards = [ACCURACY, FORMAT, language(1.0), REFLECTION, *model_rewards(from_update=general_from)]
    truths = [reward | {"from_update": general_from} for reward in (TRUE_HELPFULNESS, TRUE_SAFETY)]
    return rl(
        init="{dev3}",
        template="r1",
        tasks=[PAIR_SUM, *general],
        rewards=rewards + truths,
        temperature=0.7,
        num_updates=num_updates,
        max_new_tokens=192,
        row_length=256,
    )


def reject(*, init: str, **changes: Any) -> dict[str, Any]:
    """Samples, filtered: correct, readable, in one language (R1v2 Sec. B.3.2, B.3.3)."""
    names = ("finished", "correct", "well_formed", "not_repetitive")
    return {
        "stage": "reject",
        "init": {"kind": "stage", "path": init},
        "tasks": [PAIR_SUM],
        "max_prompt_tokens": 48,
        "filters": [{"function": f"r1jax.rewards.filters:{name}"} for name in names],
        "domains": {"pair_sum": "Math"},
        "records_per_shard": 2000,
    } | changes


def reward_model(*, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A scalar head on Dev3 (R1v2 Sec. B.2: batch 256, 6e-6, one epoch)."""
    return {
        "stage": "reward_model",
        "init": {"kind": "stage", "path": "{dev3}"},
        "kind": kind,
        "data": data,
        "max_tokens": 128,
        "examples_per_update": 32,
        "optimizer": ADAM | {"learning_rate": 3e-4},
        "bias_rate": 0.001,
        "log_every": 5,
        "checkpoint_every": 500,
        "keep_checkpoints": 1,
    }


def evaluation(
    *, init: str, template: str = "r1", max_new_tokens: int = 192, with_models: bool = False
) -> dict[str, Any]:
    """Reasoning, readability, helpfulness and safety of a policy, by the paper's protocol (R1v2 Sec. D.1: T 0.6, top-p 0.95)."""
    rewards = [ZERO_FORMAT if template == "plain" else FORMAT, language(0.0), REFLECTION, TRUE_HELPFULNESS, TRUE_SAFETY]
    return {
        "stage": "evaluate",
        "init": {"kind": "stage", "path": init},
        "tasks": [PAIR_SUM, HELPFUL, SAFETY],
        "template": template,
        "rewards": [*rewards, *(model_rewards(from_update=0) if with_models else ())],
        "problems": 64,
        "cons_at": [1, 2, 4, 8, 16],
        "max_prompt_tokens": 48,
        "max_new_tokens": max_new_tokens,
        "problems_per_batch": 16,
    }
