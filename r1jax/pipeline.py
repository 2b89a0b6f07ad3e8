"""The stages of an experiment: which directory each has, what their placeholders stand for, which of them are to run.

All of them are tried here before the first one computes; `r1jax.run` runs them and says what a config is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from r1jax.hf.folder import open_folder
from r1jax.plan.programs import WITH_PROGRAMS, stage_programs
from r1jax.plan.room import check_room
from r1jax.policies.preview import Previews
from r1jax.processes import is_first
from r1jax.sharding import make_mesh
from r1jax.specs.config_file import ConfigError, Experiment
from r1jax.specs.fields import leaves, specs_in, to_plain, types_of
from r1jax.specs.policy import HuggingFaceInit, StageInit
from r1jax.specs.reader import SpecError, read
from r1jax.specs.rewards import ModelReward
from r1jax.specs.stages import STAGES
from r1jax.training.checkpoint import checkpoint_steps
from r1jax.workdir.directory import (
    WorkdirError,
    changed_code,
    check_same_config,
    check_workdir,
    code_digests,
    from_here,
    holds_results,
    inside_to_here,
    open_workdir,
    read_summary,
    to_here,
)
from r1jax.workdir.lineage import check_lineage
from r1jax.workdir.loggers import check_loggers
from r1jax.workdir.read import read_json

_LENGTH = ("num_updates", "num_epochs")
"""How long a stage learns is part of its digest, though a run may be made longer."""
_RESERVED = ("workdir", "here", "hash")
_FIELD = re.compile(r"(\w+)[\w.\[\]]*")
_PATH_KEY = re.compile(r"(.*[._])?(path|paths(\[\d+\]|\.[^.]+)?)")
"""Keys whose texts are paths: a "{" at their start is always meant as a placeholder."""


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """One stage of a run, ready to start."""

    name: str  # key in config.stages
    module: ModuleType  # r1jax.stages.<stage>, which has main(spec, workdir) and check(spec, previews)
    workdir: Path  # its own work directory
    spec: Any  # with absolute paths
    written: Any  # the same as config.json holds it: paths of other stages relative to the directory
    changed_code: tuple[str, ...]  # what the spec names whose source has changed since the directory's latest start


def make_stages(
    experiment: Experiment, workdir: Path, *, only: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> list[PlannedStage]:
    """The stages to run, in order, when all that can be tried before they run has been, their directories too.

    only, skip: names of the stages that are chosen, all by default, and that are not.

    Raises what `check_stages` raises, and WorkdirError if a stage's directory cannot be written or is in use.
    """
    chosen, to_run = check_stages(experiment, workdir, only=only, skip=skip)
    for stage in to_run:
        with open_workdir(stage.workdir, stage.written):
            pass
    return chosen


def check_stages(
    experiment: Experiment, workdir: Path, *, only: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> tuple[list[PlannedStage], list[PlannedStage]]:
    """(the chosen stages, those of them that are not done): tried as `make_stages` does, but nothing is written.

    Raises what `plan_stages` raises; ConfigError for a name that is unknown, nothing chosen, what a stage's `check`
    objects to, a mesh that does not fit the model or the batch, or an input that was not made or by another config;
    WorkdirError if a stage's directory holds a run of another config.
    """
    planned = plan_stages(experiment, workdir)
    chosen = chosen_stages(planned, only, skip)
    to_run = [stage for stage in chosen if read_summary(stage.workdir, stage.spec) is None]
    for stage in chosen:
        before = planned[: planned.index(stage)]
        if stage not in to_run:
            _warn_of_stale(stage, [other for other in before if other in to_run])
            continue
        _check_inputs(stage, [other for other in before if other not in chosen])
        previews = Previews({str(other.workdir): other.spec for other in before})
        with _naming(experiment, stage.name):
            _check_models(stage, planned)
            check_loggers(getattr(stage.spec, "loggers", ()))
            stage.module.check(stage.spec, previews)
            _check_kernels(stage)
            _trace(stage.spec, previews)
            _check_room(stage.spec, previews)
    for stage in to_run:
        check_workdir(stage.workdir, stage.spec)
        check_lineage(stage.workdir, stage.spec)
        _check_inputs_stay(stage, to_run[: to_run.index(stage)])
    return chosen, to_run


def chosen_stages(
    planned: Sequence[PlannedStage], only: Sequence[str] | None, skip: Sequence[str]
) -> list[PlannedStage]:
    """What --stages and --skip leave, in order. Raises ConfigError for a name that is unknown, or none left."""
    names = [stage.name for stage in planned]
    for flag, given in (("--stages", only or ()), ("--skip", skip)):
        if unknown := [name for name in given if name not in names]:
            raise ConfigError(f"{flag}: there is no stage {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [stage for stage in planned if (only is None or stage.name in only) and stage.name not in skip]
    if not chosen:
        raise ConfigError(f"--stages and --skip leave none of the stages {', '.join(names)}")
    return chosen


def plan_stages(experiment: Experiment, workdir: Path) -> list[PlannedStage]:
    """All stages of an experiment in order, each with its module, its directory and its spec.

    Raises ConfigError for a stage or placeholder that is unknown, or a mistake in a spec; the message names the file.
    """
    directories = {"workdir": Path(os.path.abspath(workdir))}
    planned = []
    for name, values in experiment.stages.items():
        kind = values.get("stage")
        try:
            if name in _RESERVED or name in directories:
                raise ConfigError(f"stages.{name}: the name {name!r} is taken by a placeholder")
            if not isinstance(kind, str) or kind not in STAGES:
                raise ConfigError(f"stages.{name}.stage={kind!r} must be one of {', '.join(STAGES)}")
            path, written = _locate(name, {"seed": experiment.seed} | values, directories)
            spec = read(STAGES[kind], from_here(to_plain(written), path), f"stages.{name}")
            shared = [other for other, folder in directories.items() if folder == path and other != "workdir"]
            if shared:
                raise ConfigError(f"stages.{name}.workdir: {path} is the directory of the stage {shared[0]!r}")
        except (SpecError, ConfigError) as error:
            raise ConfigError(f"{experiment.file}: {error}") from error
        directories[name] = path
        module = importlib.import_module(f"r1jax.stages.{kind}")
        planned.append(PlannedStage(name, module, path, spec, written, tuple(changed_code(path, spec))))
    return planned


@contextlib.contextmanager
def _naming(experiment: Experiment, name: str) -> Iterator[None]:
    """What a stage objects to is said with the file and, where it begins with one, the whole dotted key."""
    try:
        yield
    except Exception as error:
        is_ours = type(error).__module__.startswith("r1jax.") or isinstance(error, ValueError | OSError | TypeError)
        if isinstance(error, ConfigError) or not is_ours:
            raise
        match = _FIELD.match(str(error))
        is_key = match is not None and match[1] in types_of(STAGES[experiment.stages[name]["stage"]])
        raise ConfigError(f"{experiment.file}: stages.{name}{'.' if is_key else ': '}{error}") from error


def _check_inputs(stage: PlannedStage, others: Sequence[PlannedStage]) -> None:
    """Raises ConfigError if what `stage` reads of `others`, which do not run now, is not there or of another config.

    What those read in turn may be gone, but not of another config.
    """
    coming = [stage]
    while coming:
        reader = coming.pop()
        steps = {f"{key}.path": spec.step for key, spec in specs_in(reader.spec) if isinstance(spec, StageInit)}
        for key, source in _inputs(reader, others):
            where = f"stages.{reader.name}.{key}: reads what the stage {source.name!r} makes"
            if (source.workdir / "config.json").exists():
                try:
                    check_same_config(source.workdir, source.spec)
                except WorkdirError as error:
                    raise ConfigError(f"{where}, but {error}") from error
            is_done = steps.get(key) is not None or read_summary(source.workdir, source.spec) is not None
            if reader is stage and not is_done:
                raise ConfigError(
                    f"{where}, which is not done in {source.workdir}: run it before, with --stages={source.name}"
                )
            coming.append(source)


def _check_inputs_stay(stage: PlannedStage, to_run: Sequence[PlannedStage]) -> None:
    """Raises WorkdirError where `stage` has results of what one of `to_run` was before it is made longer."""
    for key, source in _inputs(stage, to_run) if holds_results(stage.workdir) else ():
        if not (source.workdir / "config.json").exists():
            continue
        if longer := check_same_config(source.workdir, source.spec):
            words = ", ".join(f"{name}={before} there, {after} now" for name, (before, after) in longer.items())
            raise WorkdirError(
                f"{stage.workdir} was begun from what {source.name!r} was before it is made longer ({key}: {words}); choose "
                "another work directory"
            )


def _inputs(stage: PlannedStage, others: Sequence[PlannedStage]) -> Iterator[tuple[str, PlannedStage]]:
    """(key, the one of `others` in or below whose directory its path is) of every path of a stage's spec."""
    for key, text, *_ in leaves(stage.spec):
        if isinstance(text, str) and text.startswith("/"):
            yield from ((key, other) for other in others if Path(text).is_relative_to(other.workdir))


