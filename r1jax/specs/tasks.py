"""Where problems come from."""

from dataclasses import dataclass
from typing import Any, Literal

from r1jax.specs.fields import Count, InnerShare, Natural, PathText, Positive, Seed, option


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What every task of a mixture has."""

    name: str | None = option(None, "Its name in metrics and rewards; None: that of the data set, or of the file.")
    weight: Positive = option(1.0, "How often it is drawn, relative to the other tasks' weights.")
    from_update: Natural = option(0, "Updates after which it joins (R1 Sec. 3.2.2).", unit="updates")


@dataclass(frozen=True, kw_only=True)
class ReasoningGymSpec(TaskSpec):
    """Problems that reasoning-gym generates, with its verifiers."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    dataset: str = option(explanation="The data set's name in reasoning-gym, such as 'chain_sum'.")
    config: dict[str, Any] = option(factory=dict, explanation="The data set's own settings.")
    answer_instruction: str = option("", "A line after the question, such as how the answer is to be given.")
    heldout_fraction: InnerShare = option(0.2, "Share of the questions that is held out, by a hash of their text.")
    seed: Seed = option(0, "Another seed gives other problems.")


@dataclass(frozen=True, kw_only=True)
class MiniSpec(TaskSpec):
    """Problems of the toy world (r1jax.tasks.mini)."""

    kind: Literal["mini"] = "mini"
    name: Literal["pair_sum", "helpful", "safety"] = option(explanation="Which of its tasks.")
    config: dict[str, Any] = option(factory=dict, explanation="The task's own settings, such as {'count': 4}.")


@dataclass(frozen=True, kw_only=True)
class FilesSpec:
    """Files, a pattern or a folder of one split of a data set."""

    path: PathText = option(explanation="A file (jsonl, json, parquet, arrow, csv), a pattern or a folder.")
    split: str | None = option(None, "The split, of a folder that holds several.")
    subset: str | None = option(None, "The subset, of a folder that holds several.")

    @property
    def location(self) -> dict[str, Any]:
        """The fields that say where the files are."""
        return {"path": self.path, "split": self.split, "subset": self.subset}

    @property
    def label(self) -> str:
        """What the files are called."""
        parts = (getattr(self, name, None) for name in ("dataset", "subset", "split", "path"))
        return " ".join(part for part in parts if part is not None)


@dataclass(frozen=True, kw_only=True)
class TestSetSpec(FilesSpec):
    """A test set that no training problem may share words with (R1 Sec. D.1)."""

    dataset: str = option(explanation="The published data set whose fields the files have.")


@dataclass(frozen=True, kw_only=True)
class FilesTaskSpec(TaskSpec):
    """Problems from local files: a published set, or any columns (r1jax.tasks.sources.user_columns)."""

    kind: Literal["files"] = "files"
    dataset: str | None = option(None, "The published data set whose fields the files have; None: any columns.")
    path: PathText | FilesSpec | None = option(None, "The problems, where one set is split into training and held-out.")
    train: PathText | FilesSpec | None = option(None, "The training problems, where the split is one of files.")
    heldout: PathText | FilesSpec | None = option(None, "The held-out problems, where the split is one of files.")
    heldout_fraction: InnerShare = option(0.1, "Of `path`: share that is held out, by a hash of each problem's text.")
    prompt: str | None = option(None, "The wording, with {question} in it; None: the data set's own.")
    bad_rows: Literal["drop", "refuse"] = option(
        "drop", "Rows that cannot be judged: left out, counted and the first ones named, or an error at the first."
    )
    decontaminate: tuple[TestSetSpec, ...] = option((), "Test sets whose n-grams no training problem may have.")
    ngram: Count = option(10, "Words in a row that count as shared with a test set (R1 Sec. D.1).", unit="words")
    seed: Seed = option(0, "Of the order of the training problems.")

    def __post_init__(self):
        if self.path is not None and (self.train is not None or self.heldout is not None):
            raise ValueError("path does not go with train and heldout: leave out path, or train and heldout")
        if self.path is None and self.train is None and self.heldout is None:
            raise ValueError("path, or train and heldout, must say where the files are")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} must have {{question}} in it")

    @property
    def sources(self) -> dict[str, FilesSpec]:
        """The problems' files, by the key that names them."""
        given = {key: getattr(self, key) for key in ("path", "train", "heldout")}
        return {
            key: value if isinstance(value, FilesSpec) else FilesSpec(path=value)
            for key, value in given.items()
            if value is not None
        }


AnyTask = ReasoningGymSpec | MiniSpec | FilesTaskSpec
