"""Where documents and records come from: files, another stage's work directory, or a function."""

from dataclasses import dataclass
from typing import Any

from r1jax.specs.fields import PathText, option


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
