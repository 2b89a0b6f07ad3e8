"""R1-Distill-Qwen-14B: SFT of Qwen2.5-14B on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_qwen_14b.py --workdir=runs/r1/distill_qwen_14b
Reads:    reject/reject; models/qwen2_5_14b.
Hardware: planned for 16 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: AIME 2024 pass@1 69.7, cons@64 80.0; MATH-500 93.9 (spec D.4). Got: not run.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    return distill("qwen2_5_14b", learning_rate=7e-5, mesh={"fsdp": 16})
