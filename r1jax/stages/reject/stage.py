"""Reject stage: answers of a policy, sampled, filtered, rewritten, and written as a set for the supervised stage.

Twice in the recipe (spec C.1, C.3). Cold start: R1-Zero at temperature 1, filtered for correctness and readability,
rewritten into clean first person. Rejection sampling: the policy of the first RL stage, correct answers kept, mixed
languages, long paragraphs and code in the thought dropped, other conversations ("others") added.

What it leaves: data/ (``data.shards``) with manifest.json, its files' digests; table.json and .md, samples, average
rounds and tokens by domain (R1 v2 Table 5), and how many were dropped for which reason; rejected.jsonl, some of those
of each reason.

Prompts are taken by number, in batches; what a batch gave is a file in parts/ that appears whole. A run that was killed
goes on with the first batch that has none, and ends with the same bytes. parts/ is removed when all is written.

Of several processes all sample and each decides on every sample, by the same functions; they must decide alike, which
is checked. An endpoint is asked by the first one alone, which also writes.
"""

import collections
import contextlib
import functools
import itertools
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax.data.records import FOLDER, RecordsMissingError, check_records, messages_of, records_of
from r1jax.data.shards import as_markdown, unshared, write_records
from r1jax.policies.chat import make_chat
from r1jax.policies.policy import Policy
from r1jax.policies.preview import Previews
from r1jax.policies.reward_model import load_rewards, stand_in_rewards
from r1jax.processes import on_first, require_same
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.weight_sync import for_sampling
from r1jax.sharding import make_mesh
from r1jax.specs.functions import check_function
from r1jax.specs.reader import read
from r1jax.specs.stages import RejectSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.reject.curate import Fate, Steps, curate, fates_of, make_step
from r1jax.stages.sampling import check_sampled, make_collector, tasks_of
from r1jax.tasks.decontaminate import make_index
from r1jax.tasks.mixture import make_mixture
from r1jax.tasks.problem import stable_hash
from r1jax.text.chat import check_template, response_form
from r1jax.text.tokenizer import Tokenizer
from r1jax.workdir.directory import write_json, write_text
from r1jax.workdir.lineage import MANIFEST, weights_digest
from r1jax.workdir.read import read_rows

_NOT_IN_A_NAME = re.compile(r"[^-.\w]+")
_EXAMPLES = 20  # dropped samples of each reason in rejected.jsonl; of a batch one of each


class EmptySetError(ValueError):
    """Nothing was left to train on."""


def check(spec: RejectSpec, previews: Previews | None = None) -> None:
    """Raises ValueError, naming the key, for what cannot run; reads files of problems, makes a few others."""
    previews = previews or Previews()
    check_template(spec.template)
    make_mesh(spec.mesh.axes())
    task = make_mixture(spec.tasks, seed=spec.seed)
    names = [part.name for part in tasks_of(task)]
    rubric = Rubric(stand_in_rewards(spec.rewards))
    rubric.check_tasks(names)
    steps = {f"filters[{number}]": step for number, step in enumerate(spec.filters)}
    steps |= {"judge": spec.judge, "rewrite": spec.rewrite}
    for where, step in steps.items():
        if step is not None:
            check_function(step.function, where=f"{where}.function")
            _check_names(step.tasks or (), names, where=f"{where}.tasks")
    _check_names(spec.domains, names, where="domains")
    for number, other in enumerate(spec.others):
        check_records(other, where=f"others[{number}]")
        with contextlib.suppress(RecordsMissingError):  # an earlier stage may make it; main needs it
            for row in itertools.islice(records_of(other, seed=spec.seed), 1):
                messages_of(row)
    make_index(spec.decontaminate, ngram=spec.ngram)
    check_sampled(spec, previews, rubric, trained=task)


def _check_names(tasks: Iterable[str], names: Sequence[str], *, where: str) -> None:
    for task in tasks:
        if task not in names:
            raise ValueError(f"{where}: there is no task {task!r}; there are {', '.join(names)}")


def build(spec: RejectSpec, policy: Policy, mesh) -> tuple[Collector, Steps]:
    """What samples and scores, and what decides; loads the models that the judge and the rewriter ask."""
    rubric = Rubric(load_rewards(spec.rewards, mesh=mesh))
    collector = make_collector(spec, policy, task=make_mixture(spec.tasks, seed=spec.seed), rubric=rubric)
    judge, rewriter = (
        None if asks is None else make_step(asks, chat=make_chat(asks.chat, mesh=mesh))
        for asks in (spec.judge, spec.rewrite)
    )
    return collector, Steps(list(map(make_step, spec.filters)), judge, rewriter)


