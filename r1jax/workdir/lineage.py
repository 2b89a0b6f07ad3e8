"""Where a stage's inputs come from: lineage.json in its work directory, written until there are results, and then
compared.

    {"inputs": {"init.path": {"path": "{here}/../base", "config": ..., "commit": ..., "data": ...}, ...}}

An input is whatever lies at a path of the spec (``fields.paths_of``). Of another stage's work directory the digest of
its config, its commit, the digest of the list of files that it made and the number of its updates are kept; of other
files and folders a digest of names and sizes (to read a model's weights would take as long as loading them). What the
stage itself is, config.json and environment.json tell.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from r1jax.processes import array_digests, on_first
from r1jax.specs.fields import paths_of
from r1jax.workdir.directory import WorkdirError, from_here, holds_results, to_here, updates_done, write_json
from r1jax.workdir.read import read_json

_MOST_BYTES = 1 << 28
"""A larger file is not read whole for its digest."""
MANIFEST = "manifest.json"
"""What a stage that makes data writes: its files with their digests."""


def record_lineage(workdir: Path, spec: Any) -> dict[str, Any]:
    """Writes lineage.json until the directory holds results, and returns the inputs by the keys of the spec that name
    them.

    Raises WorkdirError, naming the key, if an input is not what it was when the results of this work directory were
    begun.
    """
    return on_first(lambda: _record(Path(workdir).absolute(), spec))


def check_lineage(workdir: Path, spec: Any) -> None:
    """Raises WorkdirError as ``record_lineage`` does; writes nothing."""
    workdir = Path(workdir).absolute()
    file = workdir / "lineage.json"
    if not file.is_file() or not holds_results(workdir):
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["inputs"]
        if not all("path" in value for value in before.values()):
            raise KeyError("path")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkdirError(
            f"{file} is damaged: what this run was begun from is not known; choose another work directory"
        ) from error
    inputs = _inputs(workdir, spec)
    for key in sorted(before.keys() | inputs.keys()):
        sides = [dict(side.get(key) or {}) for side in (before, inputs)]
        then_updates, now_updates = (side.pop("updates", None) for side in sides)  # of an input that goes on
        path = from_here((sides[1] or sides[0]).get("path", ""), workdir)
        for side in sides:
            side.pop("path", None)  # wherever it lies: config.json says where
        then, now = sides
        if then != now:
            what = "is new" if not then else "is gone" if not now else "was made anew"
            is_longer = then_updates is not None and now_updates not in (None, then_updates)
            words = f" ({then_updates} updates then, {now_updates} now)" if is_longer else ""
            raise WorkdirError(
                f"{workdir}: its input {key}={path} {what} since this run was begun{words}; choose another work directory"
            )


def _record(workdir: Path, spec: Any) -> dict[str, Any]:
    check_lineage(workdir, spec)
    inputs = _inputs(workdir, spec)
    if not (workdir / "lineage.json").is_file() or not holds_results(workdir):
        write_json(workdir / "lineage.json", {"inputs": inputs})
    return inputs


def _inputs(workdir: Path, spec: Any) -> dict[str, Any]:
    paths = {key: Path(from_here(path, workdir)) for key, path in paths_of(spec).items()}
    return {key: _describe(path, workdir) for key, path in paths.items() if path.exists()}


def _describe(path: Path, workdir: Path) -> dict[str, Any]:
    """What is kept of an input; see the module."""
    place = {"path": to_here(path.absolute(), workdir)}
    config, environment, manifest = (path / name for name in ("config.json", "environment.json", MANIFEST))
    if config.is_file() and environment.is_file():
        return place | {
            "config": hashlib.sha256(config.read_bytes()).hexdigest(),
            "commit": read_json(environment, []).get("commit"),
            "data": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None,
            "updates": updates_done(path),
        }
    if path.is_file() and path.stat().st_size <= _MOST_BYTES:
        return place | {"data": hashlib.sha256(path.read_bytes()).hexdigest()}
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    names = [[str(file.relative_to(path)), file.stat().st_size] for file in files]
    return place | {"files": hashlib.sha256(json.dumps(names).encode()).hexdigest()}


def weights_digest(params: Any) -> str:
    """A digest of a tree of arrays: names, shapes, types and every bit of every number (``array_digests``); any mesh's is the same."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    digests = array_digests([leaf for _, leaf in leaves])
    described = [
        [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), digest]
        for (path, leaf), digest in zip(leaves, digests, strict=True)
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
