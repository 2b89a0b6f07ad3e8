"""What the experiments of the full-size recipe share: where things lie, the problems, the stages with the paper's values.

Places, all below the directory that the work directories share (runs/r1 in every command):

    runs/r1/models/NAME          a Hugging Face folder: deepseek_v3_base, qwen2_5_math_1_5b, ... (kind "hf")
    runs/r1/data/NAME.jsonl      problems, prompts and conversations (or what else r1jax.tasks.sources.rows reads: see `data`)
    runs/r1/EXPERIMENT/STAGE     what an experiment leaves, and the next one reads: zero/rl, cold_start/supervised, ...

A model that judges or rewrites is behind `ENDPOINT` (vLLM or SGLang serving DeepSeek-V3, say).

Hardware: none of this was ever run; no accelerator was here. Meshes are those with which the programs fit, by the compiler or by
count: `python -m r1jax.plan`, tables in experiments/plan. A trained parameter takes 16 bytes (float32 weights, gradient, two
moments), in RL 20 with the reference. What 671B needs beside its state: the tokens of a row spread over "sequence" (a layer
then keeps 1/8 to 1/32 of a row's 61 inputs), experts over "expert" with tokens going to them (ragged_all_to_all), and for
sampling a layout of its own, in bfloat16.

Open points of the paper (spec G), chosen here for all: AdamW (0.9, 0.95), decay 0.1, clip 1.0, 10 updates of warm-up, RL at
a constant rate (B.2, recommended); router bias left as it is and no balance loss; the MTP layer is trained in SFT, with V3's
last weight, and stays as it is in RL (G.32); the DSM form of the loss, 1/|o| a sequence, population std (G.2, G.6);
truncated rollouts score 0 and stay (G.12).
"""

from typing import Any

from ml_collections import ConfigDict

ENDPOINT = {"kind": "endpoint", "url": "http://localhost:8000/v1", "model": "deepseek-v3", "workers": 64}
OPTIMIZER = {"weight_decay": 0.1, "warmup_steps": 10}
MAX_PROMPT = 2048
"""Tokens of a prompt; the longest are statements of programming contests with their examples."""

# v5p chips. A row is on one of fsdp * expert groups, its tokens over "sequence"; a sampled one on one of data * expert.
RL_MESH = {"fsdp": 16, "expert": 8, "sequence": 8}  # 1,024 chips; 128 rows of 34,816 tokens
ROLLOUT_MESH = {"expert": 256, "tensor": 4}  # the same, sampling: an expert of each layer on four chips
SFT_MESH = {"fsdp": 2, "expert": 8, "sequence": 32}  # 512 chips; 64 conversations fill 10 to 16 rows, one a group
REWARD_MESH = {"fsdp": 4, "expert": 8, "sequence": 8}  # 256 chips; 32 rows
SMALL_MESH = {"expert": 128, "tensor": 2}  # 256 chips, for sampling: two experts of each layer on two chips

# Sampling. A phase has a slot for each of its 8,192 sequences: it ends with its longest, so the sooner that begins the better.
# Pages are given out as they grow; cache_gb is twice what they want at once (r1jax.plan). A draft a step comes from MTP.
ENGINE = {"prompt_bucket": 512, "segment": 128, "prefill_tokens": 524_288, "cache_gb": 30.0}


def experiment(**stages: dict[str, Any]) -> ConfigDict:
    """The config of an experiment from its stages, in order."""
    return ConfigDict({"seed": 0, "stages": ConfigDict(stages, sort_keys=False)})


def data(name: str) -> dict[str, str]:
    """Where a data set lies."""
    return {"path": f"{{workdir}}/../data/{name}.jsonl"}


def made_by(name: str, stage: str) -> str:
    """The work directory of another experiment's stage."""
    return f"{{workdir}}/../{name}/{stage}"


def after(name: str, stage: str) -> dict[str, str]:
    """The policy that another experiment's stage trained."""
    return {"kind": "stage", "path": made_by(name, stage)}


