"""Go's text/template as far as names of claims, volumes and networks need it: one text from a few variables.

Called by names.py. Known: text, comments, trim markers, .Variable, strings, numbers, pipelines, parentheses, if / else if /
else / end, and the functions below: Go's own that compare and print, and those of sprig that Forklift admits. Anything else
that Go or sprig has (range, with, variables, other functions) is refused by name, so that no template quietly means
something else here than there. There are no loops and regular expressions run in linear time: a template cannot hang us.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import re2  # type: ignore[import-untyped]

from tranship.errors import Invalid

Value = str | int | float | bool
Number = int | float

LONGEST = 1000  # characters
BIGGEST = 2**63


def render(template: str, variables: Mapping[str, Value], field: str) -> str:
    """Raises Invalid, which names the field and what of the template is wrong."""
    try:
        return "".join(part.render(variables) for part in _Parser(template).parse())
    except RecursionError:
        raise Invalid("the template is nested too deeply", field=field, remedy="Write a simpler one.") from None
    except _Wrong as wrong:
        raise Invalid(
            f"the template {template!r} {wrong}",
            field=field,
            remedy=f"Variables here are {', '.join(sorted(variables))}; functions {', '.join(sorted(FUNCTIONS))}.",
        ) from None


class _Wrong(Exception):
    """What is the matter, as the end of a sentence about the template."""


# --- what a template is made of ---


class Node:
    """A piece that gives text."""

    def render(self, variables: Mapping[str, Value]) -> str:
        raise NotImplementedError


class Term:
    """A piece of an action that gives a value."""

    def value(self, variables: Mapping[str, Value]) -> Value:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Text(Node):
    text: str

    def render(self, variables: Mapping[str, Value]) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Output(Node):
    term: Term

    def render(self, variables: Mapping[str, Value]) -> str:
        return _print(self.term.value(variables))


@dataclass(frozen=True, slots=True)
class If(Node):
    """otherwise: also what stands behind `else if`."""

    term: Term
    then: Sequence[Node]
    otherwise: Sequence[Node]

    def render(self, variables: Mapping[str, Value]) -> str:
        branch = self.then if self.term.value(variables) else self.otherwise
        return "".join(node.render(variables) for node in branch)


@dataclass(frozen=True, slots=True)
class Constant(Term):
    constant: Value

    def value(self, variables: Mapping[str, Value]) -> Value:
        return self.constant


@dataclass(frozen=True, slots=True)
class Variable(Term):
    name: str

    def value(self, variables: Mapping[str, Value]) -> Value:
        if self.name not in variables:
            raise _Wrong(f"uses .{self.name}, which is not known")
        return variables[self.name]


@dataclass(frozen=True, slots=True)
class Call(Term):
    name: str
    arguments: Sequence[Term]

    def value(self, variables: Mapping[str, Value]) -> Value:
        values = [argument.value(variables) for argument in self.arguments]
        types, function = FUNCTIONS[self.name]
        rest = types[-1] if types and types[-1] in REPEATED else None
        fixed = types[:-1] if rest else types
        if len(values) < len(fixed) or (len(values) > len(fixed) and rest is None):
            raise _Wrong(f"gives {self.name} {len(values)} arguments")
        wanted = [*fixed, *([REPEATED[rest]] * (len(values) - len(fixed)) if rest else ())]
        for value, type in zip(values, wanted, strict=True):
            if not TYPES[type](value):
                raise _Wrong(f"gives {self.name} {_print(value)!r} where it takes a {type}")
        try:
            result = function(*values)
        except (ArithmeticError, ValueError, re2.error) as error:
            raise _Wrong(f"cannot be carried out: {self.name}: {error}") from None
        if len(result) > LONGEST if isinstance(result, str) else abs(result) >= BIGGEST:
            raise _Wrong(f"cannot be carried out: what {self.name} gives is too big")
        return result


# --- reading it ---

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_CONTROL = re.compile(r"(if|else\s+if|else|end)\b\s*(.*)", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|\.(?P<field>[A-Za-z_]\w*)
    |(?P<word>[A-Za-z_]\w*)|(?P<mark>[()|]))""",
    re.VERBOSE,
)
_APART = re.compile(r"[\s()|]|$")  # what has to stand between two values


