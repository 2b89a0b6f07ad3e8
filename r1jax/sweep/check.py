"""From the settings of a trial to the flags of its run, tried as `r1jax run` tries them before anything is computed."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

from r1jax.pipeline import check_stages, plan_stages
from r1jax.specs.config_file import ConfigError, Experiment, import_from, load_experiment, with_flags
from r1jax.specs.fields import to_plain
from r1jax.sweep.space import Settings, flags_of
from r1jax.sweep.trials import Trial


def prepare(config: str | Experiment, constant: Sequence[str], number: int, settings: Settings, folder: Path) -> Trial:
    """The trial with these settings. config: a file, or what was made of one. constant: flags of every trial.

    The stages before the last that the settings change may be the same in others, so they get a directory that a digest
    names, as a config file can ask for with the key `workdir`. Seeds alone leave the trial its last stage only.

    Raises ConfigError for what `plan_stages` refuses.
    """
    flags = [*constant, *flags_of(settings)]
    seed = flags_of({key: text for key, text in settings.items() if key == "seed"})
    before = _changed(config, [*constant, *seed]).stages
    stages = _changed(config, flags).stages
    names = list(stages)
    changed = [name for name in names if stages[name] != before[name]]
    for name in names[: names.index(changed[-1] if changed else names[-1])]:
        if "workdir" not in stages[name]:
            flags.append(f"--config.stages.{name}.workdir={{workdir}}/../{name}-{{hash}}")
    planned = plan_stages(_changed(config, flags), folder)
    directories = tuple((stage.name, stage.workdir) for stage in planned)
    return Trial(
        number, folder, (f"--config={config if isinstance(config, str) else config.file}", *flags), directories
    )


def _changed(config: str | Experiment, flags: Sequence[str]) -> Experiment:
    return load_experiment(config, flags) if isinstance(config, str) else with_flags(config, flags)


def refuse_equal(config: str | Experiment, constant: Sequence[str], grid: Sequence[Settings]) -> None:
    """Raises ConfigError for settings that the config cannot take, and for two that make the same run."""
    seen: dict[str, Settings] = {}
    for settings in grid:
        experiment = _changed(config, [*constant, *flags_of(settings)])
        planned = plan_stages(experiment, Path("trial"))
        text = json.dumps([to_plain(stage.written) for stage in planned])
        if text in seen:
            first, second = (", ".join(f"{key}={value}" for key, value in s.items()) for s in (seen[text], settings))
            raise ConfigError(f"two trials would be the same run: {first}; and {second}")
        seen[text] = settings


def check_trials(trials: Sequence[tuple[Trial, bool]]) -> None:
    """Tries what can be tried of (trial, whether it was finished) before they run. Raises ConfigError, or an error of
    `check_stages`.

    In a process of its own, which ends: JAX takes the devices that it looks at, and the trials need them.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        if (error := pool.submit(_first_mistake, trials).result()) is not None:
            raise ConfigError(error)


def _first_mistake(trials: Sequence[tuple[Trial, bool]]) -> str | None:
    """What the first trial that cannot run is refused for."""
    for trial, is_finished in trials:
        config, *flags = trial.flags
        file = config.removeprefix("--config=")
        for folder in (Path.cwd(), Path(file.partition(":")[0]).resolve().parent):
            import_from(folder)
        try:
            _, to_run = check_stages(load_experiment(file, flags), trial.folder)
        except Exception as error:
            if type(error).__module__.startswith("r1jax.") or isinstance(error, ValueError | OSError):
                return str(error) or type(error).__name__
            raise
        if is_finished and to_run:
            names = ", ".join(stage.name for stage in to_run)
            return f"{trial.folder} is finished, and now would have to go on ({names}); choose another --workdir"
    return None
