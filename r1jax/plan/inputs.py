"""Which model a stage starts from, where the weights are still to be made: the config that makes them says.

"{base}" is an earlier stage of the same config; "{workdir}/../zero/rl" is what the stage "rl" of zero.py in the same
folder leaves.
"""

import dataclasses
from pathlib import Path
from typing import Any

from r1jax.models.config import ModelConfig
from r1jax.pipeline import plan_stages
from r1jax.policies.policy import config_of
from r1jax.specs.config_file import Experiment, load_experiment
from r1jax.specs.policy import AnyInit, HuggingFaceInit, StageInit

_ROOT = Path("runs/planned")
"""Where the work directories of the configs would be, each below its file's name."""


@dataclasses.dataclass
class Models:
    """The models of an experiment's policies, those of other experiments' stages among them."""

    folder: Path  # of the config files
    preset: str | None = None  # the model of other stages' policies; None: looked up
    stages: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # by work directory, the specs that were read already

    def plan(self, experiment: Experiment) -> dict[str, Any]:
        """The specs of an experiment's stages by name, as they would be in a work directory of its file's name."""
        workdir = _ROOT / Path(experiment.file).stem
        planned = plan_stages(experiment, workdir)
        self.stages |= {str(stage.workdir): stage.spec for stage in planned}
        return {stage.name: stage.spec for stage in planned}

    def __call__(self, init: AnyInit) -> ModelConfig:
        """The model of an ``init``. Raises ValueError naming the key and the file."""
        if not isinstance(init, StageInit):
            return config_of(init)
        if self.preset is not None:
            fields = {"dtype": "bfloat16", "remat": "full"}
            return config_of(HuggingFaceInit(path=init.path, preset=self.preset, model=fields | init.model))
        path, root = Path(init.path), _ROOT.absolute()
        if init.path not in self.stages and path.is_relative_to(root):
            file = self.folder / f"{path.relative_to(root).parts[0]}.py"
            if not file.is_file():
                raise ValueError(
                    f"init.path: there is no {file} to look the model of {path.name!r} up in; say --preset=NAME"
                )
            self.plan(load_experiment(str(file)))
        if init.path not in self.stages:
            return config_of(init)  # a directory: if it is there it has a model.json
        before = self.stages[init.path]
        if not hasattr(before, "init"):
            raise ValueError(f"init.path: the stage {path.name!r} trains no model; say --preset=NAME")
        return dataclasses.replace(self(before.init), **init.model)
