"""`python -m r1jax.policies.export --from WORKDIR --to DIR [--dtype ...]`: a finished stage's model as a Hugging Face folder."""

import argparse
import sys
from pathlib import Path

from r1jax.hf import Pretrained, save_pretrained
from r1jax.hf.write import DTYPES
from r1jax.policies.policy import load_policy
from r1jax.sharding import make_mesh
from r1jax.training.checkpoint import CheckpointError


def export(workdir: Path, target: Path, *, dtype: str | None = None) -> None:
    """Writes the latest weights of a finished stage, with its tokenizer, for transformers, vLLM and SGLang.

    dtype: "float32", "bfloat16" or "fp8"; None keeps float32, in which stages train.
    Errors: those of `load_policy` for the work directory, of `save_pretrained` for the target.
    """
    policy, params, buffers = load_policy({"kind": "stage", "path": str(workdir)}, mesh=make_mesh(), seed=0)
    save_pretrained(Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer), target, dtype=dtype)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 and a message without traceback for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m r1jax.policies.export", description="A stage's model as a folder.")
    parser.add_argument("--from", dest="workdir", type=Path, required=True, help="work directory of a finished stage")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="new folder")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="type of the weights; without it, float32")
    options = parser.parse_args(arguments)
    try:
        export(options.workdir, options.target, dtype=options.dtype)
    except (ValueError, OSError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    print(options.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
