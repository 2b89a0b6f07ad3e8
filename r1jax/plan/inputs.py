"""Which model a stage starts from, where the weights are still to be made: the config that makes them says.

A policy of the kind "stage" names a work directory. "{base}" is an earlier stage of the same config; "{workdir}/../zero/rl" is
what the stage "rl" of the config file zero.py beside this one leaves.
"""

import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax.specs.config_file import load_config

_OWN = re.compile(r"\{(\w+)\}")
_OTHERS = re.compile(r"\{workdir\}/\.\./(\w+)/(\w+)")


def resolved_stage(config: ConfigDict, name: str, *, file: Path, preset: str | None = None) -> Any:
    """The locked config of stage ``name`` whose policies, reward models' too, are such as a plan can use: specs with a model.

    preset: the model to take for those of other stages, instead of looking it up. Raises ValueError naming the key and the file.
    """
    stages: Any = config.stages
    stage = stages[name].to_dict()
    if "init" in stage:
        stage["init"] = _resolved(stage["init"], config, file=file, preset=preset, where=f"stages.{name}.init")
    for place, spec in enumerate(stage.get("rewards") or ()):
        if spec.get("kind") == "reward_model":
            init = {"kind": "stage", "path": spec["path"]}
            where = f"stages.{name}.rewards[{place}]"
            spec["init"] = _resolved(init, config, file=file, preset=preset, where=where)
    return ConfigDict(stage).lock()


def _resolved(spec: dict[str, Any], config: ConfigDict, *, file: Path, preset: str | None, where: str, seen=()):
    if spec.get("kind") != "stage":
        return spec
    if preset is not None:
        return {"kind": "hf", "path": spec["path"], "preset": preset, "model": {"dtype": "bfloat16", "remat": "full"}}
    path = spec["path"]
    if own := _OWN.fullmatch(path):
        other, stage = config, own[1]
    elif found := _OTHERS.fullmatch(path):
        file, stage = file.parent / f"{found[1]}.py", found[2]
        if not file.is_file():
            raise ValueError(f"{where}.path={path!r}: there is no {file} to look its model up in; say --preset=NAME")
        other = load_config(str(file))
    else:
        return spec  # a directory: if it is there it has a model.json
    stages: Any = other.stages
    if stage not in stages or "init" not in stages[stage]:
        raise ValueError(f"{where}.path={path!r}: {file} has no stage {stage!r} that trains a model; say --preset=NAME")
    if (file, stage) in seen:
        raise ValueError(f"{where}.path={path!r}: the stages' policies come from each other in a circle")
    init = stages[stage].init.to_dict()
    return _resolved(init, other, file=file, preset=None, where=where, seen=(*seen, (file, stage)))
