"""Programs that run inside the sandbox: each is one file, sent as text, that imports the standard library only."""

from pathlib import Path


def source_of(name: str) -> str:
    """The text of the program of that name here."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
