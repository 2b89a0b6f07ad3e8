r"""A reader of mathematical expressions, in LaTeX or as one types them, into a small tree.

It refuses what has two readings (``\sin π/4``, ``x2``, ``1/ab``) and what does not belong in a final answer: sums,
integrals and limits left undone restate the question. Names are case-sensitive; ``e`` and ``i`` are the constants;
``\log`` without a base has base 10.

Trees are tuples: ("num", Fraction), ("sym", name), ("const", "π" | "e" | "i"), ("add" | "mul" | "div" | "pow", a, b),
("neg" | "fact", a), ("fn", name, a), ("log", base, a), ("binom", n, k).
"""

import re
from fractions import Fraction
from typing import Any

from r1jax.rewards.equivalence.text import UnreadableError
from r1jax.rewards.equivalence.words import is_product

Node = tuple[Any, ...]

MAX_DIGITS = 400
_ALIASES = {f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot")}
_ALIASES |= {"tg": "tan", "ctg": "cot", "cosec": "csc"}
_FUNCTIONS = frozenset(_ALIASES) | frozenset(
    re.findall(
        r"\w+", "sin cos tan cot sec csc asin acos atan acot sinh cosh tanh ln log lg exp abs floor ceil sqrt cbrt"
    )
)
_INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot"}
_GREEK = frozenset(re.findall(r"\w+", """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega hbar ell
"""))  # fmt: skip
_ACCENTS = frozenset(
    {"hat", "vec", "bar", "overline", "tilde", "overrightarrow", "dot", "widehat", "mathbf", "mathrm", "mathcal"}
)

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\[A-Za-z]+)|([A-Za-z]+)|([-+*/^_(){}\[\]|!%°π'])|$)")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DATE = re.compile(r"(?<![\d.,-])0\d\s*[-/]|\d\s*[-/]\s*0\d")
_SPACED_NUMBER = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"(?<=\d)[eE]([-+]?\d+)(?![\d.])")
_MIXED = re.compile(r"(?<![\w.])([\d.]+)(?:\s*(?:and\s+)?\\frac\{(\d+)\}\{(\d+)\}|(?: +|\s+and\s+)(\d+)\s*/\s*(\d+)$)")
_LITERAL_RATIO = re.compile(r"\d+\s*/\s*\d+")


def parse_expression(text: str) -> Node:
    """The tree of a normalised text.

    Raises:
        UnreadableError: not an expression, of two meanings, or with a number of more than 400 digits.
    """
    text = text.strip()
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise UnreadableError(f"a number of more than {MAX_DIGITS} digits")
    if _DATE.search(text):
        raise UnreadableError("a date rather than a difference or a quotient")
    text = _MIXED.sub(_mixed_number, text)
    if _SPACED_NUMBER.fullmatch(text):
        text = text.replace(" ", "")
    text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    text = _SCIENTIFIC.sub(r"*10^{\1}", text)
    reader = _Reader(_tokens(text))
    tree = reader.expression()
    if reader.here is not None:
        raise UnreadableError(f"{reader.here!r} is not expected")
    return tree


def symbols(node: Node) -> frozenset[str]:
    """The names in a tree."""
    if node[0] == "sym":
        return frozenset({node[1]})
    return frozenset().union(*(symbols(part) for part in node[1:] if isinstance(part, tuple)))


def has_i(node: Node) -> bool:
    """Whether the imaginary unit is in a tree."""
    return node == ("const", "i") or any(has_i(part) for part in node[1:] if isinstance(part, tuple))


def literal(value: int | Fraction) -> Node:
    """A number's tree."""
    return ("num", Fraction(value))


def _mixed_number(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], int(match[2] or match[4]), int(match[3] or match[5])
    if "." in whole or not 0 < top < bottom:
        raise UnreadableError("neither a mixed number nor a product")
    return f"({whole}+{top}/{bottom})"


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise UnreadableError(f"{text[place]!r} is not expected")
        place = match.end()
        value, command, word, character = match.groups()
        name = (command or "")[1:]
        if word and word not in _FUNCTIONS:
            if len(word) > 3 and not is_product(word):
                raise UnreadableError(f"{word!r} is not expected")
            tokens.extend(word)
        elif word or name in _FUNCTIONS:
            tokens.append("\\" + _ALIASES.get(word or name, word or name))
        elif value or command or character:
            tokens.append(value or command or character)
    return tokens


def _is_number(token: str | None) -> bool:
    return token is not None and (token[0].isdigit() or token[0] == ".")


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens
        self.place = 0
        self.bars = 0

    @property
    def here(self) -> str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self, expected: str | None = None) -> str:
        token = self.here
        if token is None or (expected is not None and token != expected):
            raise UnreadableError(f"{expected or 'more'} is missing")
        self.place += 1
        return token

    def expression(self) -> Node:
        tree = self.term()
        while self.here in ("+", "-"):
            sign = self.take()
            right = self.term()
            tree = ("add", tree, right if sign == "+" else ("neg", right))
        return tree

    def term(self) -> Node:
        start = self.place
        tree = last = self.signed()
        divided = False
        while True:
            if self.here in ("*", "/"):
                operator = self.take()
                right = self.signed()
                tree, last = ("mul" if operator == "*" else "div", tree, right), right
                divided = operator == "/"
            elif self.starts_operand() or (last[0] in ("pow", "fact") and _is_number(self.here)):
                if divided and not _LITERAL_RATIO.fullmatch("".join(self.tokens[start : self.place])):
                    raise UnreadableError("a product after a quotient has two readings")
                last = self.power()
                tree = ("mul", tree, last)
            else:
                return tree

    def signed(self) -> Node:
        if self.here in ("+", "-"):
            negative = self.take() == "-"
            if self.here in ("+", "-"):
                raise UnreadableError("two signs")
            operand = self.signed()
            return ("neg", operand) if negative else operand
        return self.power()

    def starts_operand(self) -> bool:
        token = self.here
        if token is None or _is_number(token):
            return False
        if token == "|":
            return self.bars == 0
        return token in "({[π" or token.isalpha() or (token[0] == "\\" and token not in ("\\rfloor", "\\rceil"))

    def power(self) -> Node:
        base = self.postfix(self.primary())
        if self.here == "^":
            self.take()
            return self.postfix(("pow", base, self.exponent()))
        return base

    def exponent(self) -> Node:
        if self.here in ("+", "-"):
            negative = self.take() == "-"
            tree = self.primary()
            return ("neg", tree) if negative else tree
        tree = self.primary()
        if self.here == "^":
            self.take()
            return ("pow", tree, self.exponent())
        return tree

    def postfix(self, tree: Node) -> Node:
        while self.here in ("!", "°", "%"):
            match self.take():
                case "!":
                    if tree[0] == "fact":
                        raise UnreadableError("a double factorial")
                    tree = ("fact", tree)
                case "°":
                    tree = ("mul", tree, ("div", ("const", "π"), literal(180)))
                case _:
                    tree = ("div", tree, literal(100))
        return tree

    def group(self, brackets: str = "({[") -> Node:
        opening = self.take()
        if opening not in brackets:
            raise UnreadableError("an argument is missing")
        bars, self.bars = self.bars, 0
        tree = self.expression()
        self.bars = bars
        self.take({"(": ")", "{": "}", "[": "]"}[opening])
        return tree

    def primary(self) -> Node:
        token = self.here
        if token is None:
            raise UnreadableError("an operand is missing")
        if token in ("(", "{", "["):
            return self.group()
        self.take()
        if _is_number(token):
            if self.here == "_":
                raise UnreadableError("a number with an index")
            return literal(Fraction(token))
        if token == "|":
            self.bars += 1
            tree = self.expression()
            self.bars -= 1
            self.take("|")
            return ("fn", "abs", tree)
        if token == "π":
            return ("const", "π")
        if token.isalpha():
            return self.name(token)
        if token[0] != "\\":
            raise UnreadableError(f"{token!r} is not expected")
        return self.command(token[1:])

    def command(self, name: str) -> Node:
        if name in ("frac", "binom"):
            first, second = self.group("{"), self.group("{")
            return ("div" if name == "frac" else "binom", first, second)
        if name == "sqrt":
            degree = self.group() if self.here == "[" else literal(2)
            return ("pow", self.group(), ("div", literal(1), degree))
        if name == "cbrt":
            return ("pow", self.group(), literal(Fraction(1, 3)))
        if name in ("lfloor", "lceil"):
            tree = self.expression()
            self.take("\\r" + name[1:])
            return ("fn", name[1:], tree)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _GREEK:
            return self.name("\\" + name)
        if name in _ACCENTS:
            return self.name(f"\\{name}{{{self.raw_group()}}}")
        raise UnreadableError(f"\\{name} is not known")

    def name(self, name: str) -> Node:
        while self.here in ("_", "'"):
            name += self.take() if self.here == "'" else self.index()
        return ("const", name) if name in ("e", "i") else ("sym", name)

    def index(self) -> str:
        self.take("_")
        return "_" + (self.raw_group() if self.here == "{" else self.take())

    def raw_group(self) -> str:
        self.take("{")
        raw = ""
        while self.here not in ("}", None):
            token = self.take()
            if not (token.isalnum() or token in "+-,"):
                raise UnreadableError("an index that is no name")
            raw += token
        self.take("}")
        return raw

    def function(self, name: str) -> Node:
        base, power = None, None
        for _ in range(2):
            if self.here == "_" and name == "log":
                self.take()
                base = self.group() if self.here == "{" else self.primary()
            elif self.here == "^" and power is None:
                self.take()
                power = self.exponent()
        if self.here in ("(", "{", "["):
            argument = self.group()
            if self.here == "^":
                raise UnreadableError("a power behind an argument has two readings")
        else:
            argument = self.bare_argument()
        if power == ("neg", literal(1)) and name in _INVERSES:
            return ("fn", _INVERSES[name], argument)
        if name in ("log", "lg"):
            tree: Node = ("log", base or literal(10), argument)
        elif name == "exp":
            tree = ("pow", ("const", "e"), argument)
        else:
            tree = ("fn", name, argument)
        return tree if power is None else ("pow", tree, power)

    def bare_argument(self) -> Node:
        negative = self.here == "-"
        if negative:
            self.take()
        tree = self.power()
        while self.starts_operand() and (self.here or "")[1:] not in _FUNCTIONS:
            tree = ("mul", tree, self.power())
        if self.here == "/":
            raise UnreadableError("a quotient behind a function has two readings")
        return ("neg", tree) if negative else tree
