"""Problem sets from local files as a ``Task``: GSM8K, MATH, AIME, GPQA, HumanEval, Codeforces, ..., or files of any columns.

The split is the one of the files, ``train`` and ``heldout``, or one set at ``path`` is split by a hash of each problem's text:
equal texts are on one side, in every stage and whatever else the file holds. When the task is made, the question of every row
is read once. Dropped from the training problems, with a printed count of each, are rows that cannot be problems (a
Codeforces problem without tests), questions that are held out too, and, where ``decontaminate`` names test sets, questions
that share an n-gram with one of them (for which they are read again).

Training problems come in a new order every epoch, decided by the seed alone; held-out problems in the order of the file,
over and over.
"""

import array
import dataclasses
import functools
import itertools
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.rewards.choice import read_letter
from r1jax.specs.tasks import FilesSpec, FilesTaskSpec
from r1jax.tasks.contamination import label, make_index
from r1jax.tasks.decontaminate import Dropped, decontaminate
from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.problem import (
    SPLITS,
    GradingError,
    Problem,
    canonical_answer,
    check_index,
    record_fraction,
    split_of,
    stable_hash,
)
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import ENDINGS, Row, Rows, open_source, stamp_of
from r1jax.text.chat import check_template


class FileTask:
    """A problem set in local files.

    Columns of its problems: "task", "row" (where it stands), and what its verifier needs (see ``sources.fields``), or all of
    the row's (see ``sources.user_columns``).

    Attributes:
        name: by default that of the data set, without one that of the file or folder.
        fields: how a row becomes a problem.
        dropped: of the training rows, what was dropped for sharing an n-gram: rows' numbers, test sets, n-grams.
        counts: of both splits, how many rows were kept, and dropped for which reason.
    """

    def __init__(self, spec: FilesTaskSpec):
        """Reads the questions of all rows.

        Raises:
            ValueError: unknown data set, nothing there, a row whose question cannot be read, no problem left in a split; the
                message names the data set or the key, the file, the row and the field.
        """
        self.spec, self.fields = spec, fields_of(spec.dataset)
        sources = {key: getattr(spec, key) for key in ("path", *SPLITS) if getattr(spec, key) is not None}
        self.name = spec.name or spec.dataset or _stem(next(iter(sources.values())))
        header = self.fields.csv_header
        rows = {key: open_source(source, what=_what(spec, key), csv_header=header) for key, source in sources.items()}
        self.counts: dict[str, dict[str, int]] = {}
        self._kept: dict[str, array.array] = {}
        self.dropped: list[Dropped] = []
        self._renamed: dict[str, str] = {}
        if "path" in rows:
            self._rows = dict.fromkeys(SPLITS, rows["path"])
            self._split_by_hash()
        else:
            self._rows = rows
            self._take_splits()
        if spec.decontaminate and "train" in self._rows:
            self._decontaminate()
        self._report()

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index``: past the end of the split it begins anew.

        Raises:
            ValueError: unknown split, negative index, a split that the task has no files for, or a row whose fields are
                not as published.
        """
        check_index(index, split)
        if split not in self._rows:
            there = " and ".join(self._rows)
            raise ValueError(f"task {self.name!r} has only {there} problems: give its {split!r} files to get others")
        if self.spec.path is not None:
            record_fraction(self.spec.heldout_fraction, space=_label(self.spec.path))
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
        """What the verifier of the data set says of an answer: 1.0 or 0.0; None and blank text give 0.0.

        Raises:
            GradingError: the problem is of another task, or the verifier fails.
        """
        if problem.columns.get("task") != self.name:
            raise GradingError(f"task {self.name!r} was given a problem of task {problem.columns.get('task')!r}")
        if answer is None or not answer.strip():
            return 0.0
        return grade_answer(self.fields.grader, answer, problem)

    def canonical(self, answer: str) -> str:
        """A letter for choices, the text for code and instructions, else numbers in their shortest form."""
        if self.fields.grader == "choice":
            return read_letter(answer) or answer.strip()
        return answer.strip() if self.fields.grader in ("code", "instructions") else canonical_answer(answer)

    def _row(self, rows: Rows, index: int, *, fields: Sequence[str] | None = None) -> Row:
        prefix = f"data set {self.spec.dataset!r}: " if self.spec.dataset else ""
        try:
            row = rows.row(index, fields=fields)
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from error
        return Row(row.values, where=f"{prefix}{row.where}")

    def _problem(self, row: Row) -> Problem:
        answer, columns = self.fields.target(row)
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

    def _usable(self, rows: Rows, key: Callable[[str], int]) -> tuple[array.array, array.array, dict[str, int]]:
        """The rows that can be problems, a key of each one's text, and how many cannot, by reason."""
        kept, keys, skipped = array.array("Q"), array.array("Q"), {}
        for index in range(len(rows)):
            row = self._row(rows, index, fields=self.fields.reads)
            reason = self.fields.skip(row)
            if reason is None:
                kept.append(index)
                keys.append(key(self._text(row)))
                self._renamed |= self.fields.renamed(row)
            else:
                skipped[reason] = skipped.get(reason, 0) + 1
        return kept, keys, skipped

    def _split_by_hash(self) -> None:
        fraction, space = self.spec.heldout_fraction, _label(self.spec.path)
        kept, keys, skipped = self._usable(
            self._rows["train"], lambda text: SPLITS.index(split_of(text, heldout_fraction=fraction, space=space))
        )
        for number, split in enumerate(SPLITS):
            self._kept[split] = array.array(
                "Q", (index for index, key in zip(kept, keys, strict=True) if key == number)
            )
            self.counts[split] = {"kept": len(self._kept[split])} | skipped

    def _take_splits(self) -> None:
        keys: dict[str, array.array] = {}
        for split, rows in self._rows.items():
            self._kept[split], keys[split], skipped = self._usable(rows, stable_hash)
            self.counts[split] = {"kept": len(self._kept[split])} | skipped
        if len(self._rows) == 2:
            held, pairs = set(keys["heldout"]), zip(self._kept["train"], keys["train"], strict=True)
            self._keep([index for index, key in pairs if key not in held], "held out too")

    def _decontaminate(self) -> None:
        rows, kept = self._rows["train"], self._kept["train"]
        texts = (self._text(self._row(rows, index, fields=self.fields.reads)) for index in kept)
        clean, dropped = decontaminate(texts, make_index(self.spec.decontaminate, ngram=self.spec.ngram))
        self.dropped = [Dropped(kept[entry.place], entry.test_set, entry.ngram) for entry in dropped]
        self._keep([kept[number] for number in clean], f"sharing {self.spec.ngram} words with a test set")
        for entry in self.dropped[:3]:
            self._say(f": row {entry.place + 1} and {entry.test_set} share: {entry.ngram}")

    def _keep(self, kept: Sequence[int], reason: str) -> None:
        self.counts["train"] |= {reason: len(self._kept["train"]) - len(kept), "kept": len(kept)}
        self._kept["train"] = array.array("Q", kept)

    def _report(self) -> None:
        """Says on stderr what the splits are made of. Raises ValueError for one without a problem."""
        fraction = f"heldout_fraction={self.spec.heldout_fraction}"
        for split, kept in self._kept.items():
            rows, counts = self._rows[split], self._counted(split)
            if self.spec.path is None:
                self._say(f", {split}: {counts} of {len(rows)} rows")
            if not kept and self.spec.path is None:
                raise ValueError(f"task {self.name!r}: no {split} problem is left of {rows.path}: {counts}")
            if not kept:
                raise ValueError(
                    f"{rows.path}: no {split} problem among {len(rows)} rows ({counts}) when they are split by a hash of their "
                    f"text with {fraction}: change it, add problems, or give two files as 'train' and 'heldout'"
                )
        if self.spec.path is not None:
            train, heldout = self._counted("train", kept="train"), len(self._kept["heldout"])
            rows = self._rows["train"]
            self._say(
                f": {heldout} held out and {train} of {len(rows)} rows, split by a hash of their text ({fraction})"
            )
        for old, new in sorted(self._renamed.items()):
            self._say(f": the column {old!r} reaches rewards as {new!r}, since the name is taken")

    def _counted(self, split: str, *, kept: str = "kept") -> str:
        counts = {kept: len(self._kept[split])} | {k: v for k, v in self.counts[split].items() if k != "kept" and v}
        return ", ".join(f"{count} {reason}" for reason, count in counts.items())

    def _say(self, text: str) -> None:
        print(f"task {self.name!r}{text}", file=sys.stderr)


