"""R1-Distill-Qwen-1.5B: SFT of Qwen2.5-Math-1.5B on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_qwen_1_5b.py --workdir=runs/r1/distill_qwen_1_5b
Reads:    reject/reject; models/qwen2_5_math_1_5b.
Hardware: planned for 8 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: AIME 2024 pass@1 28.9, cons@64 52.7; MATH-500 83.9 (spec D.4). Got: not run.

The released student has a head of its own; this one keeps the base's tied to its embedding.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    return distill("qwen2_5_math_1_5b", learning_rate=1e-4, mesh={"fsdp": 8})
