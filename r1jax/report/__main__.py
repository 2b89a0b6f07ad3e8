"""Command line: one work directory gives its report, several give a comparison."""

import argparse
import sys
from pathlib import Path

from r1jax.report.page import compare, write_report


def main(arguments: list[str] | None = None) -> int:
    """Writes the page and prints its path; returns the exit status (2: bad input, said on stderr)."""
    parser = argparse.ArgumentParser(
        prog="r1jax report",
        description="Writes an HTML page from one work directory, or compares several; the completions go to a folder next to it.",
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report.html; with several, compare.html here")
    options = parser.parse_args(arguments)
    try:
        if len(options.workdirs) == 1:
            page = write_report(options.workdirs[0], out=options.out)
        else:
            page = compare(options.workdirs, out=options.out or Path("compare.html"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
