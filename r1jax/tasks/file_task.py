"""Problem sets from local files as a ``Task``: GSM8K, MATH, AIME, GPQA, HumanEval, Codeforces, ..., or files of any columns.

The split is the one of the files, ``train`` and ``heldout``, or one set at ``path`` is split by a hash of each problem's text:
equal texts are on one side, in every stage and whatever else the file holds. When the task is made, the question of every row
is read once. Dropped from the training problems, with a printed count of each, are rows that cannot be problems (a
Codeforces problem without tests), questions that are held out too, and, where ``decontaminate`` names test sets, questions
that share an n-gram with one of them.

Training problems come in a new order every epoch, decided by the seed alone; held-out problems in the order of the file,
over and over.
"""

import array
import dataclasses
import functools
import itertools
import os
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.rewards.choice import read_letter
from r1jax.specs.tasks import FilesSpec, FilesTaskSpec
from r1jax.tasks.decontaminate import make_index, stamps_of
from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.problem import (
    SPLITS,
    Problem,
    canonical_answer,
    check_index,
    check_task,
    record_fraction,
    split_of,
    stable_hash,
)
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import ENDINGS, Row, Rows, naming, open_source, stamp_of
from r1jax.text.chat import check_template


class FileTask:
    """A problem set in local files.

    Columns of its problems: "task", "row" (where it stands), and what its verifier needs (see ``sources.fields``), or all of
    the row's (see ``sources.user_columns``).

    Attributes:
        name: by default that of the data set, without one that of the file or folder.
        fields: how a row becomes a problem.
        dropped: training row, counted from 0 -> (test set, n-gram) for sharing which it was dropped.
        counts: of both splits, how many rows were kept, and dropped for which reason.
    """

    def __init__(self, spec: FilesTaskSpec):
        """Reads the questions of all rows.

        Raises:
            ValueError: unknown data set, nothing there, a row whose question cannot be read, no problem left in a split; the
                message names the data set or the key, the file, the row and the field.
        """
        self.spec, self.fields = spec, fields_of(spec.dataset)
        self.grader = self.fields.grader  # see rollout.collect.reward_columns
        self.name = spec.name or spec.dataset or _stem(next(iter(spec.sources.values())).path)
        self._space = _label(spec.sources["path"]) if spec.path else ""  # of the split by hash
        self.counts: dict[str, dict[str, int]] = {}
        self.dropped: dict[int, tuple[str, str]] = {}
        self._rows: dict[str, Rows] = {}
        self._kept: dict[str, array.array] = {}
        self._renamed: dict[str, str] = {}
        self._read()
        self._report()

    @property
    def path(self) -> str:
        """The files of all splits."""
        return ", ".join(dict.fromkeys(rows.path for rows in self._rows.values()))

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index``: past the end of the split it begins anew.

        Raises ValueError too for a split without files, or a row whose fields are not as published.
        """
        check_index(index, split)
        if split not in self._rows:
            there = " and ".join(self._rows)
            raise ValueError(f"task {self.name!r} has only {there} problems: give its {split!r} files to get others")
        if self._space:
            record_fraction(self.spec.heldout_fraction, space=self._space)
        epoch, number = divmod(index, len(self._kept[split]))
        if split == "train":
            number = _order(len(self._kept[split]), stable_hash("epoch", self.spec.seed, epoch))[number]
        return self._problem(self._row(self._rows[split], self._kept[split][number]))

    def problems(self, split: str) -> Iterator[Problem]:
        """Every problem of a split once, in the order of the files; ValueError as ``problem``."""
        check_index(0, split)
        for index in self._kept.get(split, ()):
            yield self._problem(self._row(self._rows[split], index))

    def num_problems(self, split: str) -> int:
        """How many different problems a split has; 0 without files."""
        return len(self._kept.get(split, ()))

    def grade(self, answer: str | None, problem: Problem) -> float:
        """What the verifier of the data set says of an answer: 1.0 or 0.0; None and blank text give 0.0."""
        check_task(self.name, problem)
        if answer is None or not answer.strip():
            return 0.0
        return grade_answer(self.grader, answer, problem)

    def canonical(self, answer: str) -> str:
        """A letter for choices, the text for code and instructions, else numbers in their shortest form."""
        if self.grader == "choice":
            return read_letter(answer) or answer.strip()
        return answer.strip() if self.grader in ("code", "instructions") else canonical_answer(answer)

    def _row(self, rows: Rows, index: int, *, fields: Sequence[str] | None = None) -> Row:
        prefix = f"data set {self.spec.dataset!r}" if self.spec.dataset else ""
        with naming(prefix):
            row = rows.row(index, fields=fields)
        return Row(row.values, where=f"{prefix}: {row.where}" if prefix else row.where)

    def _problem(self, row: Row) -> Problem:
        answer, columns = self.fields.target(row)
        columns = {self._renamed.get(name, name): value for name, value in columns.items()}
        prompt = self.fields.prompt if self.spec.prompt is None else self.spec.prompt
        content = prompt.replace("{question}", self.fields.question(row))
        return Problem(
            messages=(*self.fields.history(row), {"role": "user", "content": content}),
            answer=answer,
            columns={"task": self.name, "row": row.where, **columns},
        )

    def _text(self, row: Row) -> str:
        """What makes the problem this problem: all that is said in it but the system's message."""
        before = [message["content"] for message in self.fields.history(row) if message["role"] != "system"]
        return " ".join(" ".join([*before, self.fields.question(row)]).split())

    def _read(self) -> None:
        """Which rows are problems, and of which split: in training none that is held out too, or shares words with a test set."""
        is_compared = self.spec.decontaminate and (self.spec.path or self.spec.train)
        compared = make_index(self.spec.decontaminate, ngram=self.spec.ngram) if is_compared else None
        keys: dict[str, array.array] = {}
        shared: dict[int, tuple[str, str]] = {}
        names: set[str] = set()
        taken: set[str] = set()
        for key, source in self.spec.sources.items():
            rows = open_source(source, what=_what(self.spec, key), csv_header=self.fields.csv_header)
            for split in SPLITS if key == "path" else (key,):
                self._rows[split], self.counts[split] = rows, {"kept": 0}
                self._kept[split], keys[split] = array.array("Q"), array.array("Q")
            for index in range(len(rows)):
                row = self._row(rows, index, fields=self.fields.reads)
                if reason := self.fields.skip(row):
                    counts = self.counts["train" if key == "path" else key]
                    counts[reason] = counts.get(reason, 0) + 1
                    continue
                text, split = self._text(row), key
                if key == "path":
                    split = split_of(text, heldout_fraction=self.spec.heldout_fraction, space=self._space)
                self._kept[split].append(index)
                keys[split].append(stable_hash(text))
                names.update(row.values)
                taken |= self.fields.taken(row)
                if compared is not None and split == "train" and (hit := compared.find(text)):
                    shared[index] = hit
        for name in sorted(taken):
            self._renamed[name] = f"data_{name}"
            while self._renamed[name] in names:
                self._renamed[name] = f"data_{self._renamed[name]}"
        for split, kept in self._kept.items():
            self.counts[split]["kept"] = len(kept)
        if self.spec.train and self.spec.heldout:
            held, pairs = set(keys["heldout"]), zip(self._kept["train"], keys["train"], strict=True)
            self._keep([index for index, key in pairs if key not in held], "held out too")
        if compared is not None:
            self.dropped = {index: shared[index] for index in self._kept["train"] if index in shared}
            kept = [index for index in self._kept["train"] if index not in shared]
            self._keep(kept, f"sharing {self.spec.ngram} words with a test set")
            for index, (test_set, ngram) in itertools.islice(self.dropped.items(), 3):
                self._say(f": row {index + 1} and {test_set} share: {ngram}")

    def _keep(self, kept: Sequence[int], reason: str) -> None:
        self.counts["train"] |= {reason: len(self._kept["train"]) - len(kept), "kept": len(kept)}
        self._kept["train"] = array.array("Q", kept)

    def _report(self) -> None:
        """Says on stderr what the splits are made of. Raises ValueError for one without a problem."""
        by_hash = f"split by a hash of their text with heldout_fraction={self.spec.heldout_fraction}"
        parts = {}
        for split, rows in self._rows.items():
            kept = {"train": "train", "heldout": "held out"}[split] if self.spec.path else "kept"
            named = {kept if reason == "kept" else reason: count for reason, count in self.counts[split].items()}
            parts[split] = ", ".join(f"{count} {reason}" for reason, count in named.items() if count or reason == kept)
            if not self._kept[split]:
                hint = f", {by_hash}: change it, add problems, or give two files as 'train' and 'heldout'"
                raise ValueError(
                    f"task {self.name!r}: no {split} problem is left of {rows.path}: {parts[split]} of {len(rows)} rows"
                    f"{hint if self.spec.path else ''}"
                )
        if self.spec.path:
            self._say(f": {', '.join(parts.values())} of {len(self._rows['train'])} rows, {by_hash}")
        else:
            for split, part in parts.items():
                self._say(f", {split}: {part} of {len(self._rows[split])} rows")
        for old, new in sorted(self._renamed.items()):
            self._say(f": the column {old!r} reaches rewards as {new!r}, since the name is taken")

    def _say(self, text: str) -> None:
        print(f"task {self.name!r}{text}", file=sys.stderr)


