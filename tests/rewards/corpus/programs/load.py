"""Reads the program corpus: text files of sections, "=== name | field | field | what it tries", then the source."""

import dataclasses
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Section:
    name: str
    fields: tuple[str, ...]
    tries: str
    source: str


def sections(name: str) -> list[Section]:
    """The sections of a file of this folder, in order; a name used twice or an empty source is an error."""
    found = []
    for part in ("\n" + (FOLDER / name).read_text(encoding="utf-8")).split("\n=== ")[1:]:
        header, _, source = part.partition("\n")
        title, *fields, tries = (field.strip() for field in header.split(" | "))
        assert source.strip() and tries, title
        found.append(Section(title, tuple(fields), tries, source.rstrip() + "\n"))
    names = [section.name for section in found]
    assert len(set(names)) == len(names), f"{name}: a name is used twice"
    return found