def pretrained(name: str) -> dict[str, Any]:
    """A model of a Hugging Face folder; it computes in bfloat16 and recomputes layers in the backward pass."""
    experts = {"expert_parallel": "ragged_all_to_all"} if name == "deepseek_v3_base" else {}
    return {
        "kind": "hf",
        "path": f"{{workdir}}/../models/{name}",
        "preset": {"deepseek_v3_base": "deepseek_v3"}.get(name, name),
        "model": {"dtype": "bfloat16", "remat": "full", **experts},
    }


TEST_SETS = [
    {"dataset": "math_answers", **data("aime_2024")},
    {"dataset": "math500", **data("math_500")},
    {"dataset": "gpqa", **data("gpqa_diamond")},
    {"dataset": "livecodebench", **data("livecodebench")},
]
"""What no training problem or conversation may share ten words in a row with (R1 Sec. D.1)."""


def _problems(name: str, dataset: str, *, heldout: str, weight: float) -> dict[str, Any]:
    sources = {"train": data(name), "heldout": data(heldout)}
    return {"kind": "files", "name": name, "dataset": dataset, **sources, "weight": weight, "decontaminate": TEST_SETS}


def reasoning_tasks(**weights: float) -> list[dict[str, Any]]:
    """Math, code, STEM and logic (spec B.4), drawn in proportion to `weights`, by default every prompt as often.

    Not there: the 8K bug fixes in repositories, whose tests no verifier here runs. STEM and logic are multiple choice in
    MMLU-Pro's fields, code in those of open-r1/codeforces. Held out of math is AIME 2024, the curve of the paper's Fig. 1.
    """
    weights = {"math": 26.0, "code": 17.0, "stem": 22.0, "logic": 15.0} | weights
    return [
        _problems("math", "math_answers", heldout="aime_2024", weight=weights["math"]),
        _problems("code", "codeforces", heldout="code_heldout", weight=weights["code"]),
        _problems("stem", "mmlu_pro", heldout="stem_heldout", weight=weights["stem"]),
        _problems("logic", "mmlu_pro", heldout="logic_heldout", weight=weights["logic"]),
    ]


REASONING = ["math", "code", "stem", "logic"]


def reward(function: str, name: str, **options: Any) -> dict[str, Any]:
    """A reward of r1jax.rewards with weight 1: the paper adds them up (R1 Eqs. 4, 8-10)."""
    return {"function": f"r1jax.rewards.{function}", "name": name} | options


def rl(
    init: dict[str, Any],
    *,
    tasks: list[dict[str, Any]],
    rewards: list[dict[str, Any]],
    template: str,
    num_updates: int,
    max_new_tokens: list[list[int]],
    temperature: float = 1.0,
    learning_rate: float = 3e-6,
    mesh: dict[str, int] = RL_MESH,
    rollout_mesh: dict[str, int] | None = ROLLOUT_MESH,
    rows_per_microbatch: int = 128,
    engine: dict[str, Any] = ENGINE | {"drafts": "mtp"},
) -> dict[str, Any]:
    """GRPO as in spec B.2 and B.3: phases of 512 questions x 16 outputs, 16 updates of 32 questions each."""
    return {
        "stage": "rl",
        "mesh": mesh,
        "rollout_mesh": rollout_mesh,
        "init": init,
        "tasks": tasks,
        "template": template,
        "rewards": rewards,
        # rollout
        "questions_per_phase": 512,
        "updates_per_phase": 16,
        "num_updates": num_updates,
        "temperature": temperature,
        "max_prompt_tokens": MAX_PROMPT,
        "max_new_tokens": max_new_tokens,
        "engine": engine,
        # GRPO's defaults are the paper's; clip 10 is stated for the first RL stage of R1 and taken for all (G.1)
        "rows_per_microbatch": rows_per_microbatch,
        "optimizer": {"learning_rate": learning_rate, **OPTIMIZER},
        # held-out evaluation as in spec D.1, every five phases
        "eval": {"every": 80, "problems": 64, "samples": 16, "final_problems": 256},
        "checkpoint_every": 160,
    }