def _warn_of_stale(stage: PlannedStage, to_run: Sequence[PlannedStage]) -> None:
    """Says so where a stage is done, and what it has read is of a stage that goes on."""
    for key, source in _inputs(stage, to_run) if is_first() else ():
        print(
            f"warning: stages.{stage.name}.{key}: {stage.name!r} is done and stays as it is, with what {source.name!r} was before "
            f"it goes on; remove {stage.workdir} to run it again",
            file=sys.stderr,
            flush=True,
        )


def _check_kernels(stage: PlannedStage) -> None:
    """Raises ValueError for an implementation of a kernel that cannot run on the devices here."""
    for key, spec in specs_in(stage.spec):
        model, here = getattr(spec, "model", None), jax.default_backend()
        for field in ("attention_implementation", "expert_implementation"):
            name = model.get(field, "auto") if isinstance(model, dict) else "auto"
            backend = {"cudnn": "gpu", "pallas_tpu": "tpu"}.get(name, here)
            if backend != here:
                raise ValueError(f"{key}.model.{field}={name!r} needs a {backend.upper()}; the devices here are {here}")


def _check_models(stage: PlannedStage, planned: Sequence[PlannedStage]) -> None:
    """Raises ValueError for a model that `stage` starts from, that no stage before it makes and that is not there."""
    before = planned[: planned.index(stage)]
    for key, spec in specs_in(stage.spec):
        if not isinstance(spec, StageInit | HuggingFaceInit | ModelReward):
            continue
        path = Path(spec.path)
        if isinstance(spec, HuggingFaceInit):
            try:
                open_folder(path, needs_tokenizer=True, compares_copies=False)
            except (ValueError, OSError) as error:
                raise ValueError(f"{key}.path: {error}") from error
            continue
        maker = next((other for other in planned if path == other.workdir), None)
        if maker is not None and maker not in before:
            raise ValueError(f"{key}.path: the stage {maker.name!r} does not run before this one")
        kind = None if maker is None else maker.spec.stage
        if maker is None and (path / "config.json").is_file():
            kind = read_json(path / "config.json", []).get("stage")
        name, steps = path.name if maker is None else maker.name, checkpoint_steps(path)
        if isinstance(spec, ModelReward) and kind not in (None, "reward_model"):
            raise ValueError(f"{key}.path: {path} is of a stage {kind!r}, not of a reward model")
        step = getattr(spec, "step", None)
        is_done = maker is None or read_summary(maker.workdir, maker.spec) is not None
        if step == "best" and kind not in (None, "rl"):
            raise ValueError(f"{key}.step='best': the stage {name!r} has no held-out score")
        if isinstance(step, int) and is_done and step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"{key}.step={step}: {path} has no such checkpoint; there are {there}")
        num_updates = getattr(maker and maker.spec, "num_updates", None)
        if isinstance(step, int) and not is_done and num_updates is not None and step > num_updates:
            raise ValueError(f"{key}.step={step}: the stage {name!r} has {num_updates} updates")
        if maker is None and step is not None and not steps:
            raise ValueError(f"{key}.path: {path} has no checkpoints")
        if maker is None and step is None and not (path / "DONE").exists():
            raise ValueError(f"{key}.path: {path} is not the work directory of a finished stage: it has no DONE")


