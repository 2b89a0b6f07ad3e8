"""``python -m r1jax.bench grpo_step``: see ``r1jax.bench.grpo_step``."""

import argparse
import json

from r1jax.bench import grpo_step
from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m r1jax.bench", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("grpo_step", help="tokens/s of generation, log-probs and update of an RL config")
    command.add_argument("--config", default="configs/zero.py", help="an experiment with an RL stage")
    command.add_argument("--phases", type=int, default=3, help="timed phases, after one that compiles")
    options = parser.parse_args()
    keep_freed_memory()
    use_compilation_cache()
    print(json.dumps(grpo_step.run(options.config, phases=options.phases), indent=2))


if __name__ == "__main__":
    main()
