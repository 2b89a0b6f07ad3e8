"""What a compiled program sends between devices, read from its HLO text: bytes by kind, over all iterations of loops.

XLA's own cost analysis counts the body of a loop once. The iterations of a scan are in the text: in the loop's
``known_trip_count``, or as the constant that its condition compares with. Where only the run knows them (a decode loop,
the further rounds of an exchange of experts' tokens), the caller gives them.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast", "send",
)  # fmt: skip
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


class _Instruction(NamedTuple):
    name: str
    type: str
    op: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])


_Computation = dict[str, _Instruction]


def collective_bytes(hlo: str, *, dynamic_trips: Sequence[int] = ()) -> dict[str, float]:
    """Kind -> bytes a device that a program's collectives move in all.

    Of each collective the larger of operands and results counts: the gathered array of an all-gather, the whole array
    that a reduce-scatter sums. dynamic_trips: iterations of nested loops whose number is not in the text, the outermost
    first; 0 for loops that are nested deeper. Raises ValueError for text without an entry.
    """
    computations: dict[str, _Computation] = {}
    entry, current = None, {}
    for line in map(str.strip, hlo.splitlines()):
        if start := _COMPUTATION.match(line):
            current = computations[start[2]] = {}
            entry = start[2] if start[1] else entry
        elif match := _INSTRUCTION.match(line):
            current[match[1]] = _Instruction(*match.groups())
    if entry is None:
        raise ValueError("this is no HLO module: it has no ENTRY computation")
    total: dict[str, float] = defaultdict(float)
    for kind, size in _walk(computations, entry, 1, tuple(dynamic_trips)):
        total[kind] += size
    return {kind: total[kind] for kind in COLLECTIVES if total[kind]}


def _walk(
    computations: Mapping[str, _Computation], name: str, trips: float, dynamic: tuple[int, ...]
) -> Iterator[tuple[str, float]]:
    """(kind, bytes) of every collective below a computation that runs so many times."""
    instructions = computations.get(name, {}) if trips else {}
    for instruction in instructions.values():
        kind, rest = instruction.op.removesuffix("-start"), instruction.rest
        if kind in COLLECTIVES:
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # as TPUs write it: the rest of the computation takes this device's part
            yield kind, _moved(instruction, instructions) * trips
        elif instruction.op == "while":
            loop = dict(re.findall(r"\b(condition|body)=%?([\w.\-]+)", rest))
            known = _known_trips(rest, computations.get(loop["condition"], {}).values())
            times, inner = ((dynamic or (0,))[0], dynamic[1:]) if known is None else (known, dynamic)
            yield from _walk(computations, loop["body"], trips * times, inner)
        elif instruction.op in ("fusion", "call", "conditional", "async-start"):
            called = _CALLED.findall(rest) + re.findall(r"[\w.\-]+", ",".join(_BRANCHES.findall(rest)))
            for other in dict.fromkeys(called):
                yield from _walk(computations, other, trips, dynamic)


def _moved(instruction: _Instruction, instructions: _Computation) -> int:
    """Bytes of the larger of operands and results; the type of a "-start" holds both."""
    results = _array_sizes(instruction.type)
    if "ragged" in instruction.op:  # its further operands are offsets of rows
        return sum(results)
    if instruction.op.endswith("-start"):
        return max(results, default=0)
    types = (instructions[name].type for name in instruction.operands if name in instructions)
    return max(sum(sum(_array_sizes(type_text)) for type_text in types), sum(results))


def _array_sizes(type_text: str) -> list[int]:
    """Bytes of each array of a type."""
    sizes = []
    for dtype, dims in _ARRAY.findall(type_text):
        bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or [0])[0])
        sizes.append(-(-bits * math.prod(map(int, re.findall(r"\d+", dims))) // 8))
    return sizes


def _known_trips(attributes: str, condition: Iterable[_Instruction]) -> int | None:
    """Iterations of a loop from 0 in steps of 1; None where they are not in the text."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes):
        return int(known[1])
    constants = {
        i.name: int(match[1]) for i in condition if i.op == "constant" and (match := re.match(r"(-?\d+)\)", i.rest))
    }
    for instruction in condition:
        if instruction.op == "compare" and re.search(r"direction=L[TE]", instruction.rest):
            limits = [constants[name] for name in instruction.operands if name in constants]
            if len(limits) == 1:
                return limits[0] + ("direction=LE" in instruction.rest)
    return None
