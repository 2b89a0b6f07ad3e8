"""`r1jax export --from WORKDIR --to DIR [--step latest|best|N] [--dtype ...]`: a stage's model as a Hugging Face folder.

Besides the weights it holds the chat template that the stage trained with, all tokens that end an answer, and how
the paper samples, so that other programs answer as the policy does.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from r1jax.hf import Pretrained, save_pretrained
from r1jax.hf.write import WEIGHT_TYPES
from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.policy import StageInit
from r1jax.specs.reader import FlagText, read
from r1jax.text.chat import with_template
from r1jax.text.tokenizer import Tokenizer
from r1jax.training.checkpoint import CheckpointError
from r1jax.workdir.read import read_json

BAD_INPUT = 2
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
"""How the paper samples (R1 Sec. D.1). Without a "top_k" transformers samples from the 50 likeliest tokens alone."""


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json of a policy."""
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    return {name: value for name, value in ids.items() if value is not None} | SAMPLING


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 and a message without traceback for what the user can mend."""
    parser = argparse.ArgumentParser(prog="r1jax export", description="A stage's model as a Hugging Face folder.")
    parser.add_argument("--from", dest="workdir", type=Path, required=True, help="work directory of a stage")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="new folder")
    steps = "a number of updates, 'latest' or 'best' (by held-out score); without it, the last of a finished stage"
    parser.add_argument("--step", type=FlagText, help=steps)
    parser.add_argument("--dtype", choices=sorted(WEIGHT_TYPES), help="type of the weights; without it, float32")
    options = parser.parse_args(arguments)
    stages = sorted(path.parent for path in options.workdir.glob("*/model.json"))
    try:
        if stages and not (options.workdir / "model.json").exists():
            names = ", ".join(map(str, stages))
            raise ValueError(f"{options.workdir} is the directory of a run; say which stage: {names}")
        init = read(StageInit, {"path": str(options.workdir), "step": options.step})
        policy, params, buffers = load_init(init, mesh=make_mesh(), seed=0)
        template = read_json(options.workdir / "config.json", []).get("template")
        tokenizer = policy.tokenizer if template is None else with_template(policy.tokenizer, template)
        model = Pretrained(policy.model, params, buffers, tokenizer, generation_config(tokenizer))
        save_pretrained(model, options.target, dtype=options.dtype)
    except (ValueError, OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(options.target)
    return 0