def make_file_task(spec: FilesTaskSpec) -> FileTask:
    """The task of a spec; ValueError as ``FileTask``.

    A stage makes its task several times: of an equal spec and files that have not changed the same task is given again.
    """
    fields_of(spec.dataset)  # an unknown name is said before a missing file
    spec = dataclasses.replace(spec, weight=1.0, from_update=0)
    stamps = tuple(stamp_of(source, what=_what(spec, key)) for key, source in spec.sources.items())
    return _file_task(spec, stamps + stamps_of(spec.decontaminate))


@functools.lru_cache(maxsize=8)
def _file_task(spec: FilesTaskSpec, stamps: tuple) -> FileTask:
    return FileTask(spec)


def check_problems(
    task: Any,
    names: Mapping[str, Collection[str]] | None = None,
    *,
    template: str | None = None,
    graded: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Makes every problem of every file task in a task or mixture, lets the verifier read it, and looks for columns.

    Reads the files whole, about a millisecond a problem, once for an equal task and columns. Of other tasks, which make
    their problems, one is looked at.

    Args:
        task: a task or a mixture.
        names: columns that rewards need, by the task's name; "answer" stands for the reference answer.
        template: the chat template that must be able to write every problem's messages; None for any.
        graded: by the task's name the rewards that score by the grade of an answer. Of problems of any columns, some may
            have no answer: their number is said on stderr.

    Raises:
        ValueError: a row that is not as published, that its verifier cannot use or the template cannot write, or that lacks
            one of the columns; names data set, file, row and field or column. A graded reward of a task without any answer.
    """
    names, graded = names or {}, graded or {}
    parts = getattr(task, "tasks", {task.name: task})
    for name, part in parts.items():
        columns = frozenset(names.get(name, ()))
        if isinstance(part, FileTask):
            _check_files(part, columns, template, tuple(graded.get(name, ())))
        else:
            _check_columns(part.problem(0, split="train"), columns)


@functools.lru_cache(maxsize=8)
def _check_files(task: FileTask, columns: frozenset[str], template: str | None, graded: tuple[str, ...]) -> None:
    shapes, count, unanswered = set(), 0, 0
    for problem in itertools.chain.from_iterable(task.problems(split) for split in SPLITS):
        count += 1
        unanswered += not problem.answer.strip()
        _check_columns(problem, columns)
        check_problem(task.grader, problem)
        roles = tuple(message["role"] for message in problem.messages)
        if template is not None and roles not in shapes:
            shapes.add(roles)
            with naming(problem.columns["row"]):
                check_template(template, problem.messages)
    if graded and task.grader == "answer" and unanswered:
        if unanswered == count:
            raise ValueError(
                f"rewards: {graded[0]!r} scores by the grade of the answer, and no row of {task.path} has an answer "
                "('answer', 'ground_truth' or 'solution'): its score would be 0.0 always"
            )
        task._say(f": {unanswered} of {count} problems have no answer; {', '.join(graded)} can only give 0.0 there")


def _check_columns(problem: Problem, columns: Collection[str]) -> None:
    has = problem.columns | ({"answer": problem.answer} if problem.answer else {})
    if missing := sorted(set(columns) - set(has)):
        where = problem.columns.get("row", f"task {problem.columns['task']!r}")
        raise ValueError(f"{where}: a reward needs {', '.join(missing)}; there are {', '.join(has)}")


def _what(spec: FilesTaskSpec, key: str) -> str:
    return f"{key}: data set {spec.dataset!r}" if spec.dataset else key


def _label(source: FilesSpec) -> str:
    """What the files are called, the same by whatever link they are named."""
    path = os.path.realpath(source.path) if os.path.isabs(source.path) else source.path
    return dataclasses.replace(source, path=path).label


def _stem(path: str) -> str:
    """The name of a file or folder without its ending; of a pattern that of its folder."""
    name = Path(path).parent.name if "*" in Path(path).name else Path(path).name
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int) -> array.array:
    """A permutation of ``count`` rows."""
    indices = array.array("Q", range(count))
    random.Random(seed).shuffle(indices)
    return indices
