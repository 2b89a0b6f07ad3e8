"""Problem sets from local files as a ``Task``: GSM8K, MATH, AIME, GPQA, MMLU, HumanEval, LiveCodeBench, Codeforces, ...

The split is the one of the files: ``train`` and ``heldout`` each name a file, a pattern or a folder. When the task is
made, the question of every row is read: once, and a second time for training rows that are compared with test sets.
Dropped from the training problems, with a printed count of each, are rows that cannot be problems (a Codeforces problem
without tests), questions that are held out too, and, where ``decontaminate`` names test sets, questions that share an
n-gram with one of them.

Training problems come in a new order every epoch, decided by the seed alone; held-out problems in the order of the file,
over and over.
"""

import array
import functools
import itertools
import json
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from r1jax.rewards.choice import read_letter
from r1jax.tasks.decontaminate import Dropped, NgramIndex, decontaminate
from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.problem import SPLITS, GradingError, Problem, canonical_answer, check_keys, check_place, stable_hash
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import Row, data_files, open_rows

T = TypeVar("T")
Source = str | Mapping[str, str]
"""A path, or ``{"path": ..., "split": ..., "subset": ...}`` of a folder with several; see ``rows.open_rows``."""


class FileTask:
    """A problem set in local files.

    Columns of its problems: "task", "row" (where it stands), and what its verifier needs (see ``sources.fields``).

    Args:
        dataset: the published data set, whose fields the files have: a name of ``sources.fields.DATASETS``.
        train, heldout: where the problems of the two splits are; one of them may be absent.
        name: the task's name; by default that of the data set.
        prompt: the wording, with ``{question}`` in it; by default the data set's own.
        decontaminate: test sets, each ``{"dataset": ..., "path": ..., "split": ..., "subset": ...}``.
        ngram: words in a row that count as shared with a test set.
        seed: of the order of the training problems.

    Attributes:
        dropped: of the training rows, what was dropped for sharing an n-gram: rows' numbers, test sets, n-grams.
        counts: of both splits, how many rows were kept, and dropped for which reason.

    Raises:
        ValueError: unknown data set or key, no source, nothing there, a row whose question cannot be read, nothing left;
            the message names the data set, the file, the row and the field.
    """

    def __init__(
        self,
        dataset: str,
        *,
        train: Source | None = None,
        heldout: Source | None = None,
        name: str | None = None,
        prompt: str | None = None,
        decontaminate: Sequence[Mapping[str, str]] = (),
        ngram: int = 10,
        seed: int = 0,
    ):
        self.name, self.dataset, self.seed = name or dataset, dataset, seed
        self.fields = fields_of(dataset)
        self.grader = self.fields.grader
        self.prompt = self.fields.prompt if prompt is None else prompt
        if "{question}" not in self.prompt:
            raise ValueError(f"data set {dataset!r}: prompt must have {{question}} in it; it is {self.prompt!r}")
        if train is None and heldout is None:
            raise ValueError(f"data set {dataset!r}: 'train' or 'heldout' must say where the files are")
        given = {"train": train, "heldout": heldout}
        self._rows = {
            split: _located(
                open_rows, source, what=f"data set {dataset!r}, {split!r}", csv_header=self.fields.csv_header
            )
            for split, source in given.items()
            if source is not None
        }
        self.counts: dict[str, dict[str, int]] = {}
        self._places: dict[str, array.array] = {}
        keys: dict[str, array.array] = {}
        for split in self._rows:
            self._places[split], keys[split] = self._usable(split)
        self.dropped: list[Dropped] = []
        if len(self._rows) == 2:
            held, rows = set(keys["heldout"]), zip(self._places["train"], keys["train"], strict=True)
            self._keep([place for place, key in rows if key not in held], "held out too")
        if decontaminate and train is not None:
            self._decontaminate(decontaminate, ngram)
        for split, places in self._places.items():
            counts = ", ".join(f"{count} {reason}" for reason, count in self.counts[split].items() if count)
            print(f"task {self.name!r}, {split}: {counts} of {len(self._rows[split])} rows", file=sys.stderr)
            if not places:
                raise ValueError(
                    f"data set {dataset!r}: no {split} problem is left of {self._rows[split].path}: {counts}"
                )

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index``: past the end of the split it begins anew.

        Raises:
            ValueError: unknown split, negative index, a split that the task has no files for, or a row whose fields are
                not as published.
        """
        check_place(index, split)
        if split not in self._rows:
            there = " and ".join(self._rows)
            raise ValueError(f"task {self.name!r} has only {there} problems: give its {split!r} files to get others")
        epoch, place = divmod(index, len(self._places[split]))
        if split == "train":
            place = _order(len(self._places[split]), stable_hash("epoch", self.seed, epoch))[place]
        return self._problem(self._row(split, self._places[split][place]))

    def problems(self, split: str) -> Iterator[Problem]:
        """Every problem of a split once, in the order of the files; ValueError as ``problem``."""
        check_place(0, split)
        for place in self._places.get(split, ()):
            yield self._problem(self._row(split, place))

    def num_problems(self, split: str) -> int:
        """How many different problems a split has; 0 without files."""
        return len(self._places.get(split, ()))

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

    def _row(self, split: str, place: int, *, fields: Sequence[str] | None = None) -> Row:
        try:
            row = self._rows[split].row(place, fields=fields)
        except ValueError as error:
            raise ValueError(f"data set {self.dataset!r}: {error}") from error
        return Row(row.values, where=f"data set {self.dataset!r}: {row.where}")

    def _problem(self, row: Row) -> Problem:
        answer, columns = self.fields.target(row)
        content = self.prompt.replace("{question}", self.fields.question(row))
        return Problem(
            messages=({"role": "user", "content": content},),
            answer=answer,
            columns={"task": self.name, "row": row.where, **columns},
        )

    def _usable(self, split: str) -> tuple[array.array, array.array]:
        """The rows that can be problems; of each a hash of its question, if there is another split to compare with."""
        places, keys, counts = array.array("Q"), array.array("Q"), {"kept": 0}
        for place in range(len(self._rows[split])):
            row = self._row(split, place, fields=self.fields.reads)
            reason = self.fields.skip(row)
            if reason is None:
                question = self.fields.question(row)
                places.append(place)
                if len(self._rows) == 2:
                    keys.append(stable_hash(" ".join(question.split())))
            else:
                counts[reason] = counts.get(reason, 0) + 1
        self.counts[split] = counts | {"kept": len(places)}
        return places, keys

    def _decontaminate(self, specs: Sequence[Mapping[str, str]], ngram: int) -> None:
        index = NgramIndex(dict(map(texts_of_test_set, specs)), n=ngram)
        places = self._places["train"]
        rows = (self._row("train", place, fields=self.fields.reads) for place in places)
        kept, dropped = decontaminate(map(self.fields.question, rows), index)
        self.dropped = [Dropped(places[entry.place], entry.test_set, entry.ngram) for entry in dropped]
        self._keep([places[place] for place in kept], f"sharing {ngram} words with a test set")
        for entry in self.dropped[:3]:
            print(
                f"task {self.name!r}: row {entry.place + 1} and {entry.test_set} share: {entry.ngram}", file=sys.stderr
            )

    def _keep(self, places: Sequence[int], reason: str) -> None:
        self.counts["train"][reason] = len(self._places["train"]) - len(places)
        self.counts["train"]["kept"] = len(places)
        self._places["train"] = array.array("Q", places)


def make_file_task(spec: Mapping[str, Any]) -> FileTask:
    """The task of a spec ``{"kind": "files", "dataset": "gsm8k", "train": ..., "heldout": ...}``; see ``FileTask``.

    A stage makes its task several times: of an equal spec and files that have not changed the same task is given again.

    Raises:
        ValueError: an unknown key, or whatever the task refuses.
    """
    arguments = {key: _plain(value) for key, value in spec.items() if key not in ("kind", "weight")}
    allowed = {"dataset", "train", "heldout", "name", "prompt", "decontaminate", "ngram", "seed"}
    check_keys(arguments, allowed=allowed, what="task of kind 'files'")
    if "dataset" not in arguments:
        raise ValueError(f"task of kind 'files': key 'dataset' is missing in {dict(spec)}")
    return _file_task(json.dumps(arguments, sort_keys=True), _stamp(arguments))


@functools.lru_cache(maxsize=8)
def _file_task(arguments: str, stamp: tuple) -> FileTask:
    return FileTask(**json.loads(arguments))


def _stamp(arguments: Mapping[str, Any]) -> tuple:
    """Names, sizes and times of change of the files that a spec names."""
    sources = [(f"data set {arguments['dataset']!r}, {split!r}", arguments.get(split)) for split in SPLITS]
    sources += [(f"decontaminate {_label(spec)}", spec) for spec in arguments.get("decontaminate", [])]
    files = [file for what, source in sources if source is not None for file in _located(data_files, source, what=what)]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _plain(value: Any) -> Any:
    """A value of a config as plain dicts and lists."""
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_problems(task: Any, names: Mapping[str, Collection[str]] | None = None) -> None:
    """Makes every problem of every file task in a task or mixture, lets the verifier read it, and looks for columns.

    Reads the files whole, about a millisecond a problem, once for an equal task and columns. Of other tasks, which make
    their problems, one is looked at.

    Args:
        task: a task or a mixture.
        names: columns that rewards need, by the task's name; "answer" stands for the reference answer.

    Raises:
        ValueError: a row that is not as published, that its verifier cannot use, or that lacks one of the columns; names
            data set, file, row and field or column.
    """
    names = names or {}
    parts = getattr(task, "tasks", {task.name: task})
    for name, part in parts.items():
        columns = frozenset(names.get(name, ()))
        if isinstance(part, FileTask):
            _check_files(part, columns)
        else:
            _check_columns(part.problem(0, split="train"), columns)


@functools.lru_cache(maxsize=8)
def _check_files(task: FileTask, columns: frozenset[str]) -> None:
    for problem in itertools.chain.from_iterable(task.problems(split) for split in SPLITS):
        _check_columns(problem, columns)
        check_problem(task.fields.grader, problem)


def _check_columns(problem: Problem, columns: Collection[str]) -> None:
    has = problem.columns | {"answer": problem.answer or None}
    missing = sorted(column for column in columns if has.get(column) is None)
    if missing:
        where = problem.columns.get("row", f"task {problem.columns['task']!r}")
        raise ValueError(f"{where}: a reward needs {', '.join(missing)}; there are {', '.join(has)}")


def _located(function: Callable[..., T], source: Source, *, what: str, **options: Any) -> T:
    """Calls a function with the path, split and subset of a source; errors say what the source is for."""
    location = {"path": source} if isinstance(source, str) else {k: v for k, v in source.items() if k != "dataset"}
    check_keys(location, allowed={"path", "split", "subset"}, what=what)
    if "path" not in location:
        raise ValueError(f"{what}: key 'path' is missing")
    try:
        return function(**location, **options)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def texts_of_test_set(spec: Mapping[str, str]) -> tuple[str, Iterator[str]]:
    """(what it is called, its questions and solutions) of a test set {"dataset", "path", "split", "subset"}.

    Raises:
        ValueError: from the iterator, naming the test set: an unknown data set or key, nothing there, a bad row.
    """
    return _label(spec), _test_texts(spec)


def _test_texts(spec: Mapping[str, str]) -> Iterator[str]:
    fields = fields_of(spec.get("dataset", ""))
    rows = _located(open_rows, spec, what=f"decontaminate {_label(spec)}", csv_header=fields.csv_header)
    for place in range(len(rows)):
        row = rows.row(place)
        yield fields.question(row)
        if solution := fields.solution(row):
            yield solution


def _label(spec: Mapping[str, str]) -> str:
    return " ".join(spec[key] for key in ("dataset", "subset", "split", "path") if key in spec)


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int) -> array.array:
    """A permutation of ``count`` rows."""
    places = array.array("Q", range(count))
    random.Random(seed).shuffle(places)
    return places
