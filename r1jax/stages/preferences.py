"""Preferences stage: a judge compares two responses to each prompt, and the clear cases become pairs (R1 Sec. 3.1, spec
B.7).

Four queries a pair in random order, the mean verdict, |mean| > 1, lengths balanced over the set: see
`r1jax.data.preferences`. Candidates are records {"messages": [...], "responses": [two texts]}. It leaves
data/pairs.jsonl, records of kind "helpful" for the reward model's stage; manifest.json, the file with its digest;
verdicts.jsonl, every candidate with the verdict of each query and why one failed. A run that was stopped goes on there.

Of several processes each asks the judge, and they must hear the same; the first alone asks an endpoint, and writes.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.preferences import Judged, judge_pairs, parse_candidate, select_pairs
from r1jax.data.records import FOLDER, check_records, records_of
from r1jax.policies.chat import check_answered, make_chat
from r1jax.policies.preview import Previews
from r1jax.processes import on_first, require_same
from r1jax.sharding import make_mesh
from r1jax.specs.functions import check_function, load_function
from r1jax.specs.reader import read
from r1jax.specs.stages import PreferencesSpec
from r1jax.stages.open_run import open_run
from r1jax.workdir.directory import read_lines, write_json, write_text
from r1jax.workdir.lineage import MANIFEST

VERDICTS = "verdicts.jsonl"


def check(spec: PreferencesSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot run; asks no model."""
    make_mesh(spec.mesh.axes())
    check_records(spec.candidates, where="candidates")
    check_function(spec.judge.function, where="judge.function")


def main(spec: PreferencesSpec, workdir: Path) -> dict:
    """Asks the judge, writes the pairs. Returns the summary with how many candidates were left out, and why.

    Raises ChatError where every query of a batch failed, so that no model seems to be there; ValueError for a bad
    candidate, or where no pair is left; Stopped, when all is saved, if a signal asked it to end.
    """
    spec = read(PreferencesSpec, spec)
    check(spec)
    with open_run(spec, workdir) as run:
        rows = records_of(spec.candidates, seed=spec.seed)
        candidates = [parse_candidate(row.values, where=row.where) for row in rows]
        chat = make_chat(spec.judge.chat, mesh=run.mesh)  # loads the model that the judge asks, if it is a policy
        judge = functools.partial(load_function(spec.judge.function), chat=chat, **spec.judge.options)

        # Loop
        size, path = spec.candidates_per_batch, run.path / VERDICTS
        count = on_first(lambda: keep_whole_batches(path, size=size, limit=len(candidates)))
        judged = read_verdicts(path, count=count)
        metrics = run.open_metrics(total=len(candidates), done=len(judged))
        while len(judged) < len(candidates):
            run.stop.check()
            begin = time.perf_counter()
            batch = candidates[len(judged) : len(judged) + size]
            verdicts = judge_pairs(batch, judge, queries=spec.queries, seed=spec.seed)
            unanswered = [message for pair in verdicts for kind, message in pair.failures if kind == "error"]
            num_asked = len(verdicts) * spec.queries
            check_answered(unanswered, num_asked=num_asked, who="the judge", what="queries")
            _, counts = select_pairs(verdicts, threshold=spec.threshold, balance_lengths=False)
            metrics.write(len(judged) + len(verdicts), counts | {"time/step": time.perf_counter() - begin})
            lines = "".join(json.dumps(dataclasses.asdict(pair), ensure_ascii=False) + "\n" for pair in verdicts)
            last = len(judged) + len(verdicts) - 1
            require_same(lines, f"the verdicts on candidates {len(judged)} to {last}")
            on_first(functools.partial(_append, path, lines))
            judged += verdicts

        # The set
        pairs, counts = select_pairs(judged, threshold=spec.threshold)
        if not pairs:
            raise ValueError(f"{run.path}: no pair is left of {len(judged)} candidates: {counts}")
        on_first(lambda: write_pairs(run.path, pairs))
        return run.mark_done({"pairs": len(pairs), "counts": counts})


def write_pairs(workdir: Path, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Writes data/pairs.jsonl and the manifest."""
    text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (workdir / FOLDER).mkdir(exist_ok=True)
    write_text(workdir / FOLDER / "pairs.jsonl", text)
    file = {"records": len(pairs), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_json(workdir / MANIFEST, {"files": {"pairs.jsonl": file}})


def keep_whole_batches(path: Path, *, size: int, limit: int) -> int:
    """How many candidates were judged before, at most ``limit``; what a cut left of a batch of ``size`` is removed."""
    lines = read_lines(path)
    count = limit if len(lines) >= limit else len(lines) // size * size
    read_verdicts(path, count=count)  # a damaged line is said before anything is written
    write_text(path, "".join(line.decode() + "\n" for line in lines[:count]))
    return count


def read_verdicts(path: Path, *, count: int) -> list[Judged]:
    """The first ``count`` that were judged before. Raises ValueError, naming file and line, for a line that is none."""
    judged = []
    for number, line in enumerate(read_lines(path)[:count], start=1):
        try:
            value = json.loads(line)
            failures = tuple((kind, message) for kind, message in value["failures"])
            judged.append(Judged(value["messages"], tuple(value["responses"]), tuple(value["verdicts"]), failures))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no verdict: {line[:80]!r}") from error
    return judged


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
