"""Checkpoints of a train state, by Orbax (v1 API): saved in the background, whole or not at all.

A checkpoint is a folder `checkpoints/<step>` of the work directory. It holds the state's arrays and one JSON record:
the caller's `extra` (data position, random keys, counters: whatever the loop needs to go on) and the shape, type and
checksum of every array. Orbax writes into a temporary folder and renames it when all is on disk, so a folder without
the suffix is complete. `best.json`, {"step", "metric", "value"}, names the checkpoint with the highest held-out score.
What a disk has damaged, or a restore has put in the wrong place, is refused and never trained on.
"""

import contextlib
import gc
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from orbax.checkpoint import v1 as ocp

from r1jax.members import own
from r1jax.processes import array_digests, on_first

FOLDER, BEST = "checkpoints", "best.json"
_STATE, _RECORD = "state", "record"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names its folder."""


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of one work directory, for the loop that writes them (readers use `load_checkpoint`).

    `keep` of the latest ones stay on disk; `every` is the number of updates between two, None: only at the end. Opening
    it clears away what an interrupted save has left. At any moment the checkpoint that best.json names is on disk: it
    is written when the save is, and the one before it goes with the save after that.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, every: int | None = None):
        self.folder = Path(workdir).absolute() / FOLDER
        self._keep, self._every = keep, every
        self._at_step: int | None = None
        self._best: dict[str, Any] | None = None  # of what is saved or being saved
        self._written = on_first(lambda: _read_best(self.folder.parent))  # best.json
        with _naming(self.folder, "cannot open"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._checkpointer = ocp.training.Checkpointer(
                str(self.folder), context=_context(), preservation_policy=self, cleanup_tmp_directories=True
            )

    @property
    def has_best(self) -> bool:
        """Whether a checkpoint has been saved for its held-out score."""
        return self._best is not None

    def is_due(self, step: int) -> bool:
        """Whether `every` updates have been done since the last save or restore (the loop also saves at its end)."""
        return self._every is not None and step - (self._at_step or 0) >= self._every

    def latest_step(self) -> int | None:
        """The step of the latest complete checkpoint; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks when a save begins, and deletes the others when that is on disk: the latest and the best stay."""
        best = [best["step"] for best in (self._best, self._written) if best is not None]
        first_kept = len(checkpoints) - self._keep
        return [index >= first_kept or info.step in best for index, info in enumerate(checkpoints)]

    def bytes_to_come(self, state: Any, *, with_best: bool = False) -> int:
        """Disk space that saving such states will still take: `keep` of them and the one under way, less what is there.

        with_best: whether the best one is kept too.
        """
        num_there = len(self._checkpointer.checkpoints)
        size = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(state))
        return size * max(1, self._keep + 1 + with_best - num_there)

    def save(self, step: int, state: Any, *, extra: Mapping[str, Any], best: dict[str, Any] | None = None) -> None:
        """Saves the state after `step` updates, with `extra` in the same checkpoint.

        Goes on in the background; the state may be donated as soon as this returns. Waits for the save before it, if
        that still runs; does nothing if this loop has just saved or restored `step`, even where `extra` has changed:
        one that is written anew would for a while not be there.

        state: tree of jax arrays (no typed keys: put `jax.random.key_data` into extra). extra: plain JSON: dicts with
        string keys, lists, strings, numbers, None. best: what best.json will say from now on.

        Raises CheckpointError for a disk that cannot be written (also one from the save before), ValueError for an
        extra that would come back different.
        """
        best = best or self._best
        if step != self._at_step:
            if json.loads(json.dumps(extra)) != extra:
                raise ValueError(f"extra is no plain JSON and would come back different: {extra!r}")
            state = own(state)
            record = {"arrays": _describe(state), "extra": dict(extra), "best": best}
            self.wait()
            with _naming(self.folder / str(step), "cannot save"):
                self._best = best
                self._checkpointer.save_checkpointables_async(step, {_STATE: state, _RECORD: record}, force=True)
        self._at_step, self._best = step, best

    def save_best(self, step: int, state: Any, *, extra: Mapping[str, Any], metric: str, value: float) -> bool:
        """Saves the state, as `save`, if its held-out score is the highest yet; returns whether it is.

        A tie goes to the earlier one, and so does a score that is no number. Another metric than before begins anew. A
        run that was interrupted ends with the same best one, if it evaluates again after it was restored at the same
        step.
        """
        best = self._best if self._best is not None and self._best["metric"] == metric else None
        if not value > (-math.inf if best is None else best["value"]):
            return False
        self.save(step, state, extra=extra, best={"step": step, "metric": metric, "value": float(value)})
        return True

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """The latest checkpoint's (state, extra); see `load_checkpoint`."""
        step = self.latest_step()
        if step is None:
            raise CheckpointError(f"{self.folder}: no checkpoint to restore")
        state, record = _load(self._checkpointer, self.folder, step, abstract_state, partial=False)
        self._at_step = step
        # What is known at this step: best.json may be of a step that was lost, or miss what came with the last save.
        there = checkpoint_steps(self.folder.parent)
        known = [best for best in (record.get("best"), self._written) if best is not None and best["step"] in there]
        newest = max(known, key=lambda best: best["step"], default=None)
        alike = [best for best in known if best["metric"] == newest["metric"]] if newest else []
        self._best = max(alike, key=lambda best: (best["value"], -best["step"]), default=None)
        self._write_best()
        return state, record["extra"]

    def wait(self) -> None:
        """Returns when the last save is on disk; raises CheckpointError if it failed."""
        with _naming(self.folder, "cannot save"):
            self._checkpointer.wait()
            self._write_best()

    def _write_best(self) -> None:
        """Writes best.json; nothing is being saved."""
        if self._best == self._written:
            return
        path, best = self.folder.parent / BEST, self._best

        def write() -> None:
            if best is None:
                path.unlink(missing_ok=True)
                return
            path.with_name(f".{BEST}.tmp").write_text(json.dumps(best) + "\n", encoding="utf-8")
            path.with_name(f".{BEST}.tmp").replace(path)

        on_first(write)
        self._written = best

    def __exit__(self, *error: object) -> None:
        """Waits and lets go of the folder."""
        with _naming(self.folder, "cannot save"):
            self._checkpointer.close()
            self._write_best()