def supervised(
    init: dict[str, Any],
    path: str,
    *,
    learning_rate: float = 5e-6,
    mesh: dict[str, int] = SFT_MESH,
    rows_per_microbatch: int = 16,
    mtp_weight: float = 0.1,
) -> dict[str, Any]:
    """SFT as in spec C.4: 2 epochs, cosine to a tenth, batch 64, at most 32,768 tokens; loss on the last answer.

    The batch is 64 conversations, packed, and not 64 full rows (V3 packs, R1 does not say which it counts): 12,574 updates
    an epoch of the whole set. Conversations longer than a row are left out and counted.
    """
    return {
        "stage": "supervised",
        "mesh": mesh,
        "init": init,
        "data": {"path": path},
        "row_length": 32_768,
        "too_long": "drop",
        "rows_per_microbatch": rows_per_microbatch,
        "num_epochs": 2,
        "optimizer": {"learning_rate": learning_rate, **OPTIMIZER},
        "mtp_weight": mtp_weight,
        "checkpoint_every": 1000,
    }


def distill(base: str, *, learning_rate: float, mesh: dict[str, int], rows_per_microbatch: int = 16) -> ConfigDict:
    """A student: SFT of a dense base on the whole set of `reject`, and nothing else (spec C.6).

    Epochs, "2-3" in the paper, are 2 as in SFT. The base's folder must have a tokenizer with the tokens of the R1 template: the
    released students' own, or the base's with special tokens renamed (`Tokenizer.with_special_tokens`).
    """
    path = made_by("reject", "reject")
    keys = {"learning_rate": learning_rate, "mesh": mesh, "rows_per_microbatch": rows_per_microbatch, "mtp_weight": 0.0}
    return experiment(supervised=supervised(pretrained(base), path, **keys))


def reward_model(kind: str, path: str) -> dict[str, Any]:
    """A reward model as in spec B.7: batch 256, 6e-6, one epoch, at most 8,192 tokens in training.

    Open: what it starts from ("same as R1" is its architecture) is Dev3, where RL stage 2 starts too; the rate is constant;
    2 % of the prompts are held out to report accuracy, calibration and length bias.
    """
    return {
        "stage": "reward_model",
        "mesh": REWARD_MESH,
        "init": after("sft", "supervised"),
        "kind": kind,
        "data": {"path": path},
        "length_bucket": 1024,
        "examples_per_microbatch": 16 if kind == "helpful" else 32,  # 32 rows, one a group
        "heldout_fraction": 0.02,
        "optimizer": OPTIMIZER,
        "log_every": 1,
        "checkpoint_every": 100,
        "keep_checkpoints": 1,
    }


def filters(*names: str, **options: dict[str, Any]) -> list[dict[str, Any]]:
    """Filters of r1jax.rewards.filters by name, with the keys that one of them needs."""
    return [{"function": f"r1jax.rewards.filters:{name}", **options.get(name, {})} for name in names]


def sampling(
    init: dict[str, Any],
    *,
    tasks: list[dict[str, Any]],
    rewards: list[dict[str, Any]],
    template: str,
    num_prompts: int,
    samples_per_prompt: int,
    keep_per_prompt: int,
    **keys: Any,
) -> dict[str, Any]:
    """Answers at temperature 1, of which some are kept; prompt and answer fit into a row of SFT. `keys` decide which."""
    return {
        "stage": "reject",
        "mesh": SMALL_MESH,
        "init": init,
        "tasks": tasks,
        "template": template,
        "rewards": rewards,
        "num_prompts": num_prompts,
        "samples_per_prompt": samples_per_prompt,
        "keep_per_prompt": keep_per_prompt,
        "max_prompt_tokens": MAX_PROMPT,
        "max_new_tokens": 32_768 - MAX_PROMPT,
        "engine": ENGINE | {"drafts": "mtp"},
        "decontaminate": TEST_SETS,
        "domains": {"math": "Math", "code": "Code", "stem": "STEM", "logic": "Logic"},
    } | keys
