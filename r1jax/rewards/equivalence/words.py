"""Letters and words: which runs of letters are products, what two spellings of the same words share, options and labels."""

import re
from collections.abc import Sequence

from r1jax.rewards.equivalence.notations import NUMBERS

_VOWELS = frozenset("aeiou")
_SHORT_WORDS = frozenset(re.findall(r"\w+", """
ad ah am an as at ax be by do ex go ha he hi if in is it la me my no of oh on or ox pi so to up us we iv vi ix xi xl lx
"""))  # fmt: skip
_LETTERS = re.compile(r"[A-Za-z](?: ?[A-Za-z])+")
_WORD = re.compile(r"[^\W\d_]+")
_LONG_WORD = re.compile(r"[^\W\d_]{4}")
_ARTICLE = re.compile(r"(?i)^(«?)(?:the|an|on|in|at) (?=[a-z]{3})")
_RUN = re.compile(r"[A-Z]{2,12}|[①-⑳]{2,}")
_GENES = re.compile(r"(?:([a-z])\1+(?!\1))+|[abc]+")  # repeated letters are in no word; AABB is not aabb
_BRACKETED = re.compile(r"(?:\([A-J]\)\s*){2,}")
_LABEL = re.compile(r"[«(]*([A-Z]|[①-⑳])[)»]*")
_WEEKDAYS = zip("一二三四五六", ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday"), strict=True)
_SYNONYMS = {
    form: key
    for key, forms in {
        "dne": "doesnotexist undefined 不存在", "true": "对 正确 √", "false": "错 错误 ×", "yes": "是", "no": "否",
        "∅": "nosolution nosolutions ⦃⦄ emptyset theemptyset norealsolution norealsolutions 无解 原方程无解 方程无解 空集 无实数解",
        "ℝ": "allrealnumbers allreals thesetofallrealnumbers (-∞,∞) (-∞,+∞) anyrealnumber 全体实数 任意实数 一切实数 实数集",
        "∞": "+∞ infinite infinitelymany infinitelymanysolutions 无穷大 无数 无数个 无数条 无数组 无穷多 无穷多个 无数多个",
        "ℤ": "allintegers thesetofallintegers 全体整数 整数集",
        "quadranti": "firstquadrant 第一象限 quadrant1", "quadrantii": "secondquadrant 第二象限 quadrant2",
        "quadrantiii": "thirdquadrant 第三象限 quadrant3", "quadrantiv": "fourthquadrant 第四象限 quadrant4",
        "sunday": "星期日 星期天 周日 周天", **{day: f"星期{sign} 周{sign} 礼拜{sign}" for sign, day in _WEEKDAYS},
    }.items()
    for form in forms.split()
}  # fmt: skip
_NUMBERS = {word: str(number) for number, word in enumerate(NUMBERS)}


def is_product(run: str) -> bool:
    """Whether letters side by side, alone in a text, are variables multiplied: ``abc``, ``xyz``, ``mgh``, ``nRT``.

    Capitals are names, options or moves, a letter twice is a sequence, and what has a vowel may be a word.
    """
    letters = run.replace(" ", "")
    lower = letters.lower()
    if letters.isupper() or len(set(lower)) < len(lower):
        return False
    if len(letters) == 2 and letters == lower:
        return not {lower, lower[::-1]} & _SHORT_WORDS
    if letters == lower and ord(max(lower)) - ord(min(lower)) == len(lower) - 1:
        return True
    return not _is_spoken(lower)


def same_letters(gold: str, answer: str) -> bool | None:
    """Whether runs of letters are the same; None where they may be products, or the reference is no run of letters."""
    if not _LETTERS.fullmatch(gold):
        return None
    if is_product(gold) and (is_product(answer) or not _LETTERS.fullmatch(answer)):
        return None
    return key_of(gold) == key_of(answer.replace("*", ""))


def same_options(gold: str, golds: list[str] | None, answer: str, answers: list[str] | None) -> bool | None:
    """Whether ``ABD`` is ``A, B, D`` or ``D, B, A``, and ``HTT`` is ``H, T, T``; None where it is not so that one is a list."""
    if golds is None and answers is None:
        golds, answers = (_BRACKETED.fullmatch(text) and re.findall("[A-J]", text) for text in (gold, answer))
    if golds and answers and gold[0] != "⦃" and all(map(_LABEL.fullmatch, golds + answers)):
        one, other = ([re.sub("[«»()]", "", item) for item in items] for items in (golds, answers))
        return None if _is_ascending(one) else one == other
    if (golds is None) == (answers is None):
        return None
    run, items = (gold, answers) if golds is None else (answer, golds)
    run, labels = run.strip("«» "), [_LABEL.fullmatch(item.strip()) for item in items or []]
    if not _RUN.fullmatch(run) or not all(labels):
        return None
    listed = [label[1] for label in labels if label]
    is_choice = all(letter in "ABCDEFGHIJ" or letter > "Z" for letter in run)
    reference = list(run) if answers is items else listed
    return sorted(listed) == sorted(run) if is_choice and _is_choice_of_some(reference) else listed == list(run)


def _is_choice_of_some(letters: Sequence[str]) -> bool:
    """Options in order, or some of more (EAD); all of the first letters in another order (BADC) are a sequence."""
    is_all = sorted(letters) == list("ABCDEFGHIJ"[: len(letters)])
    return _is_ascending(letters) or (len(set(letters)) == len(letters) and not is_all)


def _is_ascending(letters: Sequence[str]) -> bool:
    """Whether letters may be a set of options: in order, each once. In any other order they are a sequence."""
    return list(letters) == sorted(set(letters))


def key_of(text: str) -> str:
    """A text without what never matters: spaces, word marks, closing punctuation, the case of words."""
    text = re.sub(r"(?<=\b[A-Z]) (?=[A-Z]\b)", "", text)
    text = re.sub("«[^«»]*»", lambda words: _WORD.sub(_folded, words.group()), _ARTICLE.sub(r"\1", text))
    key = re.sub(r"(?<!\d)\s+|\s+(?!\d)|[«»]", "", text).rstrip(".,;:")
    folded = key.casefold()
    is_words = re.fullmatch(r"[^\W\d_]+(?:[-,.'’][^\W\d_]+)*", key)
    if is_words and (_LONG_WORD.search(key) or not re.search("[-,]", key)):  # "x-y" is not "xy"
        key = re.sub(r"[-,.'’ ]", "", _WORD.sub(_folded, key if "«" in text else text))
    key = re.sub(r"^0(?=\d:\d\d)", "", key).removesuffix("条件").replace("充分必要", "充要")
    key = folded.removeprefix("the") if "quadrant" in folded else key
    return _SYNONYMS.get(key, _NUMBERS.get(key, key))


def _folded(match: re.Match[str]) -> str:
    """A word in small letters; letters that may be variables, units or moves as they are."""
    word, lower = match.group(), match.group().casefold()
    is_cased = word in (lower, lower.upper(), lower.capitalize())
    is_run = is_product(lower) or _GENES.fullmatch(lower)
    is_word = lower == "no" or (len(word) > 2 and _is_spoken(lower) and not is_run)
    return lower if is_cased and is_word else word


def _is_spoken(lower: str) -> bool:
    """Whether letters may be a word: they have a vowel (or are not Latin)."""
    return not lower.isascii() or bool(_VOWELS & set(lower)) or ("y" in lower and not {"x", "z"} & set(lower))
