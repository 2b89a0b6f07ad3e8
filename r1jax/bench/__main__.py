"""``r1jax bench grpo_step | kernels | load | model | population | rollout | sandbox | verifiers``: see the modules of these names."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from r1jax.bench import grpo_step, kernels, load, model, population, rollout, sandbox, verifiers
from r1jax.kernels import hardware
from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="r1jax bench", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("grpo_step", help="tokens/s of generation, log-probs and update of an RL config")
    command.add_argument(
        "--config", dest="config_path", default="configs/zero.py", help="an experiment with an RL stage"
    )
    command.add_argument("--phases", type=int, default=3, help="timed phases, after one that compiles")
    command.add_argument("--prompt-tokens", type=int, help="tokens that every prompt is repeated or cut to")
    command.add_argument("--peers", help="a Python with TRL, for a config of SmolLM2: experiments/peers/README.md")
    command.set_defaults(run=grpo_step.run)
    command = commands.add_parser(
        "kernels", help="kernels: modelled on TPUs; plain XLA against the reference on this CPU"
    )
    command.add_argument("--generations", nargs="+", default=list(hardware.GENERATIONS), choices=hardware.GENERATIONS)
    command.add_argument("--repeats", type=int, default=5)
    command.set_defaults(run=kernels.run)
    command = commands.add_parser("load", help="peak memory of loading a Hugging Face folder of several GB")
    command.add_argument("--layers", type=int, default=15, help="15 make about 3 GB on disk")
    command.set_defaults(run=load.run)
    command = commands.add_parser("model", help="tokens/s of forward and backward, with a peer; cost of an MoE layer")
    command.add_argument("--preset", default="smollm2_135m", help="a dense model of r1jax.models.presets")
    command.add_argument("--batch", type=int, default=8)
    command.add_argument("--length", type=int, default=512)
    command.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--peer", type=Path, help="experiments/peers/transformers_model.py: the same on torch")
    command.set_defaults(run=model.run)
    command = commands.add_parser("population", help="updates of a population against those of its members, in turn")
    command.add_argument(
        "--config", dest="config_path", default="configs/zero.py", help="an experiment with an RL stage"
    )
    command.add_argument("--members", type=int, default=16)
    command.add_argument("--updates", type=int, default=6, help="phases of a turn; the first is not timed")
    command.add_argument("--singles", type=int, default=2, help="members that are run alone too, in each turn")
    command.add_argument("--turns", type=int, default=2)
    command.set_defaults(run=population.run)
    command = commands.add_parser("rollout", help="tokens/s of the sampler, with peers and another checkout's")
    command.add_argument("--parts", nargs="+", default=["fixed", "lengths"], choices=("fixed", "lengths"))
    command.add_argument(
        "--models", nargs="+", default=[rollout.SMOLLM2], help="'smollm2', or a preset: random weights"
    )
    command.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    command.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64], help="of 'fixed'")
    command.add_argument("--prompt-tokens", type=int, default=64)
    command.add_argument("--new-tokens", type=int, default=128, help="of 'fixed'")
    command.add_argument("--requests", type=int, default=256, help="of 'lengths'")
    command.add_argument("--slots", type=int, default=64, help="of 'lengths': sequences at a time")
    command.add_argument("--mean-length", type=int, default=128, help="of 'lengths'")
    command.add_argument("--longest", type=int, default=1024, help="of 'lengths'")
    command.add_argument("--repeats", type=int, default=3, help="timed turns of each, after one to warm up")
    command.add_argument("--engine", type=json.loads, default={}, help="fields of EngineSpec that differ, as JSON")
    command.add_argument("--peers", help="a Python with transformers and openvino-genai: experiments/peers/README.md")
    command.add_argument("--against", nargs="+", default=list(rollout.PEERS), choices=rollout.PEERS, help="which")
    command.add_argument("--before", type=Path, help="a checkout of this repository to compare with")
    command.set_defaults(run=rollout.run)
    command = commands.add_parser("sandbox", help="confined programs: milliseconds alone, programs/s at once")
    command.add_argument("--programs", dest="num_programs", type=int, default=500)
    command.add_argument("--workers", type=int, help="by default one a core")
    command.set_defaults(run=sandbox.run)
    command = commands.add_parser("verifiers", help="false negatives and positives of math verifiers on a corpus")
    command.add_argument("--corpus", default="tests/rewards/corpus/math.jsonl", help="JSON lines")
    command.add_argument(
        "--peer", dest="peers", action="append", default=[], help="module:function with TRL's signature; may repeat"
    )
    command.set_defaults(run=verifiers.run)
    options = vars(parser.parse_args(arguments))
    run = options.pop("run")
    keep_freed_memory()
    use_compilation_cache()
    print(json.dumps(run(**options), indent=2))


if __name__ == "__main__":
    main()
