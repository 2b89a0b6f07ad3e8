"""Problem sets from local files as a ``Task``: GSM8K, MATH, AIME, GPQA, HumanEval, Codeforces, ..., or files of any
columns.

The split is the one of the files, ``train`` and ``heldout``, or one set at ``path`` is split by a hash of each
problem's text: equal texts are on one side, in every stage and whatever else the file holds. When the task is made,
every row is read once, made a problem, and its reference judged by its verifier. Left out, with a printed count of
each, are

- rows that cannot be judged (``bad_rows="drop"``; the first three are named): unreadable or not as published, without
  an answer where other rows have one, or with a reference that does not score 1.0 on itself;
- rows that the data set itself says are no problems for us (an interactive one of Codeforces);
- training problems that are held out too, or share an n-gram with one of the test sets that ``decontaminate`` names.

Training problems come in a new order every epoch, decided by the seed alone; held-out problems in the order of the
file, over and over.
"""

import array
import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from r1jax.rewards.choice import read_letter
from r1jax.rewards.code_tests import check_tests
from r1jax.rewards.sandbox import SandboxUnavailable
from r1jax.specs.tasks import FilesSpec, FilesTaskSpec
from r1jax.tasks.decontaminate import make_index, test_set_keys
from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.problem import SPLITS, Problem, canonical_answer, check_index, check_task, split_of, stable_hash
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import Row, Rows, naming, open_rows, stamps_of, stem
from r1jax.text.chat import check_template

_SHOWN = 3