def make_file_task(spec: FilesTaskSpec) -> FileTask:
    """The task of a spec; ValueError as ``FileTask``.

    A stage makes its task several times: of an equal spec and files that have not changed the same task is given again.
    """
    fields_of(spec.dataset)  # an unknown name is said before a missing file
    spec = dataclasses.replace(spec, weight=1.0, from_update=0)
    sources = {_what(spec, key): getattr(spec, key) for key in ("path", *SPLITS)}
    sources |= {f"decontaminate {label(test_set)}": test_set for test_set in spec.decontaminate}
    stamps = (stamp_of(source, what=what) for what, source in sources.items() if source is not None)
    return _file_task(spec, tuple(stamps))


@functools.lru_cache(maxsize=8)
def _file_task(spec: FilesTaskSpec, stamps: tuple) -> FileTask:
    return FileTask(spec)


def check_problems(
    task: Any, names: Mapping[str, Collection[str]] | None = None, *, template: str | None = None
) -> None:
    """Makes every problem of every file task in a task or mixture, lets the verifier read it, and looks for columns.

    Reads the files whole, about a millisecond a problem, once for an equal task and columns. Of other tasks, which make
    their problems, one is looked at.

    Args:
        task: a task or a mixture.
        names: columns that rewards need, by the task's name; "answer" stands for the reference answer.
        template: the chat template that must be able to write every problem's messages; None for any.

    Raises:
        ValueError: a row that is not as published, that its verifier cannot use or the template cannot write, or that lacks
            one of the columns; names data set, file, row and field or column.
    """
    names = names or {}
    parts = getattr(task, "tasks", {task.name: task})
    for name, part in parts.items():
        columns = frozenset(names.get(name, ()))
        if isinstance(part, FileTask):
            _check_files(part, columns, template)
        else:
            _check_columns(part.problem(0, split="train"), columns)


