"""The plots of both pages: which metrics share axes, under which title and unit. `panels.toml` lists them."""

import dataclasses
import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Line:
    """One metric of a panel. A `*` in the name stands for one path part and goes into the label."""

    metric: str
    label: str
    low: str = ""  # metric with the lower edge of the band
    high: str = ""

    def matches(self, names: Collection[str]) -> Iterator["Line"]:
        """Yields this line for each of `names` that it fits, stars filled in."""
        pattern = re.compile(re.escape(self.metric).replace(r"\*", "([^/]+)"))
        for name in sorted(names, key=_natural):
            match = pattern.fullmatch(name)
            if match and not ("*" in self.metric and name.endswith(("_low", "_high"))):
                part = match[1] if "*" in self.metric else ""
                yield Line(name, *(text.replace("*", part) for text in (self.label, self.low, self.high)))


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: title, unit of the vertical axis, lines, and a sentence on how to read it."""

    title: str
    unit: str
    lines: tuple[Line, ...] = ()
    note: str = ""
    band: str = ""  # what the bands are, where there are any
    low: float | None = None  # fixed end of the vertical axis
    high: float | None = None
    is_exact: bool = False  # a schedule, not a measurement: drawn as it is
    across: str = "update"  # the horizontal axis
    is_along_the_way: bool = False  # of held-out evaluations only those along the way, where there are such


OTHER = "Other metrics"

# Metrics drawn as part of another panel, or known and not worth a plot.
_QUIET = re.compile(
    r".*_(low|high)|completions/(min|max)_length|(min|max)_reward|rewards/[^/]+/std|moe/load/.*|time|time/step|finite"
)


def resolve(names: Collection[str]) -> dict[str, list[Panel]]:
    """Heading -> panels, with the lines that `names` can fill; unknown metrics come last, a panel each."""
    sections: dict[str, list[Panel]] = {}
    used: set[str] = set()
    table = tomllib.loads(Path(__file__).with_name("panels.toml").read_text("utf-8"))
    for section, panels in table.items():
        for panel in panels:
            lines: dict[str, Line] = {}
            for metric, label, *band in panel.pop("lines"):
                low, high = band or (f"{metric}_low", f"{metric}_high")
                for line in Line(metric, label, low, high).matches(names):
                    lines.setdefault(line.metric, line)
            if lines:
                used |= lines.keys()
                sections.setdefault(section, []).append(Panel(**panel, lines=tuple(lines.values())))
    rest = sorted((name for name in names if name not in used and not _QUIET.fullmatch(name)), key=_natural)
    if rest:
        sections[OTHER] = [Panel(name, "value", (Line(name, name),)) for name in rest]
    return sections


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts pass@4 before pass@16."""
    return [(len(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
