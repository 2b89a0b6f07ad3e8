"""What a suite is: a benchmark's source, prompt, way of reading the answer, metric and protocol; its problems and scores.

A completion is judged by its summary alone, what follows the thought (R1 Sec. D.1). What was cut off at the length
limit has no answer. A verifier that fails raises ``GradingError``: it is never a score.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from r1jax.evals.statistics import mg_pass_at_k, pass_at_k, sampling_interval, with_interval
from r1jax.specs.tasks import FilesSpec, FilesTaskSpec
from r1jax.tasks.file_task import make_file_task
from r1jax.tasks.grading import grade_answer
from r1jax.tasks.problem import Problem, stable_hash
from r1jax.tasks.sources.rows import ENDINGS, data_files, open_rows
from r1jax.text.response import summary_of

Scores = Mapping[str, float]
"""The metrics of one answer by name; the suite's own is first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How completions are sampled (R1 Sec. D.1). Temperature 0 is greedy decoding."""

    samples: int  # of each problem
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32_768


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark as the paper reports it."""

    name: str
    title: str  # as the paper's tables call it
    group: Literal["English", "Code", "Math", "Chinese"]
    dataset: str  # the reader of its rows: a name in ``tasks.sources.fields.DATASETS``
    columns: tuple[str, ...]  # as published, those that are read
    prompt: str  # {question} and, with shots, {examples} are replaced
    metric: str  # what the paper's tables call its score
    size: int | None  # problems as published; None where it depends
    published: str  # where
    licence: str
    files: str  # which file is to be put under DATA/<name>
    place: str  # in the paper, and in the reference spec.md of this project
    differs: str  # from the paper, and why
    protocol: Protocol
    read: Callable[[str, Problem], str | None]
    """The answer in a summary; None where there is none."""
    score: Callable[[str, Problem], Scores] | None = None
    """Of a read answer; None: by the grader of the data set."""
    identity: tuple[str, ...] = ()  # the columns that tell rows apart
    shots: int = 0  # solved examples before the question
    split: str = "test"  # of a folder that holds several

    def problems(
        self, data: str | Path, *, dates: tuple[str, str] | None = None, bad_rows: Literal["drop", "refuse"] = "refuse"
    ) -> list[Problem]:
        """All problems, from the file or folder DATA/<name> (with shots, the examples' from DATA/<name>_train).

        Args:
            dates: (first, last), "2024-08-01" and the like, both included: of problems that have a contest's date.

        Raises:
            ValueError: nothing there (says where it is published and which file it is), other columns, no rows, an
                identity that occurs twice, a row that cannot be judged (with "drop" it is left out, and said), no
                problem left, dates for a suite without.
        """
        path = self._path(data, self.name)
        spec = FilesTaskSpec(
            dataset=self.dataset, heldout=self._files(path), prompt="{question}", bad_rows=bad_rows, name=self.name
        )
        self._check_identities(spec)
        found = list(make_file_task(spec).problems("heldout"))
        if dates is not None:
            if not all("contest_date" in problem.columns for problem in found):
                raise ValueError(f"suite {self.name!r}: dates are for problems with a contest_date")
            first, last = dates
            found = [problem for problem in found if first <= problem.columns["contest_date"][:10] <= last]
            if not found:
                raise ValueError(f"suite {self.name!r}: no problem of {path} lies between {first} and {last}")
        examples = self._examples(data) if self.shots else []
        return [self._asked(problem, examples) for problem in found]

    def judge(self, completion: str, problem: Problem, *, prompt: str = "", stop_reason: str = "stop") -> Scores:
        """The metrics of a completion; all 0.0 where it has no answer.

        Args:
            prompt: the rendered prompt; one that ends with ``<think>`` has opened the thought.
            stop_reason: "length" for what was cut off.

        Raises:
            GradingError: the verifier failed.
        """
        answer = self.answer(completion, problem, prompt=prompt, stop_reason=stop_reason)
        if self.score is not None:
            scores = self.score(answer or "", problem)
            return scores if answer is not None else dict.fromkeys(scores, 0.0)
        return {self.metric: 0.0 if answer is None else grade_answer(self._grader, answer, problem)}

    def answer(self, completion: str, problem: Problem, *, prompt: str = "", stop_reason: str = "stop") -> str | None:
        """The answer that ``judge`` scores."""
        summary = None if stop_reason == "length" else summary_of(completion, prompt=prompt)
        return self.read(summary, problem) if summary else None

    @property
    def _grader(self) -> str:
        from r1jax.tasks.sources.fields import DATASETS

        return DATASETS[self.dataset].grader

    def _path(self, data: str | Path, name: str) -> Path:
        folder = Path(data)
        found = [path for path in (folder / name, *(folder / f"{name}{end}" for end in ENDINGS)) if path.exists()]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"suite {self.name!r}: {folder} has {', '.join(path.name for path in found)}; keep one")
        raise ValueError(
            f"suite {self.name!r}: neither the folder {folder / name} nor {name}.jsonl, .csv, .parquet, ... is there; "
            f"it is published at {self.published} ({self.licence}): {self.files}"
        )

    def _files(self, path: Path) -> FilesSpec:
        if path.is_file():
            return FilesSpec(path=str(path))
        try:
            data_files(path, subset="*")
            return FilesSpec(path=str(path), subset="*")
        except ValueError:  # several splits, or none
            return FilesSpec(path=str(path), split=self.split, subset="*")

    def _check_identities(self, spec: FilesTaskSpec) -> None:
        """Raises ValueError for two rows with one identity."""
        if not self.identity:
            return
        seen: dict[tuple[str, ...], str] = {}
        rows = open_rows(**spec.sources["heldout"].location)
        for index in range(len(rows)):
            row = rows.row(index)
            identity = tuple(str(row.get(name)) for name in self.identity if row.get(name) is not None)
            if identity and (before := seen.setdefault(identity, row.where)) != row.where:
                which = ", ".join(f"{name}={value}" for name, value in zip(self.identity, identity, strict=False))
                raise ValueError(f"suite {self.name!r}: {row.where} has the identity of {before}: {which}")

    def _examples(self, data: str | Path) -> list[Problem]:
        path = self._path(data, f"{self.name}_train")
        files = dataclasses.replace(self._files(path), split="train" if path.is_dir() else None)
        spec = FilesTaskSpec(dataset=self.dataset, heldout=files, prompt="{question}", bad_rows="drop", name=self.name)
        found = list(make_file_task(spec).problems("heldout"))
        if len(found) < self.shots:
            raise ValueError(f"suite {self.name!r}: {path} has {len(found)} examples, {self.shots} are needed")
        return found

    def _asked(self, problem: Problem, examples: Sequence[Problem]) -> Problem:
        """The problem in the suite's words. Which examples it has, its own question alone decides."""
        ranked = sorted(examples, key=lambda example: stable_hash("shots", problem.question, example.question))
        shown = "\n\n".join(f"{example.question}\nAnswer: {example.answer}" for example in ranked[: self.shots])
        text = self.prompt.replace("{examples}", shown).replace("{question}", problem.question)
        return dataclasses.replace(problem, messages=(*problem.messages[:-1], {"role": "user", "content": text}))


def summarise_scores(suite: Suite, scores: Sequence[Sequence[Scores]]) -> dict[str, float]:
    """The metrics of a suite: means over the samples of a problem, then over problems.

    Args:
        scores: of each problem, of each of its samples; all problems have as many.

    Returns each metric with the limits of its 95 % interval over problems as "<name>_low" and "<name>_high". Where
    every score is 0 or 1 and there are k > 1 samples, also "<metric>_sampling_low" and "_high" (new samples of the same
    problems), "pass@<k>", and "mg_pass@<k>" (how steadily problems are solved). Raises ValueError for no scores, or
    problems with different numbers of samples.
    """
    sizes = {len(of_problem) for of_problem in scores}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"suite {suite.name!r}: problems need one number of samples above 0, got {sorted(sizes)}")
    (k,) = sizes
    metrics: dict[str, float] = {}
    for name in scores[0][0]:
        values = [[sample[name] for sample in of_problem] for of_problem in scores]
        metrics |= with_interval(name, [float(np.mean(of_problem)) for of_problem in values])
    name = next(iter(scores[0][0]))
    values = np.array([[sample[name] for sample in of_problem] for of_problem in scores])
    if k > 1 and np.isin(values, (0.0, 1.0)).all():
        right = values.sum(1).astype(int).tolist()
        low, high = sampling_interval([k] * len(right), right)
        metrics |= {f"{name}_sampling_low": low, f"{name}_sampling_high": high}
        metrics[f"pass@{k}"] = float(np.mean([pass_at_k(k, count, k) for count in right]))
        metrics[f"mg_pass@{k}"] = float(np.mean([mg_pass_at_k(k, count, k) for count in right]))
    return metrics
