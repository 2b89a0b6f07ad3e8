"""What a stage starts from and leaves behind: a model, its tokenizer and its weights.

A stage's work directory holds ``model.json``, ``tokenizer/`` and ``checkpoints/``; the next stage's config names that
directory.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.data.documents import DocumentSource, as_messages
from r1jax.data.records import document_at, open_records
from r1jax.hf import load_pretrained
from r1jax.hf.folder import ModelFiles, open_folder
from r1jax.hf.gguf import find_smollm2, open_gguf
from r1jax.models.config import ModelConfig
from r1jax.models.presets import make_preset
from r1jax.models.transformer import Model, make_model
from r1jax.processes import is_first
from r1jax.specs.fields import to_plain
from r1jax.specs.functions import load_function, naming_function
from r1jax.specs.policy import HOW, AnyInit, GgufInit, HuggingFaceInit, RandomInit, SourceSpec, StageInit, TokenizerSpec
from r1jax.specs.reader import SpecError, read, read_some
from r1jax.text.chat import render
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import SPECIAL_TOKENS, train_tokenizer
from r1jax.training.checkpoint import load_checkpoint
from r1jax.workdir.directory import write_json


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its tokenizer; the weights travel apart, as a train state's."""

    model: Model
    tokenizer: Tokenizer

    def save(self, workdir: Path) -> None:
        """Writes model.json and tokenizer/ into a stage's work directory; of several processes the first does."""
        if is_first():
            write_json(workdir / "model.json", dataclasses.asdict(self.model.config))
            self.tokenizer.save(workdir / "tokenizer")


def make_source(spec: SourceSpec, *, seed: int) -> DocumentSource:
    """index -> document: a record, or what the function gives of index and seed. ValueError: it cannot be imported."""
    if (path := spec.path) is not None:
        return lambda index: document_at(index, seed=seed, path=path, split=spec.split, subset=spec.subset)
    function = load_function(str(spec.function))

    def source(index: int) -> Any:
        with naming_function(str(spec.function)):
            return function(index, seed=seed, **spec.arguments)

    return source


def count_documents(spec: SourceSpec) -> int | None:
    """How many documents a source has before it begins anew; None for one without end.

    A function that is finite has an attribute ``count``: a function of its arguments. Raises RecordsMissingError.
    """
    if spec.path is not None:
        return len(open_records(spec.path, split=spec.split, subset=spec.subset))
    count: Callable[..., int] | None = getattr(load_function(str(spec.function)), "count", None)
    with naming_function(str(spec.function)):
        return None if count is None else count(**spec.arguments)


def load_init(init: AnyInit, *, mesh: Mesh, seed: int) -> tuple[Policy, dict, dict]:
    """(policy, params, buffers) on the mesh, from what a stage starts from.

    ValueError names a key of the spec, or a file, that is at fault; FileNotFoundError or CheckpointError what is
    missing.
    """
    if isinstance(init, HuggingFaceInit | GgufInit):
        files = _open(init, compares_copies=True)
        config = dataclasses.asdict(_changed_files(files, init))
        loaded = load_pretrained(files, dtype="float32", mesh=mesh, model=config)
        assert loaded.tokenizer is not None  # _open asks for one
        return Policy(loaded.model, loaded.tokenizer), loaded.params, loaded.buffers
    if isinstance(init, StageInit) and init.step is None and not (Path(init.path) / "DONE").is_file():
        raise FileNotFoundError(
            f"{init.path} is not the work directory of a finished stage: it has no DONE; step='latest' takes its last "
            "checkpoint"
        )
    policy = Policy(make_model(config_of(init, seed=seed)), tokenizer_of(init, seed=seed))
    policy.tokenizer.check_fits(policy.model.config.vocab_size)
    if isinstance(init, RandomInit):
        params, buffers = jax.jit(policy.model.init, out_shardings=_shardings(policy.model, mesh))(jax.random.key(seed))
        return policy, params, buffers
    _, *abstract = abstract_policy(policy.model.config, mesh=mesh)
    state, _ = load_checkpoint(init.path, {"params": abstract[0], "buffers": abstract[1]}, step=init.step, partial=True)
    return policy, state["params"], state["buffers"]


def config_of(init: AnyInit, *, seed: int | None = None) -> ModelConfig:
    """The model that a stage starts from; no weights are read.

    seed: of a tokenizer that is trained, whose size the vocabulary has; None: it is taken to be as large as the spec
    says. ValueError names the key, or what is missing: a folder that is not there needs "preset".
    """
    if isinstance(init, RandomInit):
        size = init.tokenizer.vocab_size if seed is None else trained_tokenizer(init.tokenizer, seed=seed).vocab_size
        return changed_model(make_preset(init.preset, size), init)
    if isinstance(init, StageInit):
        file = Path(init.path) / "model.json"
        if not file.is_file():
            raise ValueError(f"init.path={init.path!r} is no stage's work directory yet: there is no model.json")
        try:
            config = ModelConfig.from_dict(json.loads(file.read_text()))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged, or of another version: {error}") from error
        return changed_model(config, init)
    if isinstance(init, HuggingFaceInit) and init.preset is not None and not Path(init.path).exists():
        return changed_model(dataclasses.replace(make_preset(init.preset), dtype="float32"), init)
    try:
        return _changed_files(_open(init), init)
    except FileNotFoundError as error:
        hint = "; or say with init.preset which model it is" if isinstance(init, HuggingFaceInit) else ""
        raise ValueError(f"init.path: {error}{hint}") from error