@functools.lru_cache(maxsize=8)
def _check_files(task: FileTask, columns: frozenset[str], template: str | None) -> None:
    shapes = set()
    for problem in itertools.chain.from_iterable(task.problems(split) for split in SPLITS):
        _check_columns(problem, columns)
        check_problem(task.fields.grader, problem)
        roles = tuple(message["role"] for message in problem.messages)
        if template is not None and roles not in shapes:
            shapes.add(roles)
            try:
                check_template(template, problem.messages)
            except ValueError as error:
                raise ValueError(f"{problem.columns['row']}: {error}") from error


def _check_columns(problem: Problem, columns: Collection[str]) -> None:
    has = problem.columns | ({"answer": problem.answer} if problem.answer else {})
    if missing := sorted(set(columns) - set(has)):
        where = problem.columns.get("row", f"task {problem.columns['task']!r}")
        raise ValueError(f"{where}: a reward needs {', '.join(missing)}; there are {', '.join(has)}")


def _what(spec: FilesTaskSpec, key: str) -> str:
    return f"data set {spec.dataset!r}, {key!r}" if spec.dataset else repr(key)


def _label(source: str | FilesSpec) -> str:
    if isinstance(source, str):
        return source
    return " ".join(part for part in (source.path, source.subset, source.split) if part is not None)


def _stem(source: str | FilesSpec) -> str:
    """The name of a file or folder without its ending; of a pattern that of its folder."""
    path = Path(source if isinstance(source, str) else source.path)
    name = path.parent.name if "*" in path.name else path.name
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int) -> array.array:
    """A permutation of ``count`` rows."""
    indices = array.array("Q", range(count))
    random.Random(seed).shuffle(indices)
    return indices
