"""Rejection sampling: the 800k set from Dev2, with conversations of other sources (R1 Sec. B.3.3; spec C.3).

Command:  python -m r1jax.run --config=configs/r1/reject.py --workdir=runs/r1/reject
Reads:    rl1/rl; the problems of recipe.py, data/open.jsonl (prompt, answer), data/{non_reasoning,software}.jsonl (conversations);
          a judge at recipe.ENDPOINT.
Hardware: planned for 256 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: 804,745 conversations of 5,355 tokens on average, of these 177,812 general (R1 Table 5). Got: not run.

Chosen, since the paper says "several" and "wider": 8 samples of 262,144 prompts, at most 4 kept of each; math, code, STEM
and logic in the proportions of Table 5, a tenth of the math being problems with answers that no rule compares ("open"), which
the judge grades. The non-reasoning set (V3's SFT data, software engineering) is not made here: it comes as files.
"""

from ml_collections import ConfigDict
from recipe import (
    ENDPOINT,
    ENGINE,
    REASONING,
    TEST_SETS,
    after,
    data,
    experiment,
    filters,
    reasoning_tasks,
    reward,
    sampling,
)


def get_config() -> ConfigDict:
    """One reject stage; its directory is the data of `sft` and of the students."""
    judged = {"kind": "files", "name": "open", "dataset": "prompts", "train": data("open"), "weight": 40.0}
    tasks = reasoning_tasks(math=355.0, code=211.0, stem=10.0, logic=10.0)
    readable = ("well_formed", "not_repetitive", "one_language", "language_of_question")
    of_r1 = ("short_paragraphs", "no_code_in_thought")
    samples = sampling(
        after("rl1", "rl"),
        tasks=[*tasks, judged | {"decontaminate": TEST_SETS}],
        rewards=[reward("accuracy:accuracy_reward", "accuracy", tasks=REASONING)],
        template="r1",
        num_prompts=262_144,
        prompts_per_batch=8192,
        engine=ENGINE | {"slots": 4096, "cache_gb": 40.0, "segment": 256, "drafts": "mtp"},
        samples_per_prompt=8,
        keep_per_prompt=4,
        filters=filters("finished", "correct", *readable, *of_r1, correct={"tasks": REASONING}),
        judge={"function": "r1jax.rewards.judge:by_model", "tasks": ["open"], "chat": ENDPOINT},
        others=[data("non_reasoning") | {"domain": "General"}, data("software") | {"domain": "Code"}],
        domains={"math": "Math", "open": "Math", "code": "Code", "stem": "STEM", "logic": "Logic"},
    )
    return experiment(reject=samples)