def _check_room(spec: Any, previews: Previews) -> None:
    """Raises ValueError where the arrays of a stage do not fit the devices here."""
    if spec.stage not in WITH_PROGRAMS:
        return
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is not None:
        check_room(spec, preview.config, make_mesh(spec.mesh.axes()))


def _trace(spec: Any, previews: Previews) -> None:
    """Traces the programs of a stage on a mesh of several devices: what does not divide is said now."""
    if spec.stage not in WITH_PROGRAMS:
        return
    mesh = make_mesh(spec.mesh.axes())
    if mesh.size == 1:
        return

    def model_of(init):
        preview = previews.policy(init, seed=spec.seed)
        if preview is None:
            raise LookupError
        return preview.config

    try:
        programs = stage_programs(spec, mesh, model_of=model_of).programs
    except LookupError:  # an earlier stage makes what the model's tokenizer is trained on
        return
    for program in programs:
        if program.is_counted:
            continue
        with jax.set_mesh(program.mesh):
            try:
                jax.eval_shape(functools.partial(program.function, **program.static), *program.arguments)
            except (ValueError, TypeError) as error:
                raise ValueError(f"mesh={spec.mesh.axes()}: {program.name}: {str(error).splitlines()[0]}") from error


def _locate(name: str, values: dict[str, Any], directories: dict[str, Path]) -> tuple[Path, Any]:
    """A stage's directory, and its spec with every path to another directory, or inside of the run's, written relative to it."""
    values = dict(values)
    where = values.pop("workdir", None) or f"{{workdir}}/{name}"
    if not isinstance(where, str):
        raise ConfigError(f"stages.{name}.workdir={where!r} must be a text")
    where = os.path.expanduser(where)
    known = {"hash": "{hash}"} | {key: str(path) for key, path in directories.items()}
    if "{" in _resolve(where, dict.fromkeys(known, ""), key=f"stages.{name}.workdir").replace("{hash}", ""):
        raise _unknown_placeholder(f"stages.{name}.workdir", where, known)
    path = Path(os.path.abspath(_resolve(where, known, key=f"stages.{name}.workdir")))
    relative = {key: to_here(other, path) for key, other in directories.items()}
    kind = STAGES[values["stage"]]
    spec = read(kind, _resolve(values, relative, key=f"stages.{name}"), f"stages.{name}")
    spec = read(kind, inside_to_here(to_plain(spec), path, root=directories["workdir"]), f"stages.{name}")
    learned = {key: value for key, value, is_how, _ in leaves(spec) if not is_how or key in _LENGTH}
    text = json.dumps({"config": to_plain(learned), "code": code_digests(spec)}, sort_keys=True)
    return Path(str(path).replace("{hash}", hashlib.sha256(text.encode()).hexdigest()[:10])), spec


def _resolve(value: Any, known: Mapping[str, str], *, key: str) -> Any:
    """`value` with the texts "{name}" and "{name}/..." made paths, by `known`.

    Other texts with braces stay, unless they can only be meant as a path: those raise ConfigError naming `key`.
    """
    if isinstance(value, dict):
        return {name: _resolve(child, known, key=f"{key}.{name}") for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve(child, known, key=f"{key}[{index}]") for index, child in enumerate(value)]
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\{(\w+)\}((?:/.*)?)", value, re.DOTALL)
    if match and match[1] in known:
        return type(value)(known[match[1]] + match[2])
    is_path = value.startswith("{") and _PATH_KEY.fullmatch(key)
    if is_path or (match and match[2] and not re.search(r"[{}\s]", match[2])):
        raise _unknown_placeholder(key, value, known)
    return value


def _unknown_placeholder(key: str, value: str, known: Iterable[str]) -> ConfigError:
    names = ", ".join(f"{{{name}}}" for name in known)
    return ConfigError(f"{key}={str(value)!r}: unknown placeholder; known are {names}")
