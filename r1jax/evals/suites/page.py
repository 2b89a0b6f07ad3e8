"""The page ``data.md``: ``python -m r1jax.evals.suites.page`` writes it anew from the table of suites."""

from pathlib import Path

from r1jax.evals.suites.table import SUITES

PATH = Path(__file__).with_name("data.md")

_HEAD = """# Where the suites' data is published

Nothing is downloaded by the code. Of each suite put the file, or a folder with the files, into one folder DATA, under
the name of the suite: `DATA/mmlu_pro.parquet`, or `DATA/mmlu_pro/`. A file is jsonl, json or csv (each also .gz), a zip
with one of these, parquet or arrow, with the columns as published. A folder that holds several splits is read at the
split that is named.

`python -m r1jax.evals.suites.page` writes this page from `table.py`.
"""


def text() -> str:
    """The page."""
    parts = [_HEAD]
    for suite in SUITES.values():
        protocol = suite.protocol
        size = "by date" if suite.size is None else f"{suite.size:,}"
        lines = {
            "published": suite.published,
            "licence": suite.licence,
            "which file": suite.files,
            "split": suite.split,
            "columns": ", ".join(suite.columns),
            "problems": size if suite.name != "cnmo_2024" else "not published by the paper",
            "metric": f"{suite.metric}, {protocol.samples} samples, {suite.shots or 'zero'}-shot, temperature "
            f"{protocol.temperature}, top-p {protocol.top_p}, {protocol.max_new_tokens:,} tokens",
            "in the paper": suite.place,
            "differs": suite.differs,
        }
        parts.append(
            f"## {suite.name}: {suite.title}\n\n" + "\n".join(f"- {key}: {value}" for key, value in lines.items())
        )
    return "\n".join([parts[0], "\n\n".join(parts[1:]), ""])


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