class FileTask:
    """A problem set in local files.

    Columns of its problems: "task", "row" (where it stands), and what its verifier needs (see ``sources.fields``), or
    all of the row's (see ``sources.user_columns``).
    """

    def __init__(self, spec: FilesTaskSpec):
        """Reads all rows.

        Raises ValueError for an unknown data set, nothing there, no problem left in a split, or with
        ``bad_rows="refuse"`` a row that cannot be judged; names the data set or the key, the file, the row and the
        field.
        """
        self.spec, self.fields = spec, fields_of(spec.dataset)  # how a row becomes a problem
        self.grader = self.fields.grader  # see rollout.collect.reward_columns
        self.name = spec.name or spec.dataset or stem(next(iter(spec.sources.values())).path)
        self._space = _label(spec.sources["path"]) if spec.path else ""  # of the split by hash
        self.counts: dict[str, collections.Counter[str]] = {}  # of a split: rows kept, and left out for which reason
        self.dropped: dict[int, tuple[str, str]] = {}  # training row, from 0 -> the test set and n-gram that it shares
        self.bad_rows: list[str] = []  # what is wrong with the first rows that cannot be judged
        self._rows: dict[str, Rows] = {}
        self._kept: dict[str, array.array] = {}
        self._renamed: dict[str, str] = {}
        self._read()
        self._report()

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index``: past the end of the split it begins anew. Raises ValueError for a split without files too."""
        check_index(index, split)
        if split not in self._rows:
            there = " and ".join(self._rows)
            raise ValueError(f"task {self.name!r} has only {there} problems: give its {split!r} files to get others")
        if self._space:
            split_of("", heldout_fraction=self.spec.heldout_fraction, space=self._space)  # for ``recorded_splits``
        epoch, number = divmod(index, len(self._kept[split]))
        if split == "train":
            number = _order(len(self._kept[split]), stable_hash("epoch", self.spec.seed, epoch))[number]
        return self._problem(self._row(self._rows[split], self._kept[split][number]))

    def problems(self, split: str) -> Iterator[Problem]:
        """Every problem of a split once, in the order of the files."""
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

    def _row(self, rows: Rows, index: int) -> Row:
        with naming(prefix := f"data set {self.spec.dataset!r}" if self.spec.dataset else ""):
            row = rows.row(index)
        return Row(row.values, where=f"{prefix}: {row.where}" if prefix else row.where)

    def _problem(self, row: Row) -> Problem:
        answer, columns = self.fields.target(row)
        columns = {self._renamed.get(name, name): value for name, value in columns.items()}
        prompt = self.fields.prompt if self.spec.prompt is None else self.spec.prompt
        question = self.fields.question(row)
        return Problem(
            messages=(*self.fields.history(row), {"role": "user", "content": prompt.replace("{question}", question)}),
            answer=answer,
            columns={"task": self.name, "row": row.where, **columns},
            question=question,
        )

    def _read(self) -> None:
        """Which rows are problems, and of which split: in training none that is held out too, or shares words with a test set."""
        is_compared = self.spec.decontaminate and (self.spec.path or self.spec.train)
        compared = make_index(self.spec.decontaminate, ngram=self.spec.ngram) if is_compared else None
        held: set[int] = set()
        names: set[str] = set()
        taken: set[str] = set()
        unanswered: dict[tuple[str, int], str] = {}
        for key in sorted(self.spec.sources):  # "heldout" before "train"
            source = self.spec.sources[key]
            with naming(_what(self.spec, key)):
                rows = open_rows(**source.location, csv_header=self.fields.csv_header)
            for split in SPLITS if key == "path" else (key,):
                self._rows[split], self._kept[split] = rows, array.array("Q")
                self.counts[split] = collections.Counter(kept=0)
            for index in range(len(rows)):
                split, reason = "train" if key == "path" else key, None
                try:
                    row = self._row(rows, index)
                    if (reason := self.fields.skip(row)) is None:
                        problem = self._judged(row)
                        text = _text_of(problem)
                        if key == "path":
                            split = split_of(text, heldout_fraction=self.spec.heldout_fraction, space=self._space)
                        if key == "heldout":
                            held.add(stable_hash(text))
                        elif stable_hash(text) in held:
                            reason = "held out too"
                        elif compared is not None and split == "train" and (hit := compared.find(text)):
                            self.dropped[index], reason = hit, f"sharing {self.spec.ngram} words with a test set"
                        names.update(row.values)
                        taken |= self.fields.taken(row)
                        if reason is None and not problem.answer.strip():
                            unanswered[split, index] = row.where
                except ValueError as error:
                    reason = self._bad(str(error))
                self.counts[split][reason or "kept"] += 1
                if reason is None:
                    self._kept[split].append(index)
        if self.grader == "answer" and len(unanswered) < sum(map(len, self._kept.values())):
            for split, kept in self._kept.items():
                self._kept[split] = array.array("Q", (index for index in kept if (split, index) not in unanswered))
            for (split, _), where in unanswered.items():
                self.counts[split]["kept"] -= 1
                self.counts[split][self._bad(f"{where}: has no answer, and other rows have one")] += 1
        for name in sorted(taken):
            self._renamed[name] = f"data_{name}"
            while self._renamed[name] in names:
                self._renamed[name] = f"data_{self._renamed[name]}"

    def _judged(self, row: Row) -> Problem:
        """The problem of a row; ValueError for one that cannot be judged, whatever is wrong with it."""
        try:
            problem = self._problem(row)
            with contextlib.suppress(SandboxUnavailable):  # no fault of the row: ``check_problems`` raises it
                check_problem(self.grader, problem)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{row.where}: is not as published: {error!r}") from error
        return problem

    def _bad(self, message: str) -> str:
        """Why a row is left out. Raises ValueError with ``bad_rows="refuse"``."""
        if self.spec.bad_rows == "refuse":
            raise ValueError(message)
        if len(self.bad_rows) < _SHOWN:
            self.bad_rows.append(message)
        return "that cannot be judged"

    def _report(self) -> None:
        """Says on stderr what the splits are made of. Raises ValueError for one without a problem."""
        by_hash = f", split by a hash of their text with heldout_fraction={self.spec.heldout_fraction}"
        names = {"train": "train", "heldout": "held out"} if self.spec.path else dict.fromkeys(SPLITS, "kept")
        parts = {}
        for split in filter(self._rows.get, SPLITS):
            counts = dict(self.counts[split])
            others = [f"{count} {reason}" for reason, count in counts.items() if reason != "kept"]
            parts[split] = ", ".join([f"{counts['kept']} {names[split]}", *others])
            if not self._kept[split]:
                hint = f"{by_hash}: change it, add problems, or give two files as 'train' and 'heldout'"
                left = f"no {split} problem is left of {self._rows[split].path}: {parts[split]} of {len(self._rows[split])} rows"
                why = f"{hint if self.spec.path else ''}{''.join(f'; {message}' for message in self.bad_rows[:1])}"
                raise ValueError(f"task {self.name!r}: {left}{why}")
        if self.spec.path:
            self._say(f": {', '.join(parts.values())} of {len(self._rows['train'])} rows{by_hash}")
        else:
            for split, part in parts.items():
                self._say(f", {split}: {part} of {len(self._rows[split])} rows")
        for message in self.bad_rows:
            self._say(f", left out: {message}")
        for index, (test_set, ngram) in itertools.islice(self.dropped.items(), _SHOWN):
            self._say(f": row {index + 1} and {test_set} share: {ngram}")
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
    sources = {_what(spec, key): source for key, source in spec.sources.items()}
    return _file_task(spec, stamps_of(sources | test_set_keys(spec.decontaminate)))


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
    """Looks in every problem of a task's or mixture's files for what rewards, template and machine need.

    Reads the files whole, once for an equal task and columns. Of other tasks, which make their problems, one is looked
    at.

    Args:
        names: columns that rewards need, by the task's name; "answer" stands for the reference answer.
        template: the chat template that must be able to write every problem's messages; None for any.
        graded: by the task's name the rewards that score by the grade of an answer.

    Raises:
        ValueError: a row that lacks a column, that the template cannot write, or whose programs cannot run on this
            machine; names data set, file, row and column. A graded reward of a task of any columns without an answer in
            any row.
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
    shapes, is_answered = set(), False
    for problem in itertools.chain.from_iterable(map(task.problems, SPLITS)):
        is_answered = is_answered or bool(problem.answer.strip())
        _check_columns(problem, columns)
        roles = tuple(message["role"] for message in problem.messages)
        with naming(problem.columns["row"]):
            if template is not None and roles not in shapes:
                check_template(template, problem.messages)
            if task.grader == "code":
                try:
                    check_tests(problem.columns["tests"])
                except SandboxUnavailable as error:
                    raise ValueError(str(error)) from error
        shapes.add(roles)
    if graded and task.grader == "answer" and not is_answered:
        files = ", ".join(dict.fromkeys(source.path for source in task.spec.sources.values()))
        has = f"no row of {files} has an answer ('answer', 'ground_truth' or 'solution')"
        raise ValueError(
            f"rewards: {graded[0]!r} scores by the grade of the answer, and {has}: its score would be 0.0 always"
        )


def _check_columns(problem: Problem, columns: Collection[str]) -> None:
    has = problem.columns | ({"answer": problem.answer} if problem.answer else {})
    if missing := sorted(set(columns) - set(has)):
        where = problem.columns.get("row", f"task {problem.columns['task']!r}")
        raise ValueError(f"{where}: a reward needs {', '.join(missing)}; there are {', '.join(has)}")


def _text_of(problem: Problem) -> str:
    """What makes the problem this problem: all that is said in it but the system's message and the prompt's wording."""
    before = [message["content"] for message in problem.messages[:-1] if message["role"] != "system"]
    return " ".join(" ".join([*before, problem.question]).split())


def _what(spec: FilesTaskSpec, key: str) -> str:
    return f"{key}: data set {spec.dataset!r}" if spec.dataset else key


def _label(source: FilesSpec) -> str:
    """What the files are called, the same by whatever link they are named."""
    path = os.path.realpath(source.path) if os.path.isabs(source.path) else source.path
    return dataclasses.replace(source, path=path).label


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int) -> array.array:
    """A permutation of ``count`` rows."""
    indices = array.array("Q", range(count))
    random.Random(seed).shuffle(indices)
    return indices
