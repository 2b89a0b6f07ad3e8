"""What a run writes down: metrics.jsonl, TensorBoard events, and every completion.

A row belongs to a step (updates done). Write all rows of a step before its checkpoint is saved: a run that goes on from
step k keeps the rows up to k and cuts what came after, so the files end as those of a run that was never interrupted
(but for the times). Of several processes the first writes; the writers of the others do nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import scalar

from r1jax.processes import is_first
from r1jax.workdir.directory import read_lines, write_text
from r1jax.workdir.loggers import Loggers
from r1jax.workdir.progress import Progress

_FILE_PREFIX = {"train": "update", "heldout": "heldout"}


class MetricsWriter:
    """Appends rows to metrics.jsonl, the same figures to TensorBoard, and a few of them to the progress line.

    Args:
      workdir: the stage's work directory.
      resume_step: the step that the run goes on from (0 at the start): rows of later steps are cut.
      total: updates of the whole run, for the progress line.
      progress: the line of this run, which stays open.
      loggers: where the rows go too (`r1jax.workdir.loggers`).
      evaluates_again: whether the policy of resume_step is evaluated along the way next: the last evaluation of a run
        that ended there, before it was made longer, is cut.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        resume_step: int,
        total: int = 0,
        progress: Progress | None = None,
        loggers: Sequence[str] = (),
        evaluates_again: bool = False,
    ):
        self.path = Path(workdir) / "metrics.jsonl"
        self._writes = is_first()
        if not self._writes:
            return
        kept = [
            (line, row)
            for line, row in _rows_up_to(self.path, resume_step)
            if not evaluates_again or row["step"] < resume_step or {"time/step", "time/eval"} & row.keys()
        ]
        write_text(self.path, "".join(line for line, _ in kept))
        self._kept_rows = {(row["step"], *sorted(row)) for _, row in kept}
        self._started = time.monotonic() - (kept[-1][1]["time"] if kept else 0.0)
        self._file = self.path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(
            str(Path(workdir) / "tensorboard"),
            purge_step=resume_step + 1,
            flush_secs=10,
            filename_suffix=f".from_{resume_step}",  # a restart within the same second gets a file of its own
        )
        self._loggers = Loggers(loggers, Path(workdir))
        self._progress = progress
        if progress is not None:
            progress.begin(total, start=resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row {"step", "time", **values} and flushes it.

        Values are scalars (Python, numpy or jax); what is not finite is written as null and left out of TensorBoard.
        "time" is seconds of running, counted on over restarts. A row that was kept from before the restart (this step,
        these names) is not written twice. Raises TypeError naming the key for a value that is no number.
        """
        if not self._writes:
            return
        row = {name: _scalar(name, value) for name, value in values.items()}
        row = {"step": int(step), "time": round(time.monotonic() - self._started, 3), **row}
        if self._progress is not None:
            self._progress.update(row)
        if (row["step"], *sorted(row)) in self._kept_rows:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        finite = {name: value for name, value in row.items() if value is not None and name != "step"}
        summary, *others = [scalar(name, value) for name, value in finite.items()]  # "time" is always there
        for other in others:
            summary.MergeFrom(other)
        assert self._tensorboard.file_writer is not None
        self._tensorboard.file_writer.add_summary(summary, row["step"])  # one event: each goes through a queue
        self._loggers.write(row["step"], finite)

    def close(self) -> None:
        """Closes the files."""
        if self._writes:
            self._file.close()
            self._tensorboard.close()
            self._loggers.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class CompletionsWriter:
    """One file a step and split in completions/: update_000012.jsonl (split "train"), heldout_000012.jsonl.

    Each file appears whole. Files of steps after resume_step are removed, as `MetricsWriter` cuts rows.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int):
        self.folder = Path(workdir) / "completions"
        self._writes = is_first()
        if not self._writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for prefix in _FILE_PREFIX.values():
            for path in self.folder.glob(f"{prefix}_*.jsonl"):
                if int(path.stem.rpartition("_")[2]) > resume_step:
                    path.unlink()

    def write(self, step: int, rows: Iterable[Mapping[str, Any]], *, split: str = "train") -> None:
        """Writes the completions of a step; each row gets "step" and "split" in front of its own keys."""
        if not self._writes:
            return
        lines = [
            json.dumps(_plain({"step": int(step), "split": split, **row}), ensure_ascii=False) + "\n" for row in rows
        ]
        text = "".join(lines).encode(errors="replace").decode()  # half a character from elsewhere is no reason to fail
        write_text(self.folder / f"{_FILE_PREFIX[split]}_{int(step):06d}.jsonl", text)


def _rows_up_to(path: Path, step: int) -> list[tuple[str, dict[str, Any]]]:
    """(line, row) of the rows to keep. A last line without its end was cut off while it was written: not kept.

    Raises ValueError, naming file and line, for any other line that is no row.
    """
    kept = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            row_step = row["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no metrics row: {line[:80]!r}") from error
        if row_step <= step:
            kept.append((line.decode() + "\n", row))
    return kept


def _scalar(name: str, value: Any) -> int | float | None:
    array = np.asarray(value)
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    if array.shape != () or array.dtype.kind not in "fiub":
        raise TypeError(f"metric {name!r} must be a scalar number, got {value!r}")
    return _plain(array)


def _plain(value: Any) -> Any:
    """The value in JSON's types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
