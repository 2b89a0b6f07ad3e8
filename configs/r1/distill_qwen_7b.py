"""R1-Distill-Qwen-7B: SFT of Qwen2.5-Math-7B on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_qwen_7b.py --workdir=runs/r1/distill_qwen_7b
Reads:    reject/reject; models/qwen2_5_math_7b.
Hardware: planned for 16 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: AIME 2024 pass@1 55.5, cons@64 83.3; MATH-500 92.8 (spec D.4). Got: not run.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    return distill("qwen2_5_math_7b", learning_rate=8e-5, mesh={"fsdp": 16})
