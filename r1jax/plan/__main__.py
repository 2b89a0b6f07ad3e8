"""Does a stage fit a pod, and how long would it take? README.md of this room says how to ask.

A model that another experiment trains ("kind": "stage") is looked up in the config file that makes it, in the same
folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging

from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.plan import aot, table
from r1jax.plan.assumed import Assumed
from r1jax.plan.hardware import GIB, Topology, parse_topology
from r1jax.plan.inputs import Models
from r1jax.plan.measured import measure
from r1jax.plan.program import ProgramPlan
from r1jax.plan.programs import WITH_PROGRAMS, StagePrograms, stage_programs
from r1jax.sharding import describe_sharding, make_mesh
from r1jax.specs.config_file import ConfigError, import_from, load_experiment

FITS, DOES_NOT_FIT, BAD_INPUT = 0, 1, 2
"""Exit codes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options, overrides = _parse(arguments)
    if options.local:
        return _measure(options, overrides)
    is_compiled = not (options.analytic or options.show_sharding)
    assumed = Assumed(
        mean_new_tokens=options.mean_tokens, mean_document_tokens=options.mean_tokens,
        length_sigma=options.length_sigma, acceptance=options.acceptance,
    )  # fmt: skip
    file = Path(options.config)
    try:
        topology = parse_topology(options.topology)
        devices = aot.topology_devices(topology) if is_compiled else topology.devices()
        experiment = load_experiment(options.config, overrides)
        models = Models(folder=Path(experiment.file).parent, preset=options.preset)
        specs = {name: spec for name, spec in models.plan(experiment).items() if spec.stage in WITH_PROGRAMS}
        name = options.stage or next(reversed(specs), None)
        if name not in specs:
            there = ", ".join(specs) or "none"
            raise ValueError(f"--stage={name}: the stages of {options.config} with programs are {there}")
        mesh = make_mesh(specs[name].mesh.axes(), devices=devices)
        stage = stage_programs(specs[name], mesh, model_of=models, assumed=assumed, devices=devices)
        if options.show_sharding:
            print(describe_sharding(stage.state))
            return FITS
        only, compiled = (
            [part.strip() for part in names.split(",") if part.strip()] for names in (options.programs, options.compile)
        )
        plans, misfits = plan(stage, topology, only=only, is_compiled=is_compiled, compiled=compiled)
    except (ValueError, OSError, aot.LibtpuError, ConfigError) as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    title = f"{file.stem}, stage {name}, on {topology.name}"
    text = table.plan_table(plans, topology, title=title, stage=stage, assumed=assumed)
    print(text)
    for misfit in misfits:
        print(f"does not fit: {misfit}", file=sys.stderr)
    if options.out:
        where = topology.name.replace(":", "_").replace("*", "_slices_")
        written = options.out / (options.name or f"{file.stem}_{name}_{where}")
        options.out.mkdir(parents=True, exist_ok=True)
        verdict = "\n".join(f"- does not fit: {misfit}" for misfit in misfits) or "Everything fits."
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["r1jax", "plan", *(part for part in given if not part.startswith("--out"))])
        Path(f"{written}.md").write_text(f"{text.rstrip()}\n\nCommand: `{command}`\n\n{verdict}\n")
        rows = [dataclasses.asdict(row) | {"total_bytes": row.total_bytes} for row in plans]
        record = {"jax": jax.__version__, "programs": rows, "misfits": misfits}
        Path(f"{written}.json").write_text(json.dumps(record, indent=1) + "\n")
    return DOES_NOT_FIT if misfits else FITS


def _measure(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """A few updates here, and what they say."""
    use_compilation_cache()
    keep_freed_memory()
    logging.set_verbosity(logging.WARNING)
    try:
        experiment = load_experiment(options.config, overrides)
        for folder in (Path.cwd(), Path(experiment.file).resolve().parent):
            import_from(folder)
        print("three updates on this machine ...", file=sys.stderr, flush=True)
        name, measured = measure(experiment, options.stage)
    except Exception as error:
        is_ours = type(error).__module__.startswith("r1jax.") or isinstance(error, ValueError | OSError)
        if options.traceback or not is_ours:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join([f"{options.config}, stage {name}, on this machine", *measured.lines()]))
    return FITS


def plan(
    stage: StagePrograms, topology: Topology, *, only: Sequence[str], is_compiled: bool, compiled: Sequence[str] = ()
) -> tuple[list[ProgramPlan], list[str]]:
    """(the plan of each program, a line for each that does not fit). One program under two names is compiled once.

    only: names of programs, all by default. compiled: names of those that are compiled, all by default, the others are
    counted. Raises ValueError for one that is unknown.
    """
    programs = {program.name: program for program in stage.programs}
    for option, names in ("--programs", only), ("--compile", compiled):
        if unknown := [name for name in names if name not in programs]:
            raise ValueError(f"{option}: there is no program {unknown[0]!r}; there are {', '.join(programs)}")
    plans, misfits, found = [], [], {}
    for name, program in programs.items():
        if only and name not in only:
            continue
        row = program.count(program, stage.model)
        leaves, structure = jax.tree.flatten(program.arguments)
        key = (program.function, structure, *leaves, *program.static.items())
        try:
            is_wanted = name in compiled or not compiled
            if is_compiled and is_wanted and not program.is_counted and key not in found:
                print(f"compiling {name} ...", file=sys.stderr, flush=True)
                found[key] = aot.compile_program(program, topology)
            row = dataclasses.replace(row, **found.get(key, {}))
            misfits += table.misfits([row], topology)
        except aot.DoesNotFitError as error:
            misfits.append(f"{error}; its row is by count: {row.total_bytes / GIB:.2f} GiB")
        plans.append(row)
    return plans, misfits


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="r1jax plan",
        description="Compiles a stage for a pod that is not here: memory, collectives, modelled time. Or times it here: --local.",
        epilog="--config.a.b=value changes a value of the config, as in r1jax run",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="the experiment")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", metavar="v5p:8x8x16", help="chips; v5p:8x8x8*4 is four slices")
    where.add_argument("--local", action="store_true", help="run a few updates on this machine: memory and time")
    parser.add_argument("--stage", help="a stage of the config, the last by default")
    parser.add_argument("--analytic", action="store_true", help="count, in seconds; libtpu is not needed")
    parser.add_argument("--show-sharding", action="store_true", help="show the layout of the train state on the mesh")
    parser.add_argument("--programs", default="", metavar="A,B", help="these programs only")
    parser.add_argument("--compile", default="", metavar="A,B", help="compile these programs only, count the others")
    parser.add_argument("--mean-tokens", type=int, default=Assumed().mean_new_tokens, help="of a response, assumed")
    parser.add_argument("--length-sigma", type=float, default=Assumed().length_sigma, help="of log lengths, assumed")
    parser.add_argument("--acceptance", type=float, help="of a draft, assumed")
    parser.add_argument("--preset", help="the model, where the config starts from another stage's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the table there, as .md and .json")
    parser.add_argument("--name", help="of those two files")
    parser.add_argument("--traceback", action="store_true", help="on bad input show where it was raised")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
