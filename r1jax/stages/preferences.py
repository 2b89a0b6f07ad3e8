"""Preferences stage: a judge compares two responses to each prompt, and the clear cases become pairs (R1 Sec. 3.1, spec B.7).

Four queries a pair in random order, the mean verdict, |mean| > 1, lengths balanced over the set: see `r1jax.data.pairs`.
Candidates are records {"messages": [...], "responses": [two texts]}. What it leaves, besides what every work directory has:

    data/pairs.jsonl   records of kind "helpful" for the reward model's stage, whose ``data.path`` is this directory
    manifest.json      the file with its digest
    verdicts.jsonl     every candidate with the verdict of each query and why one failed; a run that was stopped goes on there

Of several processes each asks the judge, and they must hear the same, which is checked. An endpoint is asked by the first
process alone, which also writes.
"""

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from r1jax.data.pairs import Failure, Judge, Judged, judge_pairs, parse_candidate, select_pairs
from r1jax.data.record_source import check_records, records_of
from r1jax.data.records import FOLDER
from r1jax.policies.chat import check_answered, check_chat, make_chat
from r1jax.processes import on_first, require_same_text
from r1jax.rewards.rubric import load_function
from r1jax.sharding import make_mesh
from r1jax.stages.keys import check_counts, check_finite, check_keys
from r1jax.workdir.directory import open_workdir, read_lines, write_json, write_text
from r1jax.workdir.lineage import MANIFEST, record_lineage
from r1jax.workdir.metrics import MetricsWriter
from r1jax.workdir.stop import graceful_stop

DEFAULTS = {"queries": 4, "threshold": 1.0}
"""Optional keys of the config (R1 Sec. 3.1)."""
VERDICTS = "verdicts.jsonl"


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot run; asks nobody."""
    check_keys(
        config,
        required=("stage", "seed", "mesh", "candidates", "judge", "candidates_per_batch"),
        optional=DEFAULTS,
        where="preferences",
    )
    values = DEFAULTS | config.to_dict()
    check_counts(values, ("queries", "candidates_per_batch"), where="preferences")
    check_counts(values, ("seed",), where="preferences", least=0)
    check_finite(values, where="preferences")
    if not 0 <= values["threshold"] < 2:
        raise ValueError(f"preferences: threshold={values['threshold']} must be in [0, 2): verdicts are at most 2")
    check_records(values["candidates"], where="preferences: candidates")
    judge = values["judge"]
    check_keys(judge, required=("function",), optional=("options", "chat"), where="preferences: judge")
    load_function(judge["function"])
    if judge.get("chat") is not None:
        check_chat(judge["chat"], where="preferences: judge.chat")


def build(config: ConfigDict, mesh) -> Judge:
    """The judge of the config; loads the model that it asks, if it is a policy."""
    judge = config.judge.to_dict()
    chat, options = make_chat(judge.get("chat"), mesh=mesh), judge.get("options") or {}
    return functools.partial(load_function(judge["function"]), chat=chat, **options)


def main(config: ConfigDict, workdir: Path) -> dict:
    """Asks the judge, writes the pairs. Returns the summary with how many candidates were left out, and why.

    Raises ChatError where every query of a batch failed, so that nobody seems to be there; ValueError for a bad candidate,
    or where no pair is left; Stopped, when all is saved, if a signal asked it to end.
    """
    start_time = time.monotonic()
    check(config)
    values, workdir = DEFAULTS | config.to_dict(), Path(workdir)
    mesh = make_mesh(config.mesh)
    with open_workdir(workdir, config.to_dict()) as run, jax.set_mesh(mesh), graceful_stop() as stop:
        record_lineage(workdir, config.to_dict())
        records = records_of(values["candidates"], seed=config.seed)
        candidates = [parse_candidate(row.values, where=row.where) for row in records]
        judge = build(config, mesh)

        # Loop
        size = config.candidates_per_batch
        path = workdir / VERDICTS
        count = on_first(lambda: keep_whole_batches(path, size=size, limit=len(candidates)))
        judged = read_verdicts(path, count=count)
        with MetricsWriter(workdir, total=len(candidates), resume_step=len(judged)) as metrics:
            while len(judged) < len(candidates):
                stop.check()
                begin = time.perf_counter()
                batch = candidates[len(judged) : len(judged) + size]
                found = judge_pairs(batch, judge, queries=values["queries"], seed=config.seed)
                unanswered = [why.message for pair in found for why in pair.failures if why.kind == "error"]
                num_asked = len(found) * values["queries"]
                check_answered(unanswered, num_asked=num_asked, who="the judge", what="queries")
                _, counts = select_pairs(found, threshold=values["threshold"], balance_lengths=False)
                metrics.write(len(judged) + len(found), counts | {"time/step": time.perf_counter() - begin})
                lines = "".join(_to_line(pair) for pair in found)
                require_same_text(lines, f"the verdicts on candidates {len(judged)} to {len(judged) + len(found) - 1}")
                on_first(functools.partial(_append, path, lines))
                judged += found

        # The set
        pairs, counts = select_pairs(judged, threshold=values["threshold"])
        if not pairs:
            raise ValueError(f"{workdir}: no pair is left of {len(judged)} candidates: {counts}")
        on_first(lambda: write_set(workdir, pairs))
        summary = {"pairs": len(pairs), "counts": counts, "seed": config.seed}
        summary["wall_seconds"] = time.monotonic() - start_time
        run.mark_done(summary)
    return summary


def write_set(workdir: Path, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Writes data/pairs.jsonl and the manifest."""
    text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (workdir / FOLDER).mkdir(exist_ok=True)
    write_text(workdir / FOLDER / "pairs.jsonl", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_json(workdir / MANIFEST, {"files": {"pairs.jsonl": {"records": len(pairs), "sha256": digest}}})


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
            failures = tuple(Failure(*failure) for failure in value["failures"])
            judged.append(Judged(value["messages"], tuple(value["responses"]), tuple(value["verdicts"]), failures))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no verdict: {line[:80]!r}") from error
    return judged


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _to_line(pair: Judged) -> str:
    value: dict[str, Any] = {
        "messages": list(pair.messages),
        "responses": pair.responses,
        "verdicts": pair.verdicts,
        "failures": pair.failures,
    }
    return json.dumps(value, ensure_ascii=False) + "\n"
