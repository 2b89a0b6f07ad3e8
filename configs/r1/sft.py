"""SFT of V3-Base, not of Dev2, on the 800k set: Dev3 (R1 Sec. B.3.3, B.4.2; spec C.3, C.4).

Command:  python -m r1jax.run --config=configs/r1/sft.py --workdir=runs/r1/sft
Reads:    reject/reject; models/deepseek_v3_base.
Hardware: planned for 512 TPU v5p chips (experiments/plan); never run.
Expected: 25,150 updates; Dev3: AIME 2024 0.781, IF-Eval 78.1, AlpacaEval 62.1 (spec D.3). Got: not run.

Chosen: the rate falls to a tenth, 5e-7, as the paper says, and not to V3's 1e-6 (G.18). The set is the samples of the RL
checkpoint with V3's data, and not "generated with R1" (G.19).
"""

from ml_collections import ConfigDict
from recipe import experiment, made_by, pretrained, supervised


def get_config() -> ConfigDict:
    """One supervised stage."""
    return experiment(supervised=supervised(pretrained("deepseek_v3_base"), made_by("reject", "reject")))
