"""Does a stage fit a pod, and how long would it take?

    r1jax plan --config=configs/r1/zero.py --topology=v5p:8x8x16 [--stage=rl] [--analytic] [--show-sharding]
        [--programs=update,decode] [--out=DIR] [--config.a.b=value ...]

Compiles every program of the stage for the topology, without a TPU, and shows what each takes of a device's memory, what it sends
and, *modelled*, how long it runs. --analytic counts the same in seconds, without a compiler. --show-sharding shows how the train
state is laid out on the mesh. A model that another experiment trains ("kind": "stage") is looked up in the config file that makes
it, in the same folder.

Exit codes: 0 it fits, 1 something does not (named, and by how much), 2 bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax.plan import aot, budget, table
from r1jax.plan.hardware import GIB, Topology, parse_topology
from r1jax.plan.inputs import Models
from r1jax.plan.program import Program, ProgramPlan
from r1jax.plan.programs import WITH_PROGRAMS, Assumed, ModelOf, stage_programs
from r1jax.policies.policy import config_of
from r1jax.sharding import describe_sharding, make_mesh
from r1jax.specs.config_file import ConfigError, load_experiment

FITS, DOES_NOT_FIT, BAD_INPUT = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Result:
    """The plan of a stage."""

    text: str
    """Markdown."""
    plans: tuple[ProgramPlan, ...]
    misfits: tuple[str, ...]


def plan(
    spec: Any,
    topology: Topology,
    *,
    title: str,
    assumed: Assumed,
    analytic: bool,
    only: Sequence[str] = (),
    model_of: ModelOf = config_of,
) -> Result:
    """The table of a stage on a topology. ``only``: names of programs, all by default.

    Raises ValueError naming the key of the config, the mesh or the program that is at fault; LibtpuError.
    """
    devices = topology.devices() if analytic else aot.topology_devices(topology)
    stage = stage_programs(spec, make_mesh(spec.mesh.axes(), devices=devices), model_of=model_of, assumed=assumed)
    names = [program.name for program in stage.programs]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"--programs: there is no program {unknown[0]!r}; there are {', '.join(names)}")
    plans, refused, accepted = [], [], []
    compiled: dict[Any, ProgramPlan] = {}
    for program in stage.programs:
        if only and program.name not in only:
            continue
        plans.append(budget.count(program, stage.model, topology))
        try:
            if not analytic:
                plans[-1] = _compiled(program, plans[-1], topology, compiled)
            accepted.append(plans[-1])
        except aot.DoesNotFitError as error:
            refused.append(f"{error}; its row is by count: {plans[-1].total_bytes / GIB:.2f} GiB")
    text = table.plan_table(plans, topology, title=title, stage=stage, assumed=assumed)
    return Result(text, tuple(plans), (*refused, *table.misfits(accepted, topology)))


def _compiled(
    program: Program, counted: ProgramPlan, topology: Topology, compiled: dict[Any, ProgramPlan]
) -> ProgramPlan:
    """The program's plan, compiled; one program under two names is compiled once.

    compiled: earlier plans by function and arguments; this one is added.
    """
    leaves, structure = jax.tree.flatten(program.arguments)
    shapes = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    key = (program.function, structure, shapes, tuple(program.static.items()))
    if key not in compiled:
        print(f"compiling {program.name} ...", file=sys.stderr, flush=True)
        compiled[key] = aot.compile_program(program, counted, topology)
    return dataclasses.replace(
        compiled[key], name=counted.name, calls=counted.calls, resident_bytes=counted.resident_bytes
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options, overrides = _parse(arguments)
    try:
        if not options.analytic and not options.show_sharding:
            aot.check_libtpu()
        topology = parse_topology(options.topology)
        experiment = load_experiment(options.config, overrides)
        models = Models(folder=Path(experiment.file).parent, preset=options.preset)
        specs = models.plan(experiment)
        name = _stage_name(specs, options.stage, file=options.config)
        if options.show_sharding:
            mesh = make_mesh(specs[name].mesh.axes(), devices=topology.devices())
            print(describe_sharding(stage_programs(specs[name], mesh, model_of=models).state))
            return FITS
        assumed = Assumed(mean_new_tokens=options.mean_tokens, mean_document_tokens=options.mean_tokens)
        title = f"{Path(options.config).stem}, stage {name}, on {topology.name}"
        only = [part.strip() for part in options.programs.split(",") if part.strip()]
        result = plan(
            specs[name], topology, title=title, assumed=assumed, analytic=options.analytic, only=only, model_of=models
        )
    except (ValueError, OSError, aot.LibtpuError, ConfigError) as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(result.text)
    for misfit in result.misfits:
        print(f"does not fit: {misfit}", file=sys.stderr)
    if options.out:
        where = topology.name.replace(":", "_").replace("*", "_slices_")
        write(result, options.out, name=options.name or f"{Path(options.config).stem}_{name}_{where}")
    return DOES_NOT_FIT if result.misfits else FITS


def write(result: Result, directory: Path, *, name: str) -> None:
    """The table as NAME.md, its figures as NAME.json."""
    directory.mkdir(parents=True, exist_ok=True)
    verdict = "\n".join(f"- does not fit: {misfit}" for misfit in result.misfits) or "Everything fits."
    (directory / f"{name}.md").write_text(f"{result.text.rstrip()}\n\n{verdict}\n")
    rows = [dataclasses.asdict(plan) | {"total_bytes": plan.total_bytes} for plan in result.plans]
    record = {"jax": jax.__version__, "programs": rows, "misfits": list(result.misfits)}
    (directory / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _stage_name(specs: Mapping[str, Any], wanted: str | None, *, file: str) -> str:
    """The stage that is wanted, or the last one with programs."""
    names = [name for name, spec in specs.items() if spec.stage in WITH_PROGRAMS]
    if wanted is None and names:
        return names[-1]
    if wanted is None or wanted not in names:
        raise ValueError(f"--stage={wanted}: the stages of {file} with programs are {', '.join(names) or 'none'}")
    return wanted


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="r1jax plan",
        description="Compiles a stage for a pod that is not here: memory, collectives, modelled time.",
        epilog="--config.a.b=value changes a value of the config, as in r1jax run",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="the experiment")
    parser.add_argument("--topology", required=True, metavar="v5p:8x8x16", help="chips; v5p:8x8x8*4 is four slices")
    parser.add_argument("--stage", help="a stage of the config, the last by default")
    parser.add_argument("--analytic", action="store_true", help="count, in seconds; libtpu is not needed")
    parser.add_argument("--show-sharding", action="store_true", help="show the layout of the train state on the mesh")
    parser.add_argument("--programs", default="", metavar="A,B", help="these programs only")
    parser.add_argument("--mean-tokens", type=int, default=Assumed().mean_new_tokens, help="of a response, assumed")
    parser.add_argument("--preset", help="the model, where the config starts from another stage's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the table there, as .md and .json")
    parser.add_argument("--name", help="of those two files")
    parser.add_argument("--traceback", action="store_true", help="on bad input show where it was raised")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