def main(spec: RejectSpec, workdir: Path) -> dict:
    """Samples, decides, writes the set. Returns the summary with its size and the count of every reason.

    Raises EmptySetError where nothing is left; Stopped, when all is saved, if a signal asked it to end.
    """
    spec = read(RejectSpec, spec)
    check(spec)
    for other in spec.others:
        for row in records_of(other, seed=spec.seed):
            messages_of(row)  # what is no conversation is said before anything is sampled
    with open_run(spec, workdir) as run:
        # Policy, sampler, judge, rewriter
        policy, params, buffers = run.load_policy()
        collector, steps = build(spec, policy, run.mesh)
        model = {"path": run.lineage.get("init.path", {}).get("path"), "weights": weights_digest(params)}
        params, buffers = for_sampling(policy.model, params, buffers, mesh=run.mesh, dtype=spec.engine.dtype)

        # Loop
        folder, num_batches = run.path / "parts", spec.num_prompts // spec.prompts_per_batch
        on_first(lambda: folder.mkdir(exist_ok=True))
        is_done = on_first(lambda: [_part_path(folder, batch).is_file() for batch in range(num_batches)])
        done = [*is_done, False].index(False)
        metrics = run.open_metrics(total=num_batches, done=done)
        for batch in range(done, num_batches):
            run.stop.check()
            begin = time.perf_counter()
            part = sample_batch(spec, collector, steps, params, buffers, batch=batch, model=model)
            seconds = time.perf_counter() - begin
            text = json.dumps(part, ensure_ascii=False, allow_nan=False)
            require_same(text, f"batch {batch}: what became of its samples")
            metrics.write(batch + 1, _metrics_of(part, seconds))
            on_first(functools.partial(write_text, _part_path(folder, batch), text))
        run.stop.check()

        # The set
        summary = on_first(lambda: write_set(spec, run.path, tokenizer=policy.tokenizer))
        summary = run.mark_done(summary)
        on_first(lambda: shutil.rmtree(folder))
        return summary


def sample_batch(
    spec: RejectSpec, collector: Collector, steps: Steps, params, buffers, *, batch: int, model: Mapping[str, Any]
) -> dict[str, Any]:
    """What the prompts of a batch gave, JSON-able: records, counts of reasons, one dropped sample of each."""
    first = spec.first_prompt + batch * spec.prompts_per_batch
    numbers = range(first, first + spec.prompts_per_batch)
    problems = {number: collector.task.problem(number, split="train") for number in numbers}
    fitting = {number: problem for number, problem in problems.items() if collector.fits(problem)}
    fates = []
    if fitting:
        collected = collector.collect(
            params,
            buffers,
            list(fitting.values()),
            num_samples=spec.samples_per_prompt,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            top_p=spec.top_p,
            key=jax.random.fold_in(jax.random.key(spec.seed), batch),
            policy_version=0,
        )
        style, _ = response_form(spec.template, collector.tokenizer)
        fates = fates_of(collected.groups, list(fitting), style=style)
    seed = stable_hash("reject", spec.seed, batch) % 2**31
    curate(fates, steps, keep_per_prompt=spec.keep_per_prompt, task=collector.task, seed=seed)
    rejected = collections.Counter(fate.reason for fate in fates if fate.reason is not None)
    if num_too_long := (len(problems) - len(fitting)) * spec.samples_per_prompt:
        rejected["prompt too long"] = num_too_long
    examples = {fate.reason: _example(fate) for fate in reversed(fates) if fate.reason is not None}
    records = [_record_of(fate, spec, steps, collector.tokenizer, model) for fate in fates if fate.reason is None]
    tokens = sum(len(fate.sample.token_ids) for fate in fates)
    return {"records": records, "rejected": rejected, "examples": list(examples.values()), "tokens": tokens}


def _example(fate: Fate) -> dict[str, Any]:
    """A dropped sample, for rejected.jsonl."""
    of_sample = {name: getattr(fate.sample, name) for name in ("question", "text", "answer", "reference")}
    why = {"reason": fate.reason, "message": fate.message}
    return why | of_sample | {"prompt": fate.prompt, "sample": fate.number}


