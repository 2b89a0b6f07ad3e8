"""What will be there when a stage starts: models and tokenizers of policies that earlier stages of the run have still
to train.

No weights are read or made. A stage's `check` asks here, so that what a model cannot do is said before anything is
computed.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.data.records import RecordsMissingError
from r1jax.models.config import ModelConfig
from r1jax.policies.policy import changed_model, config_of, tokenizer_of
from r1jax.specs.policy import AnyInit, StageInit
from r1jax.specs.reader import SpecError, read
from r1jax.specs.stages import STAGES, StageSpec, SupervisedSpec
from r1jax.text.chat import tokenizer_for
from r1jax.text.tokenizer import Tokenizer
from r1jax.workdir.directory import from_here, read_summary


@dataclasses.dataclass(frozen=True)
class Preview:
    """A policy without its weights."""

    config: ModelConfig
    tokenizer: Tokenizer


class Previews:
    """The stages of a run by their work directories, done or not; those that are not `planned` are read as they are."""

    def __init__(self, planned: Mapping[str, StageSpec] | None = None):
        self._planned = dict(planned or {})
        self.splits: dict[str, dict[str, set[float]]] = {}
        """Work directory -> what the data of its stage ask of the split, kept by ``r1jax.stages.sampling``."""
        self._known: dict[str, Preview | None] = {}

    def stage_at(self, path: str) -> StageSpec | None:
        """The spec of the stage that works at a path, or has worked there; None for what is no stage's directory."""
        if path in self._planned:
            return self._planned[path]
        try:
            config = from_here(json.loads((Path(path) / "config.json").read_text(encoding="utf-8")), Path(path))
            return read(STAGES[config["stage"]], config)
        except (OSError, ValueError, KeyError, TypeError, SpecError):
            return None

    def _is_made(self, path: str) -> bool:
        """Whether a stage's model is there, and is the one that its spec makes."""
        is_there = (Path(path) / "model.json").is_file()
        return is_there and (path not in self._planned or read_summary(Path(path), self._planned[path]) is not None)

    def policy(self, init: AnyInit, *, seed: int) -> Preview | None:
        """The policy of an ``init``; None where it follows from data that an earlier stage has still to make.

        Raises ValueError naming the key or the file that is at fault, FileNotFoundError for what is not there.
        """
        asked = repr((init, seed))
        if asked not in self._known:
            self._known[asked] = self._look_up(init, seed=seed)
        return self._known[asked]

    def _look_up(self, init: AnyInit, *, seed: int) -> Preview | None:
        try:
            if not isinstance(init, StageInit) or self._is_made(init.path):
                return Preview(config_of(init, seed=seed), tokenizer_of(init, seed=seed))
        except RecordsMissingError:
            return None
        before: Any = self.stage_at(init.path)
        if before is None or not hasattr(before, "init"):
            raise ValueError(f"init.path={init.path!r} is no work directory of a stage that trains a model")
        preview = self.policy(before.init, seed=before.seed)
        if preview is None:
            return None
        tokenizer = preview.tokenizer
        if isinstance(before, SupervisedSpec):
            tokenizer = tokenizer_for(tokenizer, before.template)
        return Preview(changed_model(preview.config, init), tokenizer)
