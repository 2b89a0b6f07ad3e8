"""`r1jax export --from WORKDIR --to DIR [--step latest|best|N] [--dtype ...]`: a stage's model as a Hugging Face folder."""

import argparse
import sys
from pathlib import Path

from r1jax.hf import Pretrained, save_pretrained
from r1jax.hf.write import WEIGHT_TYPES
from r1jax.policies.policy import load_policy
from r1jax.sharding import make_mesh
from r1jax.specs.policy import StageInit
from r1jax.specs.reader import SpecError, read
from r1jax.training.checkpoint import CheckpointError

BAD_INPUT = 2


def export(workdir: Path, target: Path, *, step: int | str | None = None, dtype: str | None = None) -> None:
    """Writes a stage's weights, with its tokenizer, to a new folder for transformers, vLLM and SGLang.

    step: which checkpoint, see ``StageInit``; dtype: None keeps float32, in which stages train.

    Errors: those of `load_policy` for the work directory, of `save_pretrained` for the target; ValueError for the directory of
    a run, naming its stages.
    """
    stages = sorted(path.parent for path in Path(workdir).glob("*/model.json"))
    if stages and not (Path(workdir) / "model.json").exists():
        raise ValueError(f"{workdir} is the directory of a run; say which stage: {', '.join(map(str, stages))}")
    init = read(StageInit, {"path": str(workdir), "step": step})
    policy, params, buffers = load_policy(init, mesh=make_mesh(), seed=0)
    save_pretrained(Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer), target, dtype=dtype)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 and a message without traceback for what the user can mend."""
    parser = argparse.ArgumentParser(prog="r1jax export", description="A stage's model as a Hugging Face folder.")
    parser.add_argument("--from", dest="workdir", type=Path, required=True, help="work directory of a stage")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--step",
        help="a number of updates, 'latest' or 'best' (by held-out score); without it, the last of a finished stage",
    )
    parser.add_argument("--dtype", choices=sorted(WEIGHT_TYPES), help="type of the weights; without it, float32")
    options = parser.parse_args(arguments)
    step = int(options.step) if options.step and options.step.isdecimal() else options.step
    try:
        export(options.workdir, options.target, step=step, dtype=options.dtype)
    except (SpecError, ValueError, OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(options.target)
    return 0