class _Parser:
    def __init__(self, template: str) -> None:
        self._pieces = list(_pieces(template))
        self._at = 0

    def parse(self) -> list[Node]:
        nodes, end, _ = self._block()
        if end:
            raise _Wrong(f"has {{{{{end}}}}} without an if")
        return nodes

    def _block(self) -> tuple[list[Node], str, str]:
        """Up to and with the action that ends it, which is given back with its condition; "" = the template's end."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            control = _CONTROL.fullmatch(text) if is_action else None
            if not is_action:
                nodes.append(Text(text))
            elif control is None:
                nodes += [] if text.startswith("/*") else [Output(_Terms(text).whole())]
            elif control[1] == "if":
                nodes.append(self._if(control[2]))
            else:
                return nodes, " ".join(control[1].split()), control[2]
        return nodes, "", ""

    def _if(self, condition: str) -> If:
        term = _Terms(condition).whole()
        then, end, rest = self._block()
        if end == "else if":
            return If(term, then, [self._if(rest)])
        otherwise: list[Node] = []
        if end == "else" and not rest:
            otherwise, end, rest = self._block()
        if end != "end" or rest:
            raise _Wrong(f"has {{{{{end} {rest}}}}} where the if has to end" if end else "has an if without {{end}}")
        return If(term, then, otherwise)


def _pieces(template: str) -> Iterator[tuple[bool, str]]:
    """(whether it is an action, its text), with the blanks that trim markers ask to be taken away taken away."""
    at, trim = 0, False
    for action in _ACTION.finditer(template):
        text = template[at : action.start()]
        text = text.lstrip() if trim else text
        yield False, text.rstrip() if action[1] else text
        yield True, action[2].strip()
        at, trim = action.end(), bool(action[3])
    rest = template[at:]
    if "{{" in rest:
        raise _Wrong("has {{ without }}")
    yield False, rest.lstrip() if trim else rest


class _Terms:
    """The inside of an action: commands joined by |, each a value or a function and its arguments."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            token = _TOKEN.match(text, at)
            if token is None or not (token["mark"] or _APART.match(text, token.end())):
                raise _Wrong(f"has {text[at:].strip()!r}, which is not understood")
            kind = str(token.lastgroup)
            self._tokens.append((kind, token[kind]))
            at = token.end()

    def whole(self) -> Term:
        term = self._pipeline()
        if self._tokens:
            raise _Wrong(f"has {self._tokens[0][1]!r} too much")
        return term

    def _pipeline(self) -> Term:
        term = self._command(())
        while self._next("|"):
            term = self._command((term,))
        return term

    def _command(self, piped: tuple[Term, ...]) -> Term:
        if not self._tokens:
            raise _Wrong("has an action with nothing in it")
        kind, word = self._tokens[0]
        if kind == "word" and word not in ("true", "false"):
            if word not in FUNCTIONS:
                raise _Wrong(f"uses {word}, which is not known")
            self._tokens.pop(0)
            arguments = []
            while self._tokens and self._tokens[0][1] not in ("|", ")"):
                arguments.append(self._operand())
            return Call(word, (*arguments, *piped))
        if piped:
            raise _Wrong(f"pipes into {word!r}, which is no function")
        return self._operand()

    def _operand(self) -> Term:
        kind, text = self._tokens.pop(0)
        match kind:
            case "field":
                return Variable(text)
            case "number":
                return Constant(float(text) if "." in text else int(text))
            case "raw":
                return Constant(text[1:-1])
            case "string":
                return Constant(_unquote(text))
            case "word" if text in ("true", "false"):
                return Constant(text == "true")
            case "word" if text in FUNCTIONS:
                return Call(text, ())
            case "mark" if text == "(":
                term = self._pipeline()
                if not self._next(")"):
                    raise _Wrong("has ( without )")
                return term
        raise _Wrong(f"has {text!r} where a value belongs")

    def _next(self, mark: str) -> bool:
        there = bool(self._tokens) and self._tokens[0] == ("mark", mark)
        if there:
            self._tokens.pop(0)
        return there


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise _Wrong(f"has the string {text}, whose escapes are not understood") from None


# --- functions ---

TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "whole number": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "value": lambda value: True,
}
REPEATED = {"numbers": "number", "values": "value"}  # any count of them, at the end
S, I, N, V = "string", "whole number", "number", "value"  # noqa: E741


