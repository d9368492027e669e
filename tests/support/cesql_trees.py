"""Trees of CloudEvents SQL at random, as the interpreter of `tests.support.cesql` takes them, and their text."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.support.cesql import LEVEL, LOGIC, PRODUCT, RETURNS, TAKES, Tree, Value

TEST, PREFIX, ATOM = range(PRODUCT + 1, PRODUCT + 4)
NAMES: dict[type, list[str]] = {
    str: ["id", "source", "type", "subject", "a", "b"],
    int: ["n1", "1a", "n1", "1a", "b"],
    bool: ["flag", "flag", "b"],
}
ALL_NAMES = sorted({name for names in NAMES.values() for name in names})


def _numbers() -> st.SearchStrategy[Tree]:
    numbers = st.one_of(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([10, 2**31 - 1, -(2**31)]))
    return st.tuples(numbers, st.sampled_from(["", "+", "00"])).map(_written_number)


def _truths() -> st.SearchStrategy[Tree]:
    return st.sampled_from(["true", "TRUE", "tRuE", "false", "FALSE"]).map(lambda t: ("lit", t.lower() == "true", t))


def _written_number(given: tuple[int, str]) -> Tree:
    number, prefix = given
    return ("lit", number, str(number) if number < 0 else f"{prefix}{number}")


@st.composite
def strings(draw: st.DrawFn, alphabet: str = "abAB1 0é😀\u3000\t%_=-") -> tuple[str, str]:
    """What a string literal says, and how it is written."""
    usual = ["", "a", "true", "False", "1", "-7", "+3", "2147483648", "x y", "10"]
    quote, other = draw(st.permutations(["'", '"']))
    if draw(st.booleans()):
        text = draw(st.sampled_from(usual))
        return text, f"{quote}{text}{quote}"
    plain = st.sampled_from([*alphabet, other]).map(lambda char: (char, char))
    pairs = st.sampled_from(["\\a", "\\%", "\\_", "\\\\", f"\\{other}"]).map(lambda pair: (pair, pair))
    escaped = st.just((quote, f"\\{quote}"))
    pieces = draw(st.lists(st.one_of(plain, plain, pairs, escaped), max_size=8))
    return "".join(said for said, _ in pieces), quote + "".join(written for _, written in pieces) + quote


_LITERALS: dict[type, st.SearchStrategy[Tree]] = {
    str: strings().map(lambda pair: ("lit", *pair)),
    int: _numbers(),
    bool: _truths(),
}


@st.composite
def trees(draw: st.DrawFn, kind: type | None = None, depth: int = 4) -> Tree:
    """A tree of a type or of any; mostly its operands are of the types that are wanted, but never always."""
    if kind is None or draw(st.integers(0, 11)) == 0:
        kind = draw(st.sampled_from([str, int, bool]))
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        leaves = [_LITERALS[kind], st.sampled_from(NAMES[kind]).map(lambda name: ("attr", name))]
        return draw(st.one_of(leaves))
    build = draw(st.sampled_from(_BUILDERS[kind]))

    def inner(of: type | None) -> Tree:
        return draw(trees(of, depth - 1))

    return build(draw, inner)


Inner = Callable[[type | None], Tree]
Builder = Callable[[st.DrawFn, Inner], Tree]


def _joined(kind: type, *operators: str) -> Builder:
    return lambda draw, inner: ("binary", draw(st.sampled_from(operators)), inner(kind), inner(kind))


def _equality(draw: st.DrawFn, inner: Inner) -> Tree:
    kind = draw(st.sampled_from([str, int, bool]))
    return ("binary", draw(st.sampled_from(["=", "!=", "<>"])), inner(kind), inner(kind))


def _like(draw: st.DrawFn, inner: Inner) -> Tree:
    return ("like", inner(str), *draw(strings("ab%_1")), draw(st.booleans()))


def _in(draw: st.DrawFn, inner: Inner) -> Tree:
    kind = draw(st.sampled_from([str, int, bool]))
    elements = [inner(kind) for _ in range(draw(st.integers(1, 3)))]
    return ("in", inner(kind), elements, draw(st.booleans()))


def _call(kind: type) -> Builder:
    names = [name for name in RETURNS if RETURNS[name] is kind]

    def build(draw: st.DrawFn, inner: Inner) -> Tree:
        name = draw(st.sampled_from([*names] * 3 + ["NOPE"]))
        kinds = TAKES.get(name, (str,) * draw(st.integers(0, 3)))
        wrong = draw(st.integers(0, 9))  # now and then an argument less or more
        kinds = kinds[: max(len(kinds) - 1, 0)] if wrong == 0 else (*kinds, int) if wrong == 1 else kinds
        return ("call", name, [inner(one) for one in kinds])

    return build


_BUILDERS: dict[type, list[Builder]] = {
    int: [
        _joined(int, "+", "-"),
        _joined(int, "*", "/", "%"),
        lambda _, inner: ("minus", inner(int)),
        _call(int),
    ],
    bool: [
        _joined(bool, "AND", "OR", "XOR"),
        _joined(bool, "AND", "OR"),
        _joined(int, "<", "<=", ">", ">="),
        lambda _, inner: ("not", inner(bool)),
        lambda draw, _: ("exists", draw(st.sampled_from(ALL_NAMES))),
        _equality,
        _like,
        _in,
        _call(bool),
    ],
    str: [_call(str)],
}


def events() -> st.SearchStrategy[dict[str, Value]]:
    """Attributes, some of which are numbers and truth values, or texts that look like them."""
    usual = st.sampled_from(["a", "ab", "true", "1", "-7", "10", "x y", "%"])
    texts = st.one_of(usual, st.text("abAB1é😀%_", min_size=1))
    numbers: st.SearchStrategy[Value] = st.one_of(
        st.integers(-3, 12), st.sampled_from([2**31 - 1, -(2**31), "5", "-12"])
    )
    truths: st.SearchStrategy[Value] = st.one_of(st.booleans(), st.sampled_from(["true", "False"]))
    required: dict[str, st.SearchStrategy[Value]] = {"id": texts, "type": texts, "source": st.just("a")}
    others: dict[str, st.SearchStrategy[Value]] = {
        "subject": texts,
        "a": texts,
        "n1": numbers,
        "1a": numbers,
        "flag": truths,
    }
    any_value: st.SearchStrategy[Value] = st.one_of(texts, numbers, truths)
    return st.fixed_dictionaries({**required, **others}, optional={"b": any_value}).flatmap(_some_left_out)


def _some_left_out(full: dict[str, Value]) -> st.SearchStrategy[dict[str, Value]]:
    optional = sorted(full.keys() - {"id", "type", "source"})
    out = st.one_of(st.just(set[str]()), st.sets(st.sampled_from(optional)))
    return out.map(lambda names: {name: value for name, value in full.items() if name not in names})


@st.composite
def written(draw: st.DrawFn, tree: Tree) -> str:
    """Write ``tree`` with any case, brackets that are needed and some that are not, and any white space."""
    tokens = _tokens(tree, LOGIC, draw)
    text = ""
    for token in tokens:
        glued = text[-1:].isalnum() and token[:1].isalnum()
        text += draw(st.sampled_from([" ", "\n", "  \t\r"] if glued else ["", " ", "\r\n"])) + token
    return text + draw(st.sampled_from(["", " "]))


def _tokens(tree: Tree, least: int, draw: st.DrawFn) -> list[str]:
    level, found = _bare_tokens(tree, draw)
    return ["(", *found, ")"] if level < least or draw(st.integers(0, 7)) == 0 else found


def _bare_tokens(tree: Tree, draw: st.DrawFn) -> tuple[int, list[str]]:
    match tree:
        case ("lit", _, text):
            return ATOM, [text]
        case ("attr", name):
            return ATOM, [_cased(name, draw)]
        case ("exists", name):
            return PREFIX, [_cased("EXISTS", draw), _cased(name, draw)]
        case ("not", inner):
            return PREFIX, [_cased("NOT", draw), *_tokens(inner, PREFIX, draw)]
        case ("minus", inner):
            return PREFIX, ["-", *_tokens(inner, PREFIX, draw)]
        case ("like", inner, _, text, negated):
            words = [_cased(word, draw) for word in ["NOT"] * negated + ["LIKE"]]
            return TEST, [*_tokens(inner, TEST, draw), *words, text]
        case ("in", inner, elements, negated):
            words = [_cased(word, draw) for word in ["NOT"] * negated + ["IN"]]
            return TEST, [*_tokens(inner, TEST, draw), *words, *_list(elements, draw)]
        case ("binary", operator, left, right):
            level = LEVEL[operator]
            return level, [*_tokens(left, level, draw), _cased(operator, draw), *_tokens(right, level + 1, draw)]
        case ("call", name, arguments):
            return ATOM, [_cased(name, draw), *_list(arguments, draw)]
    raise AssertionError(tree)


def _list(trees: list[Tree], draw: st.DrawFn) -> list[str]:
    found = ["("]
    for at, tree in enumerate(trees):
        found += [","] * (at > 0) + _tokens(tree, LOGIC, draw)
    return [*found, ")"]


def _cased(word: str, draw: st.DrawFn) -> str:
    return draw(st.sampled_from([word.upper(), word.lower(), word.title()]))
