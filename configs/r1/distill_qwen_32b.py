"""R1-Distill-Qwen-32B: SFT of Qwen2.5-32B on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_qwen_32b.py --workdir=runs/r1/distill_qwen_32b
Reads:    reject/reject; models/qwen2_5_32b.
Hardware: planned for 32 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: AIME 2024 pass@1 72.6, cons@64 83.3; MATH-500 94.3 (spec D.4). Got: not run.

The paper's comparison: the same base by RL alone (Qwen2.5-32B-Zero) reaches 47.0 on AIME 2024.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    return distill("qwen2_5_32b", learning_rate=6e-5, mesh={"fsdp": 16, "tensor": 2})
