"""Command line: one work directory gives its report, several give a comparison."""

import argparse
import functools
import sys
from pathlib import Path

from r1jax.report.page import compare, write_report
from r1jax.report.serve import serve


def main(arguments: list[str] | None = None) -> int:
    """Writes the page and prints its path; returns the exit status (2: bad input, said on stderr)."""
    parser = argparse.ArgumentParser(
        prog="r1jax report",
        description="Writes an HTML page from one work directory, or compares several; the completions go to a folder next to it.",
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report.html; with several, compare.html here")
    parser.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=8321,
        metavar="PORT",
        help="show it to this machine, and refresh it (8321)",
    )
    options = parser.parse_args(arguments)
    if len(options.workdirs) == 1:
        write = functools.partial(write_report, options.workdirs[0], out=options.out)
    else:
        write = functools.partial(compare, options.workdirs, out=options.out or Path("compare.html"))
    try:
        page = write()
        print(page, flush=True)
        if options.serve is not None:
            serve(page, write, port=options.serve)
    except (ValueError, OSError, OverflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