def tokenizer_of(init: AnyInit, *, seed: int) -> Tokenizer:
    """The tokenizer of what a stage starts from; no weights are read. Raises as ``load_init`` does."""
    if isinstance(init, RandomInit):
        return trained_tokenizer(init.tokenizer, seed=seed)
    if isinstance(init, StageInit):
        return Tokenizer.load(Path(init.path) / "tokenizer")
    tokenizer = _open(init).tokenizer
    assert tokenizer is not None  # _open asks for one
    return tokenizer


def abstract_policy(config: ModelConfig, *, mesh: Mesh) -> tuple[Model, dict, dict]:
    """(model, params, buffers) of a model as ShapeDtypeStructs on the mesh, for a plan or a check."""
    model = make_model(config)
    shapes, shardings = model.abstract(), _shardings(model, mesh)
    params, buffers = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    return model, params, buffers


def trained_tokenizer(spec: TokenizerSpec, *, seed: int) -> Tokenizer:
    """The tokenizer of a spec; that of an equal one is trained once."""
    return _trained_tokenizer(json.dumps(to_plain(spec), sort_keys=True), seed)


@functools.lru_cache(maxsize=8)
def _trained_tokenizer(text: str, seed: int) -> Tokenizer:
    spec = read(TokenizerSpec, json.loads(text))
    source = make_source(spec.source, seed=seed)
    conversations = (as_messages(source(index)) for index in range(spec.num_texts))
    texts = (render(asked, template=spec.template) + last["content"] for *asked, last in conversations)
    special = spec.special_tokens or SPECIAL_TOKENS
    return train_tokenizer(texts, vocab_size=spec.vocab_size, special_tokens=special)


def changed_model(config: ModelConfig, init: AnyInit) -> ModelConfig:
    """The model with what the spec changes of it. Raises SpecError for a key that there is not, or a wrong type."""
    changes = read_some(ModelConfig, init.model, "init.model")
    if isinstance(init, StageInit) and (fixed := sorted(set(changes) - {*HOW, "dtype"})):
        raise SpecError(
            f"init.model.{fixed[0]} is fixed by the stage that trained it; what can change is {', '.join(HOW)}, dtype"
        )
    return ModelConfig.from_dict(dataclasses.asdict(config) | changes)


_FREE = (
    "dtype", "remat", "init_std", "max_length", "expert_parallel", "expert_capacity", "num_mtp_layers",
    "attention_implementation", "expert_implementation",
)  # fmt: skip
"""Fields that say how a model is computed or began, or what a folder may leave out: a preset's may differ."""


def _open(init: HuggingFaceInit | GgufInit, *, compares_copies: bool = False) -> ModelFiles:
    """The files, of which no weight is read but to compare copies. ValueError where a folder is not of the preset's model."""
    if isinstance(init, GgufInit):
        return open_gguf(find_smollm2() if init.path == "smollm2" else init.path)
    folder = open_folder(init.path, needs_tokenizer=True, compares_copies=compares_copies)
    if init.preset is not None:
        expected, there = (dataclasses.asdict(config) for config in (make_preset(init.preset), folder.config))
        differ = [name for name in expected if name not in _FREE and expected[name] != there[name]]
        if differ:
            fields = ", ".join(f"{name} is {there[name]} and not {expected[name]}" for name in differ)
            raise ValueError(f"init.preset={init.preset!r}: {init.path} is another model: {fields}")
    return folder


def _changed_files(files: ModelFiles, init: HuggingFaceInit | GgufInit) -> ModelConfig:
    """The model of the files with what the spec changes of it. Raises SpecError, naming the key, where weights would not fit."""
    there = dataclasses.replace(files.config, dtype="float32")
    changed = changed_model(there, init)
    shapes = make_model(there).abstract()
    for key in init.model if make_model(changed).abstract() != shapes else ():
        before, after = getattr(there, key), getattr(changed, key)
        with contextlib.suppress(ValueError):  # a model that cannot be, with this change alone
            if make_model(dataclasses.replace(there, **{key: after})).abstract() == shapes:
                continue
        raise SpecError(
            f"init.model.{key}={after!r} does not fit the weights of {init.path}, which have {key}={before!r}"
        )
    return changed


def _shardings(model: Model, mesh: Mesh):
    return jax.tree.map(
        lambda axes, shapes: sharding.tree_shardings(axes, shapes, mesh),
        model.logical_axes(),
        model.abstract(),
        is_leaf=lambda node: isinstance(node, dict),
    )
