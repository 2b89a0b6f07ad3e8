"""The whole R1 recipe in miniature: R1-Zero, cold start, two RL stages, reward models, distillation, and the paper's claims.

Command:  make r1   (python -m r1jax.run --config=configs/r1_mini/pipeline.py --workdir=runs/r1)
          --stages=NAME,... runs some stages alone; what is done is skipped, what was interrupted goes on.
Hardware: two CPU cores. Time: 48 minutes beside other jobs (seed 0; experiments/LOG.md has that of every stage).
Expected: all seven claims. Got: five; not that R1 is more helpful than Dev3, and distilling beats RL within the interval only.
Paper:    R1 v2 Fig. 2 (the stages), Table 3 (what each is good at), Sec. 2.3, B.6.2, F.1, Fig. 6 (the claims).

    base ──RL──▶ zero (three seeds; three more with the language reward)
    base ──SFT on rewritten samples of zero──▶ dev1 ──RL──▶ dev2 ──rejection sampling──▶ reasoning + general set
    base ──SFT on that set──▶ dev3 ──RL with reward models in the last quarter──▶ r1   (and r1_long: all the way)
    student bases ──SFT on the same set──▶ distill_qwen, distill_llama;   the Qwen one by RL alone: student_zero

The mini world (`r1jax.tasks.mini.pair_sum`, `mini_general`) is made by rules: sums for reasoning, facts about animals for helpfulness,
misdeeds for safety; a scripted judge compares answers. The stages are those of the full-size recipe (configs/r1), whose
proportions are kept where they fit: general data in the last 16 of 68 updates (400 of 1,700), T = 0.7 in RL stage 2,
reference of the KL refreshed, two epochs of SFT. Sizes, learning rates and numbers of updates are the mini's own.
"""

from typing import Any

from ml_collections import ConfigDict
from parts import (
    ACCURACY,
    FORMAT,
    PAIR_SUM,
    REFLECTION,
    TEXTS,
    ZERO_FORMAT,
    base,
    evaluation,
    language,
    reject,
    reward_model,
    rl,
    rl2,
    sft,
    zero,
)

SEEDS = (0, 1, 2)
NOTE = (
    "A miniature: a model of three million parameters in a world made by rules. Reasoning is `pair_sum`; facts about animals "
    "stand for helpfulness, declined misdeeds for safety; preferences come from a scripted judge that compares true scores. "
    "The stages are those of configs/r1, the figures are not the paper's."
)


def claims() -> list[dict[str, Any]]:
    """The paper's claims, and the stages that they are read from."""
    zeros, with_language = ([f"{{{name}_{number}}}" for number in SEEDS] for name in ("zero", "zero_language"))
    table = {
        "Zero": "{eval_zero_0}",
        "Dev1": "{eval_dev1}",
        "Dev2": "{eval_dev2}",
        "Dev3": "{eval_dev3}",
        "R1": "{eval_r1}",
    }
    return [
        {
            "claim": "pure RL teaches reasoning",
            "paper": "AIME 2024: pass@1 15.6 to 77.9 %, cons@16 86.7 % (R1v2 Sec. 2.3)",
            "kind": "teaches",
            "paths": zeros,
        },
        {
            "claim": "responses lengthen and reflection words rise",
            "paper": "mean length about 500 to 14,200 tokens, reflection words 5 to 7 times as many (R1v2 Fig. 1, C.2)",
            "kind": "lengthens",
            "paths": zeros,
        },
        {
            "claim": "R1-Zero mixes languages; the language reward repairs it at a small cost",
            "paper": "consistency stable with the reward, decaying without; math equal, code slightly lower (R1v2 B.6.2)",
            "kind": "language_repaired",
            "with_paths": with_language,
            "without_paths": zeros,
        },
        {
            "claim": "each stage is good at something else",
            "paper": "Zero, Dev1, Dev2, Dev3, R1: AIME 77.9, 59.0, 74.0, 78.1, 79.8; ArenaHard 53.6, 77.0, 73.2, 75.6, 92.3 "
            "(R1v2 Table 3)",
            "kind": "stage_table",
            "paths": table,
        },
        {
            "claim": "distilling beats RL on the small model",
            "paper": "AIME 2024, Qwen 32B: distilled 72.6, by RL alone 47.0 (R1v2 F.1)",
            "kind": "distils",
            "distilled_paths": ["{eval_distill_qwen}"],
            "rl_paths": ["{eval_student_zero}"],
            "distilled_trained_paths": ["{distill_qwen}"],
            "rl_trained_paths": ["{student_zero}"],
            "task": "pair_sum",
        },
        {
            "claim": "too long on a preference model hacks it",
            "paper": "the model's score rises while Codeforces falls; so 400 of 1,700 updates only (R1v2 Fig. 6)",
            "kind": "exposure_hacks",
            "long_path": "{r1_long}",
            "short_path": "{r1}",
            "model": "rewards/model_helpful/mean",
            "long_evaluated_path": "{eval_r1_long}",
            "short_evaluated_path": "{eval_r1}",
        },
        {
            "claim": "majority voting adds",
            "paper": "R1-Zero on AIME 2024: 77.9 to 86.7 with cons@16 (R1v2 Sec. 2.3)",
            "kind": "votes",
            "path": "{eval_votes}",
            "task": "pair_sum",
        },
    ]


