"""The command line: `r1jax run | sweep | report | chat | export | convert | plan | bench`, each with `--help`."""

import importlib
import sys

COMMANDS = {
    "run": ("r1jax.run", "run the stages of a config in a work directory"),
    "report": ("r1jax.report.__main__", "the page of a run, or of several over each other"),
    "chat": ("r1jax.desk.chat", "talk to the policy of a run or a folder"),
    "export": ("r1jax.policies.export", "a stage's model as a Hugging Face folder"),
    "convert": ("r1jax.hf.convert", "a Hugging Face folder or GGUF file in another type"),
    "sweep": ("r1jax.sweep.__main__", "many runs of a config with other settings, by optuna"),
    "plan": ("r1jax.plan.__main__", "does a stage fit a pod, and how long would it take?"),
    "bench": ("r1jax.bench.__main__", "speed of the parts"),
}
BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Hands the arguments after the command's name to it; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: r1jax COMMAND ...\n")
        print("\n".join(f"  {name:8}{what}" for name, (_, what) in COMMANDS.items()))
        return 0 if arguments else BAD_INPUT
    if arguments[0] not in COMMANDS:
        print(f"error: there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    return importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:]) or 0


if __name__ == "__main__":
    sys.exit(main())
