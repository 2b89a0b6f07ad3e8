"""Cold start: R1-Zero's right and readable answers, rewritten by DeepSeek-V3, and SFT of V3-Base on them: Dev1 (spec C.1).

Command:  python -m r1jax.run --config=configs/r1/cold_start.py --workdir=runs/r1/cold_start
Reads:    zero/rl; models/deepseek_v3_base; the problems of recipe.py; a rewriter at recipe.ENDPOINT.
Hardware: planned for 512 TPU v5p chips, 256 for sampling; never run (recipe.py).
Expected: "thousands" of conversations; Dev1: AIME 2024 0.590, IF-Eval 71.7, ArenaHard 77.0 (spec D.3). Got: not run.

Chosen: 4 samples of 8,192 prompts, one kept of each; a thought with 30 % of a second language is dropped, what has less is
translated by the rewriter, as it is told to; SFT as in stage 3, since the paper gives no values for the cold start (G.18).
The paper's few-shot examples were restyled by people: they belong into options.examples of "rewrite", where none are.
Not there: DeepSeek-V2.5's generated tests for code, and the short answers to simple arithmetic (C.1.6, C.1.7).
"""

from ml_collections import ConfigDict
from recipe import ENDPOINT, after, experiment, filters, pretrained, reasoning_tasks, reward, sampling, supervised


def get_config() -> ConfigDict:
    """Sampling from R1-Zero, then SFT."""
    names = ("finished", "correct", "well_formed", "not_repetitive", "one_language")
    samples = sampling(
        after("zero", "rl"),
        tasks=reasoning_tasks(),
        rewards=[reward("accuracy:accuracy_reward", "accuracy")],
        template="r1_zero",
        num_prompts=8192,
        prompts_per_batch=2048,
        samples_per_prompt=4,
        keep_per_prompt=1,
        filters=filters(*names, one_language={"options": {"minimum_share": 0.3}}),
        rewrite={"function": "r1jax.text.rewrite:rewrite_by_model", "options": {"examples": []}, "chat": ENDPOINT},
    )
    return experiment(reject=samples, supervised=supervised(pretrained("deepseek_v3_base"), "{reject}"))
