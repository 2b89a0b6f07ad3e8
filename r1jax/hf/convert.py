"""`r1jax convert --from DIR --to DIR [--dtype float32|bfloat16|fp8]`: a Hugging Face folder in other types.

`--from` may also be a GGUF file of the Llama architecture. Checks everything first, then holds one tensor at a time.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from r1jax.hf.folder import open_folder
from r1jax.hf.fp8 import E4M3, SCALE_SUFFIX, is_quantised
from r1jax.hf.gguf import open_gguf
from r1jax.hf.write import MAX_SHARD_BYTES, WEIGHT_TYPES, write_model


def convert(source: Path, target: Path, *, dtype: str | None = None, max_shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Writes the model of a folder or GGUF file to the folder `target`, with progress on stderr; returns the weights'
    bytes.

    dtype: None keeps each tensor's type; what is quantised becomes bfloat16 (FP8) or float32 (GGUF). "fp8" leaves what
      is FP8 already as it is: another rounding would change it.
    Errors: those of `open_folder` or `open_gguf` for the source, of `save_pretrained` for the target.
    """
    files = open_gguf(source) if source.suffix == ".gguf" else open_folder(source)
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("weights", total=sum(files.stored[name].num_bytes for name in files.places))

        def read(name: str) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
            stored = files.stored[name]
            bar.advance(task, stored.num_bytes)
            if dtype == "fp8" and is_quantised(name) and stored.dtype == E4M3:
                return stored.read(), files.stored[name + SCALE_SUFFIX].read()
            return files.read(name)

        kept = {name: files.stored[name].dtype for name in files.places}
        return write_model(
            target,
            files.config,
            read=read,
            dtypes={name: WEIGHT_TYPES["bfloat16"] if kind == E4M3 else kind for name, kind in kept.items()},
            tokenizer=files.tokenizer,
            generation=files.generation,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 and a message without traceback for what the user can mend."""
    parser = argparse.ArgumentParser(prog="r1jax convert", description="A Hugging Face folder in other types.")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="Hugging Face folder, or a GGUF file")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="new folder")
    parser.add_argument("--dtype", choices=sorted(WEIGHT_TYPES), help="type of the weights; without it, as they are")
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
