"""The direction of imports: the table of the design, read from the syntax tree of every file of the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# room or file -> the rooms of r1jax that it may import besides itself; a file's own line comes before its room's.
LOW = {"kernels", "sharding", "processes", "objectives", "text", "rewards", "tasks", "models", "data", "hf", "training"}
LOW |= {"specs", "workdir", "background", "members"}
TOP = {"policies", "stages", "serve", "desk", "launch", "plan", "bench"}
MAY_IMPORT = {
    "background": set(),
    "specs": set(),
    "kernels": {"sharding", "members"},
    "members": set(),
    "sharding": {"members"},
    "processes": set(),
    "objectives": set(),
    "text": {"specs"},
    "rewards": {"specs", "text", "background"},
    "tasks": {"specs", "text", "rewards"},
    "models": {"kernels", "sharding", "members"},
    "data": {"specs", "text", "tasks", "rewards"},
    "hf": {"models", "sharding", "text"},
    "training": {"specs", "sharding", "processes", "members"},
    "workdir": {"specs", "processes"},
    "rollout": {"specs", "models", "kernels", "sharding", "processes", "members"},
    "rollout.records": {"models", "sharding", "processes", "tasks"},  # a Rollout's Group holds its Problem
    "rollout.collect": {
        "background",
        "members",
        "specs",
        "models",
        "sharding",
        "processes",
        "text",
        "tasks",
        "rewards",
    },
    "evals": LOW | {"rollout"},
    **{room: LOW | TOP | {"rollout", "evals"} for room in TOP},
    **{room: LOW | TOP | {"rollout", "evals", "pipeline"} for room in ("plan", "bench")},
    "sweep": {"specs", "workdir", "pipeline"},
    "sweep.grid": {"specs", "workdir", "pipeline", "run"},
    "__main__": set(),
    "report": {"workdir"},
    "pipeline": LOW | TOP,
    "population": LOW | TOP | {"pipeline", "run", "sweep"},
    "run": LOW | TOP | {"rollout", "evals", "report", "pipeline"},
}
WITHOUT_JAX = {"specs", "text", "rewards", "tasks", "report"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
ORACLES = {"torch", "transformers", "trl"}
NOT_FOR_THE_PACKAGE = {"configs", "experiments", "notebooks", "tests"}
READ_CONFIGDICT = {"stages", "plan", "bench", "specs", "pipeline"}

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted((ROOT / "r1jax").rglob("*.py"))
}


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """The absolute names that a file imports, anywhere in it: "jax.numpy", "r1jax.text.chat"."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a file imports that it may not, a sentence each."""
    names = module.removesuffix(".__init__").split(".")[1:]
    if not names:  # r1jax itself
        names = ["__init__"]
    room = names[0]
    allowed = MAY_IMPORT.get(".".join(names[:2]), MAY_IMPORT.get(room, set())) | {room}
    found = []
    for name in imports_of(source, module.removesuffix(".__init__"), is_package=is_package):
        top, _, below = name.partition(".")
        if top == "r1jax" and below.partition(".")[0] not in allowed:
            found.append(f"{module} may not import {name}")
        if top in ORACLES | NOT_FOR_THE_PACKAGE or (top in JAX and room in WITHOUT_JAX):
            found.append(f"{module} may not import {name}")
        if top == "ml_collections" and room not in READ_CONFIGDICT:
            found.append(f"{module} may not import {name}: ConfigDict stops at the stage")
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_only_what_the_table_allows(module):
    path = FILES[module]
    assert violations(path.read_text(), module, is_package=path.name == "__init__.py") == []


def test_every_room_is_in_the_table():
    rooms = {module.split(".")[1] for module in FILES} - {"__init__"}
    assert rooms - set(MAY_IMPORT) == set()


def test_finds_what_is_forbidden():
    cases = {
        "import r1jax.models.moe": ("r1jax.kernels.route.reference", 1),
        "from r1jax import stages": ("r1jax.training.learner", 1),
        "from ..rewards import rubric": ("r1jax.text.chat", 1),
        "from .engine import generate": ("r1jax.rollout.collect", 0),
        "from r1jax.tasks import problem": ("r1jax.rollout.collect", 0),
        "from r1jax.tasks.problem import Problem": ("r1jax.rollout.engine", 1),
        "def f():\n    import jax.numpy as jnp": ("r1jax.rewards.rubric", 1),
        "import transformers": ("r1jax.hf.names", 1),
        "import configs.zero": ("r1jax.stages.rl.stage", 1),
        "from ml_collections import ConfigDict": ("r1jax.models.config", 1),
    }
    for source, (module, count) in cases.items():
        assert len(violations(source, module)) == count, source


def test_rooms_without_jax_do_not_load_it_through_others():
    modules = [module.removesuffix(".__init__") for module in FILES if module.split(".")[1] in WITHOUT_JAX]
    modules = [module for module in modules if not module.endswith("__main__")]
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += f"print(sorted(set(sys.modules) & {JAX | ORACLES}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