def _record_of(fate: Fate, spec: RejectSpec, steps: Steps, tokenizer: Tokenizer, model: Mapping[str, Any]) -> dict:
    """The record of a sample that is kept, with where it comes from and what was said of it."""
    rewriter = steps.rewriter if steps.rewriter is not None and steps.rewriter.is_for(fate.sample) else None
    provenance = {
        "model": model,
        "prompt": fate.prompt,
        "sample": fate.number,
        "seed": spec.seed,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "sampled_tokens": len(fate.sample.token_ids),
        "verdicts": fate.verdicts(steps.filters),
        "rewritten_from": fate.sample.text if rewriter else None,
        "rewriter": rewriter.spec.function if rewriter else None,
    }
    name = str(fate.problem.columns["task"])
    messages = [*fate.problem.messages, {"role": "assistant", "content": fate.content}]
    return make_record(messages, tokenizer, spec.domains.get(name, name), name, provenance)


def make_record(messages, tokenizer: Tokenizer, domain: str, task: str | None, provenance: Mapping[str, Any]) -> dict:
    """A record of ``data.shards``; tokens are those of all contents, by the policy's tokenizer."""
    return {
        "messages": [dict(message) for message in messages],
        "domain": domain,
        "task": task,
        "rounds": sum(message["role"] == "user" for message in messages),
        "num_tokens": sum(len(tokenizer.encode(message["content"])) for message in messages),
        "provenance": dict(provenance),
    }


def write_set(spec: RejectSpec, workdir: Path, *, tokenizer: Tokenizer) -> dict[str, Any]:
    """Puts the parts and the other records together and writes data/, manifest, table and rejected.jsonl."""
    rejected: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    num_others = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal num_others
        for batch in range(spec.num_prompts // spec.prompts_per_batch):
            part = json.loads(_part_path(workdir / "parts", batch).read_text(encoding="utf-8"))
            rejected.update(part["rejected"])
            for example in part["examples"]:
                examples[example["reason"]].append(example)
            yield from part["records"]
        for number, other in enumerate(spec.others):
            for index, row in enumerate(records_of(other, seed=spec.seed)):
                num_others += 1
                yield make_record(messages_of(row), tokenizer, other.domain, None, {"other": number, "row": index})

    index = make_index(spec.decontaminate, ngram=spec.ngram) if spec.decontaminate else None
    unique = unshared(records(), index=index, rejected=rejected)
    written = write_records(unique, workdir / FOLDER, file_format=spec.format, records_per_shard=spec.records_per_shard)
    reasons = dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0])))
    summary = {
        "prompts": spec.num_prompts,
        "samples": spec.num_prompts * spec.samples_per_prompt,
        "others": num_others,
        "kept": written["table"][-1]["samples"],
        "rejected": reasons,
    }
    write_json(workdir / "table.json", {"domains": written["table"], **summary})
    write_text(workdir / "table.md", as_markdown(written["table"]) + _rejected_lines(summary))
    shown = [example for reason in sorted(examples) for example in examples[reason][:_EXAMPLES]]
    write_text(workdir / "rejected.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shown))
    if not summary["kept"]:
        words = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise EmptySetError(
            f"{workdir}: nothing is left of {summary['samples']} samples of {spec.num_prompts} prompts: {words}; "
            f"{workdir / 'rejected.jsonl'} shows some"
        )
    write_json(workdir / MANIFEST, {"files": written["files"]})
    rows = read_rows(workdir / "metrics.jsonl", [])
    return summary | {"wall_seconds": sum(row["time/step"] for row in rows), "seed": spec.seed}


def _part_path(folder: Path, batch: int) -> Path:
    return folder / f"batch_{batch:06d}.json"


def _metrics_of(part: Mapping[str, Any], seconds: float) -> dict[str, float]:
    kept, dropped = len(part["records"]), sum(part["rejected"].values())
    row = {"kept": kept, "kept_share": kept / (kept + dropped), "sampled_tokens": part["tokens"]}
    row |= {f"rejected/{_NOT_IN_A_NAME.sub('_', reason)}": count for reason, count in part["rejected"].items()}
    return row | {"tokens_per_second/generate": part["tokens"] / seconds, "time/step": seconds}


def _rejected_lines(found: Mapping[str, Any]) -> str:
    """How many samples there were, and what became of those that are not kept."""
    rows = "".join(f"| {reason} | {count:,} |\n" for reason, count in found["rejected"].items())
    return f"\n{found['samples']:,} samples of {found['prompts']:,} prompts, {found['others']:,} other records.\n\n" + (
        f"| dropped | samples |\n|---|---|\n{rows}" if rows else "Nothing was dropped.\n"
    )
