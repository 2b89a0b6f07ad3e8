"""`python -m r1jax.hf.convert --from DIR --to DIR [--dtype float32|bfloat16|fp8]`: a Hugging Face folder in other types.

`--from` may also be a GGUF file of the Llama architecture. Checks everything first, then holds one tensor at a time.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from r1jax.hf.folder import open_folder
from r1jax.hf.fp8 import E4M3, SCALE_SUFFIX, is_quantised
from r1jax.hf.gguf import read_gguf
from r1jax.hf.names import hf_places
from r1jax.hf.write import DTYPES, MAX_SHARD_BYTES, Source, planned_bytes, write_folder
from r1jax.text.gguf_tokenizer import gguf_tokenizer


def convert(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Writes the model of `source` (a folder, or a GGUF file) to the folder `target`; returns the bytes of its weights.

    Progress is shown on stderr.

    dtype: None keeps each tensor's type; what is quantised becomes bfloat16 (FP8) or float32 (GGUF). "fp8" leaves what is
      FP8 already as it is: another rounding would change it.
    Errors: those of `open_folder` or `read_gguf` for the source, of `save_pretrained` for the target.
    """
    what = _gguf_source(source) if source.suffix == ".gguf" else _folder_source(source, keeps_fp8=dtype == "fp8")
    total = planned_bytes(what, dtype)
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("weights", total=total)
        on_bytes = functools.partial(bar.advance, task)
        write_folder(target, what, dtype=dtype, max_shard_bytes=max_shard_bytes, on_bytes=on_bytes)
    return total


def _folder_source(path: Path, *, keeps_fp8: bool) -> Source:
    folder = open_folder(path)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name in folder.places:
            if keeps_fp8 and is_quantised(name) and folder.stored[name].dtype == E4M3:
                yield name, folder.stored[name].read()
                yield name + SCALE_SUFFIX, folder.stored[name + SCALE_SUFFIX].read()
            else:
                yield name, folder.read(name)

    kept = {name: folder.stored[name].dtype for name in folder.places}
    return Source(
        config=folder.config,
        dtypes={name: DTYPES["bfloat16"] if kind == E4M3 else kind for name, kind in kept.items()},
        tensors=tensors,
        tokenizer=folder.tokenizer,
        generation=folder.generation,
    )


def _gguf_source(path: Path) -> Source:
    file = read_gguf(path)
    config = file.config()
    return Source(
        config=config,
        dtypes={name: np.dtype(np.float32) for name in hf_places(config)},
        tensors=lambda: file.hf_tensors(config),
        tokenizer=gguf_tokenizer(file.metadata),
        generation={},
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 and a message without traceback for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.hf.convert", description="A Hugging Face folder in other types."
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, help="Hugging Face folder, or a GGUF file")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="new folder")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="type of the weights; without it, as they are")
    parser.add_argument("--max-shard-bytes", type=int, default=MAX_SHARD_BYTES, help="size of a file (%(default)s)")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        total = convert(options.source, options.target, dtype=options.dtype, max_shard_bytes=options.max_shard_bytes)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.monotonic() - start
    print(f"{options.target}: {total / 1e9:.3f} GB in {seconds:.1f} s, {total / 1e6 / seconds:.0f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
