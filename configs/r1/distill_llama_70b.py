"""R1-Distill-Llama-70B: SFT of Llama-3.3-70B-Instruct on the 800k set (R1 Sec. B.4.3, Table 6; spec C.6).

Command:  python -m r1jax.run --config=configs/r1/distill_llama_70b.py --workdir=runs/r1/distill_llama_70b
Reads:    reject/reject; models/llama3_3_70b.
Hardware: planned for 256 TPU v6e chips (experiments/plan); never run.
Expected: AIME 2024 pass@1 70.0, cons@64 86.7; MATH-500 94.5 (spec D.4). Got: not run.
"""

from ml_collections import ConfigDict
from recipe import distill


def get_config() -> ConfigDict:
    """One supervised stage."""
    mesh = {"fsdp": 8, "tensor": 2, "sequence": 16}
    return distill("llama3_3_70b", learning_rate=2e-5, mesh=mesh, rows_per_microbatch=8)