def _print(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _compare(sign: Callable[[Any, Any], bool]) -> Callable[[Value, Value], bool]:
    def compare(one: Value, other: Value) -> bool:
        if type(one) is not type(other):
            raise ValueError(f"{_print(one)!r} and {_print(other)!r} are of different types")
        return sign(one, other)

    return compare


def _equal(one: Value, *others: Value) -> bool:
    if not others:
        raise ValueError("nothing to compare with")
    same = _compare(lambda a, b: bool(a == b))
    return True in [same(one, other) for other in others]  # all are looked at: types must fit


def _first(wanted: bool) -> Callable[..., Value]:
    """and, or: the first that decides, else the last."""

    def choose(*values: Value) -> Value:
        if not values:
            raise ValueError("no arguments")
        return next((value for value in values if bool(value) is wanted), values[-1])

    return choose


def _printf(form: str, *values: Value) -> str:
    left = list(values)

    def put(verb: "re.Match[str]") -> str:
        if verb[0] == "%%":
            return "%"
        if verb[2] not in ("s", "v", "d", "x", "X") or not left:
            raise ValueError(f"{verb[0]} in {form!r} has no value or is not known (known are %s %v %d %x %X %%)")
        value = left.pop(0)
        if verb[2] in "sv":
            return str(f"%{verb[1]}s" % _print(value))
        if type(value) is not int:
            raise ValueError(f"{verb[0]} takes a whole number, not {_print(value)!r}")
        return str(f"%{verb[1]}{verb[2]}" % value)

    text = re.sub(r"%(?:%|([-0+]*\d{0,3})(.?))", put, form, flags=re.DOTALL)
    if left:
        raise ValueError(f"{form!r} leaves {_print(left[0])!r} over")
    return text


def _title(text: str) -> str:
    return re.sub(r"(?:^|(?<=[^\w]))[^\W\d_]", lambda letter: letter[0].upper(), text)


def _untitle(text: str) -> str:
    return re.sub(r"(?:^|(?<=\s))\S", lambda letter: letter[0].lower(), text)


def _repeat(count: int, text: str) -> str:
    if not 0 <= count <= LONGEST:
        raise ValueError(f"{count} times")
    return text * count


def _substr(start: int, end: int, text: str) -> str:
    if start < 0:
        return text[: max(end, 0)]
    if end < 0 or end > len(text):
        return text[start:]
    return text[start:end]


def _trunc(count: int, text: str) -> str:
    if count < 0:
        return text[count:] if len(text) + count > 0 else text
    return text[:count]


def _replace_all(pattern: str, text: str, replacement: str) -> str:
    """As Go's regexp: $1, ${1} and ${name} in the replacement, $$ for a dollar; a name takes all it can get."""

    def expand(found: Any) -> str:
        def insert(mark: "re.Match[str]") -> str:
            name = mark[1] or mark[2]
            if name is None:
                return "$"
            try:
                return found.group(int(name) if name.isdigit() else name) or ""
            except (IndexError, KeyError, re2.error):
                return ""

        return re.sub(r"\$(?:\$|(\w+)|\{(\w+)\})", insert, replacement)

    return cast(str, re2.compile(pattern).sub(expand, text))


def _divide(one: Number, other: Number) -> int:
    """Go rounds towards zero."""
    quotient = abs(int(one)) // abs(int(other))
    return quotient if (int(one) < 0) == (int(other) < 0) else -quotient


def _round(number: Number, places: int) -> float:
    scaled = number * 10.0**places
    return math.floor(scaled + 0.5) / 10.0**places


FUNCTIONS: Mapping[str, tuple[tuple[str, ...], Callable[..., Value]]] = {
    "eq": ((V, "values"), _equal),
    "ne": ((V, V), _compare(lambda one, other: bool(one != other))),
    "lt": ((V, V), _compare(lambda one, other: bool(one < other))),
    "le": ((V, V), _compare(lambda one, other: bool(one <= other))),
    "gt": ((V, V), _compare(lambda one, other: bool(one > other))),
    "ge": ((V, V), _compare(lambda one, other: bool(one >= other))),
    "and": (("values",), _first(False)),
    "or": (("values",), _first(True)),
    "not": ((V,), lambda value: not value),
    "len": ((S,), lambda text: len(text.encode())),
    "printf": ((S, "values"), _printf),
    "lower": ((S,), str.lower),
    "upper": ((S,), str.upper),
    "contains": ((S, S), lambda part, text: part in text),
    "replace": ((S, S, S), lambda old, new, text: text.replace(old, new)),
    "trim": ((S,), str.strip),
    "trimAll": ((S, S), lambda characters, text: text.strip(characters) if characters else text),
    "trimSuffix": ((S, S), lambda end, text: text.removesuffix(end)),
    "trimPrefix": ((S, S), lambda start, text: text.removeprefix(start)),
    "title": ((S,), _title),
    "untitle": ((S,), _untitle),
    "repeat": ((I, S), _repeat),
    "substr": ((I, I, S), _substr),
    "nospace": ((S,), lambda text: "".join(text.split())),
    "trunc": ((I, S), _trunc),
    "initials": ((S,), lambda text: "".join(word[0] for word in text.split())),
    "hasPrefix": ((S, S), lambda start, text: text.startswith(start)),
    "hasSuffix": ((S, S), lambda end, text: text.endswith(end)),
    "mustRegexReplaceAll": ((S, S, S), _replace_all),
    "add": (("numbers",), lambda *numbers: sum(map(int, numbers))),
    "add1": ((N,), lambda number: int(number) + 1),
    "sub": ((N, N), lambda one, other: int(one) - int(other)),
    "div": ((N, N), _divide),
    "mod": ((N, N), lambda one, other: int(math.fmod(int(one), int(other)))),
    "mul": ((N, "numbers"), lambda *numbers: math.prod(map(int, numbers))),
    "max": ((N, "numbers"), lambda *numbers: max(map(int, numbers))),
    "min": ((N, "numbers"), lambda *numbers: min(map(int, numbers))),
    "floor": ((N,), lambda number: float(math.floor(number))),
    "ceil": ((N,), lambda number: float(math.ceil(number))),
    "round": ((N, I), _round),
}
"""Name -> the types of its arguments, and what it does. print, html, call, index and slice of Go are left out."""