def checkpoint_steps(workdir: str | Path) -> list[int]:
    """The steps of the complete checkpoints of a work directory, ascending; [] where there are none."""
    return sorted(int(path.name) for path in (Path(workdir) / FOLDER).glob("*") if path.name.isdecimal())


def best_step(workdir: str | Path) -> int | None:
    """The step of the checkpoint with the highest held-out score; None where none was scored."""
    best = _read_best(Path(workdir))
    return None if best is None else best["step"]


def load_checkpoint(
    workdir: str | Path,
    abstract_state: Any,
    *,
    step: int | Literal["latest", "best"] | None = None,
    partial: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """The state, and the `extra` saved with it, of another stage's work directory, finished or not; nothing is written
    there.

    abstract_state: tree of arrays or ShapeDtypeStructs with shardings: what is loaded is laid out like it, whatever
    mesh it was saved from. Structure, shapes and types must be those of the checkpoint; partial: of the part that it
    names. step: number of updates done; "best": that of the highest held-out score; "latest" or None: the latest.

    Raises CheckpointError, naming the folder, where there is no such step (naming those that there are), it is damaged,
    or it is of another model.
    """
    folder = Path(workdir).absolute() / FOLDER
    step = _choose_step(folder, step)
    with _naming(folder, "cannot open"):
        checkpointer = ocp.training.Checkpointer(str(folder), context=_context(partial=partial))
    with contextlib.closing(checkpointer):
        state, record = _load(checkpointer, folder, step, abstract_state, partial=partial)
    return state, record["extra"]


def _choose_step(folder: Path, step: int | str | None) -> int:
    """The step that is meant, of those that there are."""
    steps, best = checkpoint_steps(folder.parent), best_step(folder.parent)
    if not steps:
        where = " in it" if folder.is_dir() else ", the folder does not exist"
        raise CheckpointError(f"{folder}: no checkpoint{where}")
    if step == "best" and best is None:
        raise CheckpointError(f"{folder}: none of its checkpoints has a held-out score, so there is no best one")
    chosen = {None: steps[-1], "latest": steps[-1], "best": best}.get(step, step)
    if chosen not in steps:
        there = ", ".join(f"{there} (best)" if there == best else str(there) for there in steps)
        raise CheckpointError(f"{folder}: no checkpoint of step {chosen}; there are {there}")
    return chosen


def _read_best(workdir: Path) -> dict[str, Any] | None:
    try:
        best = json.loads((workdir / BEST).read_text(encoding="utf-8"))
        return {name: best[name] for name in ("step", "metric", "value")}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{workdir / BEST} is damaged; without it there is no best checkpoint") from error


def _load(
    checkpointer: ocp.training.Checkpointer, folder: Path, step: int, abstract_state: Any, *, partial: bool
) -> tuple[Any, dict[str, Any]]:
    """(state, record) of a step."""
    folder = folder / str(step)
    abstract_state = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), abstract_state
    )
    advice = "the checkpoint is damaged; to go on from the one before it, delete this folder"
    record = _read(lambda: checkpointer.load_checkpointables(step, {_RECORD: None})[_RECORD], folder, advice)
    here = {path: f"{array.dtype}{[*array.shape]}" for path, array in _arrays(abstract_state).items()}
    there = {path: f"{array['dtype']}{array['shape']}" for path, array in record["arrays"].items()}
    for path in sorted(here if partial else here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            raise CheckpointError(
                f"{folder} is of another model or optimizer: {path} is {there.get(path, 'absent')} there, "
                f"{here.get(path, 'absent')} here"
            )
    state = _read(lambda: checkpointer.load_checkpointables(step, {_STATE: abstract_state})[_STATE], folder, advice)
    for path, array in _describe(state).items():
        if array["checksum"] != record["arrays"][path]["checksum"]:
            raise CheckpointError(f"{folder}: the checksum of {path} is not the one saved; {advice}")
    return state, record


def _context(*, partial: bool = False) -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=_RECORD)
    context = ocp.Context()
    context.checkpointables_options.registry = registry
    context.array_options.saving.use_compression = False  # float32 weights hardly shrink, and it costs CPU time
    context.pytree_options.loading.partial_load = partial
    return context


def _arrays(tree: Any) -> dict[str, Any]:
    """Path -> array."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Path -> type, shape and checksum of every array."""
    arrays = _arrays(tree)
    described = zip(arrays.items(), array_digests([*arrays.values()]), strict=True)
    return {path: {"dtype": str(a.dtype), "shape": [*a.shape], "checksum": digest} for (path, a), digest in described}


@contextlib.contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Turns whatever Orbax raises into a CheckpointError that names the path."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{what} {path}: {_root(error)}") from error


def _read(load: Callable[[], Any], folder: Path, advice: str) -> Any:
    """Runs a load; its failure becomes one CheckpointError, without the pages that Orbax's tasks log as they die."""
    asyncio_logger = logging.getLogger("asyncio")
    was_disabled, asyncio_logger.disabled = asyncio_logger.disabled, True
    try:
        try:
            return load()
        except Exception as error:
            reason = _root(error)
        gc.collect()
    finally:
        asyncio_logger.disabled = was_disabled
    raise CheckpointError(f"cannot read {folder}: {reason}; {advice}")


def _root(error: BaseException) -> str:
    """The first cause of an error, shortened."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {str(error)[:300]}"
