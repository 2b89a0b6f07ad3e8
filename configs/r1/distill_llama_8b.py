"""R1-Distill-Llama-8B: SFT of Llama-3.1-8B on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_llama_8b.py --workdir=runs/r1/distill_llama_8b
Reads:    reject/reject; models/llama3_1_8b.
Hardware: planned for 16 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: AIME 2024 pass@1 50.4, cons@64 80.0; MATH-500 89.1 (spec D.4). Got: not run.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    return distill("llama3_1_8b", learning_rate=5e-5, mesh={"fsdp": 16})
