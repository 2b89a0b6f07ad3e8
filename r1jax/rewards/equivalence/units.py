"""Units of measurement behind a value (or, for money, before it): which are the same, and by what factor."""

import dataclasses
import re
from fractions import Fraction

# By dimension: the size of each unit and its names.
_SIZES = {
    "length": """
        0.001 mm millimeter millimetre, 0.01 cm centimeter centimetre, 0.1 dm decimeter decimetre, 1 m meter metre,
        1000 km kilometer kilometre, 0.0254 in inch inches, 0.3048 ft foot feet, 0.9144 yd yard, 1609.344 mi mile
        """,
    "time": "0.001 ms millisecond, 1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week",
    "months": "1 month, 12 yr year",
    "mass": "0.001 mg milligram, 1 g gram, 1000 kg kilogram, 453.59237 lb pound, 28.349523125 oz ounce",
    "volume": "0.001 ml mL milliliter millilitre, 1 L liter litre",
    "money": "1 USD dollar, 0.01 ¢ cent",
    "euro": "1 EUR euro",
    "sterling": "1 GBP",
    "yuan": "1 CNY yuan",
    "angle": "1 ° degree deg",
    "radian": "1 rad radian",
    "celsius": "1 °C",
    "fahrenheit": "1 °F",
    "share": "0.01 % percent pct",
    "unit": "1 unit",
    "force": "1 N newton",
    "energy": "1 J joule, 1000 kJ kilojoule",
    "power": "1 W watt, 1000 kW kilowatt",
    "potential": "1 V volt",
    "frequency": "1 Hz hertz, 1000 kHz",
}
_KNOWN = {
    form: (dimension, Fraction(size))
    for dimension, units in _SIZES.items()
    for size, *names in map(str.split, units.split(","))
    for name in names
    for form in {name, *([name + "s"] if len(name) > 2 else []), *([name + "s"] if name in ("hr", "lb", "yd") else [])}
}
# Words that change the value that they stand behind, or that offer another one.
_NOT_UNITS = frozenset(re.findall(r"\w+", """
hundred hundreds thousand thousands million millions billion billions trillion dozen dozens half halves third
thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth
tenths eleventh elevenths twelfth twelfths twentieth twentieths hundredth hundredths thousandth thousandths millionth
millionths lakh lakhs crore crores negative reciprocal inverse fewer incorrect nope squared cubed
factorial root pi minus plus times double twice triple and or not more less least most base mod modulo choose
over under by to from divided multiplied power approximately about nor but maybe either infinity undefined none
is are be than of per sin cos tan log exp sqrt max min gcd lcm true false yes no wrong correct if when where for
all with without something number numbers anything real reals integer integers
"""))  # fmt: skip

_TAIL = re.compile(
    r"(?P<value>.*[\d)}π!])(?P<space> ?)(?P<unit>(?:«[^«»]*»|°|%|¢|[A-Za-z])(?:«[^«»]*»|[A-Za-z°%/*. -]|\^\{-?[123]\})*)",
    re.DOTALL,
)
_HEAD = re.compile(r"(?P<sign>-? ?)«(?P<unit>USD|EUR|GBP|CNY)»(?P<value>.+)", re.DOTALL)
_PER_THING = re.compile(r"\s*(?:«per [A-Za-z ]+»|per [A-Za-z]+)$")
_PIECE = re.compile(r"°[CF]?|%|¢|[A-Za-z]+|\^\{?(-?\d)\}?|[/*.-]")
_SPEED = re.compile(r"(?i)\b(?:(mph)|kph|kmph)\b")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: powers of dimensions, and its size in their base units."""

    powers: frozenset[tuple[str, int]]
    size: Fraction

    @property
    def is_share(self) -> bool:
        """Whether it is the percent sign."""
        return self.powers == {("share", 1)}


def split_unit(text: str, *, is_gold: bool) -> tuple[str, Unit | None]:
    """The value and the unit of a normalised text; (text, None) where there is no unit.

    A single plain letter is a unit only in an answer and behind a space ("5 m"); in a reference it is a variable. Unknown
    words count things ("12 students"), unless they change the value ("12 million").
    """
    money = _HEAD.fullmatch(text)
    if money:
        value, unit = split_unit(_PER_THING.sub("", money["value"]), is_gold=is_gold)
        own = _read(money["unit"], plain=False)
        return (money["sign"] + value, own) if unit is None or unit == own else (text, None)
    match = _TAIL.fullmatch(text)
    if match is None or ("°" in match["unit"] and re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", match["value"])):
        return text, None
    raw = match["unit"].strip()
    if re.fullmatch("[A-Za-z]", raw) and (is_gold or not match["space"]):
        return text, None
    if raw.isalpha() and raw not in _KNOWN and not match["space"]:
        return text, None
    unit = _read(raw, plain="«" not in raw)
    return (match["value"].strip(), unit) if unit is not None else (text, None)


def _read(text: str, *, plain: bool) -> Unit | None:
    text = re.sub(r"° ?(?=[CF]\b)", "°", re.sub(r" *[«»] *", " ", text)).strip(" .()")
    text = _SPEED.sub(lambda match: "mi/h" if match[1] else "km/h", text)
    powers: dict[str, int] = {}
    size, sign, power, words, place = Fraction(1), 1, 1, 0, 0
    last: tuple[str, Fraction] | None = None
    while place < len(text):
        if text[place] == " ":
            place += 1
            continue
        match = _PIECE.match(text, place)
        if match is None:
            return None
        piece, place = match.group(), match.end()
        if piece[0] == "^":
            if last is None or not -3 <= int(match[1]) <= 3:
                return None
            extra = sign * (int(match[1]) - 1)
            powers[last[0]] += extra
            size *= last[1] ** extra
            last = None
        elif piece == "/" or piece.lower() == "per":
            if sign < 0 or not powers:
                return None
            sign = -1
        elif piece in "*.-":
            continue
        elif piece.lower() in _POWERS:
            power = _POWERS[piece.lower()]
        else:
            known = _KNOWN.get(piece) or (_KNOWN.get(piece.lower()) if len(piece) > 2 else None)
            if known is None:
                if piece.lower() in _NOT_UNITS or len(piece) < (4 if plain else 2):
                    return None
                words += 1
                known = (f"«{piece.lower().removesuffix('s')}»", Fraction(1))
            powers[known[0]] = powers.get(known[0], 0) + sign * power
            size *= known[1] ** (sign * power)
            last, power = known, 1
    if not powers or words > 3 or len(powers) > 4:
        return None
    return Unit(frozenset(powers.items()), size)
