"""What a compiled program sends between devices, read from its HLO text: bytes by kind, over all iterations of loops.

XLA's own cost analysis counts the body of a loop once. The iterations of a scan are in the text: in the loop's
``known_trip_count``, or as the constant that its condition compares with. Where only the run knows them (a decode loop, the further
rounds of an exchange of experts' tokens), the caller gives them.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    op: str
    rest: str
    """Operands and attributes."""

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])


def collective_bytes(hlo: str, *, dynamic_trips: Sequence[int] = ()) -> dict[str, float]:
    """Kind -> bytes a device that a program's collectives move in all.

    Of each collective the larger of operands and results counts: the gathered array of an all-gather, the whole array that a
    reduce-scatter sums. dynamic_trips: iterations of nested loops whose number is not in the text, the outermost first; 0 for
    loops that are nested deeper. Raises ValueError for text without an entry.
    """
    computations, entry = _parse(hlo)
    if entry is None:
        raise ValueError("this is no HLO module: it has no ENTRY computation")
    total: dict[str, float] = defaultdict(float)
    for kind, size, trips in _walk(computations, entry, 1, tuple(dynamic_trips)):
        total[kind] += size * trips
    return {kind: total[kind] for kind in KINDS if total[kind]}


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    """(computation -> its instructions, the entry's name)."""
    computations: dict[str, list[_Instruction]] = {}
    entry = current = None
    for line in map(str.strip, hlo.splitlines()):
        if start := _COMPUTATION.match(line):
            current = computations.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif line == "}":
            current = None
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current.append(_Instruction(*instruction.groups()))
    return computations, entry


def _walk(computations, name: str, trips: float, dynamic: tuple[int, ...]) -> Iterator[tuple[str, int, float]]:
    """(kind, bytes, times) of every collective below a computation."""
    if not trips:
        return
    instructions = computations.get(name, [])
    types = {instruction.name: instruction.type for instruction in instructions}
    for instruction in instructions:
        kind = instruction.op.removesuffix("-start")
        if kind in KINDS:
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # as TPUs write it: the rest of the computation takes this device's part
            yield kind, _moved(instruction, types), trips
        elif instruction.op == "while":
            condition, body = (re.search(rf"\b{key}=%?([\w.\-]+)", instruction.rest) for key in ("condition", "body"))
            known = _known_trips(instruction.rest, computations.get(condition[1] if condition else "", ()))
            inner = dynamic if known is not None else dynamic[1:]
            times = known if known is not None else (dynamic or (0,))[0]
            if body:
                yield from _walk(computations, body[1], trips * times, inner)
        elif instruction.op in ("fusion", "call", "conditional", "async-start"):
            called = _CALLED.findall(instruction.rest)
            for branches in _BRANCHES.findall(instruction.rest):
                called += re.findall(r"%?([\w.\-]+)", branches)
            for other in dict.fromkeys(called):
                yield from _walk(computations, other, trips, dynamic)


def _moved(instruction: _Instruction, types: Mapping[str, str]) -> int:
    """Bytes of the larger of operands and results; the type of a "-start" holds both."""
    operands = sum(sum(_array_sizes(types.get(name, ""))) for name in instruction.operands)
    results = _array_sizes(instruction.type)
    if "ragged" in instruction.op:  # its further operands are offsets of rows
        return sum(results)
    if instruction.op.endswith("-start"):
        return max(results, default=0)
    return max(operands, sum(results))


def _array_sizes(type_text: str) -> list[int]:
    """Bytes of each array of a type."""
    sizes = []
    for dtype, dims in _ARRAY.findall(type_text):
        bits = _BITS.get(dtype) or int((re.findall(r"\d+", dtype) or [0])[0])
        sizes.append(-(-bits * math.prod(int(dim) for dim in dims.split(",") if dim) // 8))
    return sizes


def _known_trips(attributes: str, condition: Sequence[_Instruction]) -> int | None:
    """Iterations of a loop from 0 in steps of 1; None where they are not in the text."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes):
        return int(known[1])
    constants = {i.name: int(i.rest.partition(")")[0]) for i in condition if _is_integer_constant(i)}
    for instruction in condition:
        if instruction.op == "compare" and re.search(r"direction=L[TE]", instruction.rest):
            limits = [constants[name] for name in instruction.operands if name in constants]
            if len(limits) == 1:
                return limits[0] + ("direction=LE" in instruction.rest)
    return None


def _is_integer_constant(instruction: _Instruction) -> bool:
    return instruction.op == "constant" and re.fullmatch(r"-?\d+", instruction.rest.partition(")")[0]) is not None