def get_config() -> ConfigDict:
    """All stages, in order."""
    config = ConfigDict({"seed": 0})
    seed = config.get_ref("seed")
    stages: dict[str, Any] = {"base": base(preset="mini_v3", num_updates=1200)}

    # R1-Zero, and its ablation
    for number in SEEDS:
        stages[f"zero_{number}"] = zero(init="{base}") | {"seed": seed + number}
    for number in SEEDS:
        stages[f"zero_language_{number}"] = zero(init="{base}", with_language=True) | {"seed": seed + number}

    # R1
    stages["cold_start"] = reject(
        init="{zero_0}",
        template="plain",
        rewards=[ZERO_FORMAT],
        num_prompts=384,
        keep_per_prompt=2,
        max_new_tokens=112,
        rewrite={"function": "r1jax.tasks.mini.rewrite:rewrite"},
    )
    stages["dev1"] = sft(init="{base}", data="{cold_start}", num_epochs=2, learning_rate=1e-3)
    stages["dev2"] = rl(
        init="{dev1}",
        template="r1",
        rewards=[ACCURACY, FORMAT, language(1.0), REFLECTION],
        num_updates=40,
        max_new_tokens=192,
        row_length=256,
    )
    languages = [{"function": f"r1jax.rewards.filters:{name}"} for name in ("one_language", "short_paragraphs")]
    set_of_dev2 = reject(init="{dev2}", template="r1", rewards=[FORMAT], num_prompts=512, max_new_tokens=192)
    stages["reject"] = set_of_dev2 | {
        "keep_per_prompt": 3,
        "filters": [*set_of_dev2["filters"], *languages, {"function": "r1jax.rewards.filters:no_code_in_thought"}],
        "judge": {"function": "r1jax.tasks.mini.rewrite:judge"},
        "others": [{"function": f"{TEXTS}:conversations", "arguments": {"count": 500}, "domain": "General"}],
    }
    stages["dev3"] = sft(init="{base}", data="{reject}", num_epochs=2, learning_rate=1e-3)
    stages["preferences"] = {
        "stage": "preferences",
        "candidates": {"function": f"{TEXTS}:candidates", "arguments": {"count": 6000}},
        "judge": {"function": f"{TEXTS}:compare_replies"},
        "candidates_per_batch": 2000,
    }
    stages["reward_helpful"] = reward_model(kind="helpful", data={"path": "{preferences}"})
    labels = {"function": f"{TEXTS}:labels", "arguments": {"count": 1000}}
    stages["reward_safety"] = reward_model(kind="safety", data=labels)
    stages["r1"] = rl2(general_from=52, num_updates=68)
    stages["r1_long"] = rl2(general_from=0, num_updates=68)

    # Students: the set of 800k in the paper; and the same student by RL alone
    for student in ("qwen", "llama"):
        stages[f"base_{student}"] = base(preset=f"mini_{student}", num_updates=800)
        stages[f"distill_{student}"] = sft(
            init=f"{{base_{student}}}", data="{reject}", num_epochs=3, learning_rate=1e-3
        )
    stages["student_zero"] = zero(init="{base_qwen}")

    # What came of it
    for name in ("zero_0", "student_zero"):
        stages[f"eval_{name}"] = evaluation(init=f"{{{name}}}", template="plain", max_new_tokens=112)
    for name in ("dev1", "dev2", "dev3", "r1", "r1_long", "distill_qwen", "distill_llama"):
        stages[f"eval_{name}"] = evaluation(init=f"{{{name}}}", with_models=name in ("dev3", "r1", "r1_long"))
    votes = evaluation(init="{zero_0}", template="plain", max_new_tokens=112)
    stages["eval_votes"] = votes | {
        "tasks": [PAIR_SUM],
        "rewards": [ZERO_FORMAT],
        "problems": 128,
        "temperature": 1.0,
        "top_p": None,
    }
    stages["claims"] = {"stage": "claims", "note": NOTE, "claims": claims()}
    config.stages = ConfigDict(stages, sort_keys=False)
    return config
