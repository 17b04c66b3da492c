"""The templates of task files, rendered in a sandbox: they reach no object but the document, and end.

lm-eval renders doc_to_text and its like in jinja2's plain environment, in which `{{ ''.__class__.__mro__ }}` leads to
every class of the process. Here they run in jinja2's immutable sandbox, in which attributes with underscores and
methods that change a value do not exist. Besides, a rendering has a budget of steps and characters, and whatever
multiplies texts is reckoned before it is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, wraps
from itertools import chain
from types import BuiltinMethodType
from typing import Any, TypeVar

from jinja2 import BaseLoader, StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from evomerge.errors import InputError

BUDGET = 20_000_000
"""Characters that one rendering may put out or make on its way."""

STEP, CALL = 10, 100
"""What a step of a loop, and a call of a function, a filter or an operator, count as."""

LARGEST = 10_000_000
"""The most characters of anything in between."""

MOST_VALUES = 1_000_000
"""The most values of a list in between, those of lists in it included."""

LARGEST_BITS = 4096
"""The most bits of a number."""

REFUSED = frozenset(("format_map", "maketrans", "translate"))
_WIDTH = re.compile(r"\d{5}|\*|\{[^}]*\{")  # in a format: a width of five digits, or one that comes from elsewhere
_COUNTED, _JOINED, _CHARGED = "evomerge: counted", "evomerge: joined", "evomerge: charged"
_NODE = TypeVar("_NODE", bound=nodes.Node)

_left: ContextVar[list[int] | None] = ContextVar("characters that the rendering has left", default=None)


def sandbox_templates() -> None:
    """Put the sandbox in the place of lm-eval's environment, for the whole process."""
    from lm_eval import utils

    if not isinstance(utils.env, TaskEnvironment):
        utils.env = TaskEnvironment({"regex_replace": utils.regex_replace})


class TaskTemplate(Template):
    """A template whose rendering has a budget."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """As jinja2's. Raises InputError when the template leaves its sandbox, or does not end within bounds."""
        token = _left.set([BUDGET])
        try:
            return super().render(*args, **kwargs)
        except SecurityError as error:
            raise InputError(f"templates of tasks must stay in their sandbox, but {error}") from None
        except (RecursionError, MemoryError, OverflowError) as error:
            raise InputError(f"templates of tasks must end, but one does not: {error}") from None
        finally:
            _left.reset(token)


class TaskEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with lm-eval's settings.

    Args:
        filters: beside jinja2's own.
    """

    intercepted_binops = frozenset(("*", "**", "+", "%"))
    template_class = TaskTemplate

    def __init__(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True, finalize=_put_out)
        known = {**self.filters, **filters}
        self.filters = {name: _bounded(name, function) for name, function in known.items()}
        self.filters |= {_COUNTED: _counted, _JOINED: _joined, _CHARGED: _charged}
        del self.globals["lipsum"]
        self._compiled = lru_cache(maxsize=256)(super().from_string)

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> Template:
        """A template; one and the same text is compiled once."""
        if isinstance(source, str) and globals is None and template_class is None:
            return self._compiled(source)
        return super().from_string(source, globals, template_class)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        try:
            tree = super()._parse(source, name, filename)
            _Metering(self).visit(tree)
        except RecursionError:
            raise InputError("templates of tasks must be nested less deeply, but one is not") from None
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As jinja2's; numbers and bytes have no attributes, and texts none that build others from tables."""
        if isinstance(obj, int | float | complex | bytes) or attr in REFUSED:
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, in the sandbox and within bounds."""
        format_ = super().wrap_str_format(value)
        if format_ is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _reckon("format", (value.__self__, *args), kwargs)
            return str(format_(*args, **kwargs))

        return bounded

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As jinja2's, within the budget; of a text's method the result is reckoned first."""
        _spend(CALL)
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            _reckon(f".{obj.__name__}", (obj.__self__, *args), kwargs)
        return _paid(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """As jinja2's, unless the result would be too large."""
        _spend(STEP)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "%" and isinstance(left, str):
            _reckon("format", (left, right), {})
        elif operator == "**":
            _require(_bits(left) * max(abs(right), 1) if numbers else 0, LARGEST_BITS)
        elif operator == "*" and numbers:
            _require(_bits(left) + _bits(right), LARGEST_BITS)
        elif operator == "*":
            _require(_extent(left) * _extent(right))
        elif not numbers:
            _require(_size(left) + _size(right))
        return _paid(super().call_binop(context, operator, left, right))


class _Metering(NodeTransformer):
    """Changes a syntax tree so that loops, joined texts and the text of macros count."""

    def __init__(self, environment: TaskEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's name
        if node.recursive:
            raise InputError("templates of tasks must have no recursive loops, but one has")
        literal = _literal(node)
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, _COUNTED, literal)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(self._own(nodes.List(node.nodes), node), _JOINED)

    def visit_Macro(self, node: Any) -> Any:  # noqa: N802
        """Let each run of a body pay for the text in it."""
        price = self._filtered(self._own(nodes.Const(_literal(node)), node), _CHARGED)
        self.generic_visit(node)
        node.body.insert(0, self._own(nodes.Output([price]), node))
        return node

    visit_CallBlock = visit_Block = visit_Macro  # noqa: N815

    def _filtered(self, node: Any, name: str, *args: int) -> nodes.Filter:
        constants: list[nodes.Expr] = [self._own(nodes.Const(arg), node) for arg in args]
        return self._own(nodes.Filter(node, name, constants, [], None, None), node)

    def _own(self, node: _NODE, origin: nodes.Node) -> _NODE:
        node.lineno = origin.lineno
        node.environment = self._environment
        return node


def _literal(node: nodes.Node) -> int:
    """How many characters stand in a body as they are."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


def _counted(values: Iterable[Any], literal: int) -> Iterator[Any]:
    for value in values:
        _spend(STEP + literal)
        yield value


def _joined(values: Sequence[Any]) -> str:
    return "".join(map(_put_out, values))


def _charged(literal: int) -> str:
    _spend(literal)
    return ""


def _put_out(value: Any) -> str:
    """A value as text, paid for."""
    _size(value)
    text = str(value)
    _spend(len(text))
    return text


def _paid(value: Any) -> Any:
    """A new value, its characters or its values paid for."""
    if isinstance(value, str | bytes | list | tuple | Mapping):
        _spend(len(value))
    return value


def _spend(characters: int) -> None:
    left = _left.get()
    if left is not None:
        left[0] -= characters
        if left[0] < 0:
            raise InputError(f"templates of tasks must end within {BUDGET} characters, but one does not")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is reckoned first."""
    leading = int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _spend(CALL)
        head, rest = args[:leading], list(args[leading:])
        if name == "join" and rest and isinstance(rest[0], Iterator):
            rest[0] = list(rest[0])
        _reckon(name, rest, kwargs)
        return _paid(function(*head, *rest, **kwargs))

    return bounded


def _reckon(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InputError when a filter, or a text's method (its name has a dot in front), would make too much.

    Args:
        name: of the filter or method.
        args: what it is applied to first.
        kwargs: its other arguments.
    """
    sizes = [_size(each) for each in chain(args, kwargs.values())]
    rest = [*args[1:], *kwargs.values()]
    number = max((abs(each) for each in rest if isinstance(each, int)), default=1)
    text = max((len(each) for each in rest if isinstance(each, str)), default=0)
    first = sizes[0] if sizes else 0
    match name.removeprefix("."):
        case "center" | "ljust" | "rjust" | "zfill" | "batch" | "slice":
            _require(number)
        case "indent" | "expandtabs" | "wordwrap" | "tojson":
            _require(first * max(number, text, 1))
        case "replace" if len(args) > 2 and all(isinstance(each, str) for each in args[:3]):
            _require(first + args[0].count(args[1]) * len(args[2]))
        case "replace" | "regex_replace":
            _require((first + 1) * (text + 1))
        case "join":
            _require(sum(sizes) + max(sizes, default=0) * (first if name.startswith(".") else text))
        case "format":
            form = str(args[0])
            if _WIDTH.search(form):
                raise InputError(f"templates of tasks must have formats with plain widths, but one has {form!r:.60}")
            _require(first + (form.count("%") + form.count("{")) * sum(sizes[1:]))


def _require(size: float, most: int = LARGEST) -> None:
    if size > most:
        raise InputError(f"templates of tasks must make nothing larger than {most}, but one would")


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 64


def _extent(value: Any) -> int:
    """The size of a text or a list; of a number itself."""
    return abs(value) if isinstance(value, int) else _size(value)


def _size(value: Any) -> int:
    """Characters and values of something, those of what stands in it several times counted each time.

    Raises:
        InputError: there are more than `LARGEST` characters or `MOST_VALUES` values.
    """
    characters, values, stack = 0, 0, [value]
    while stack:
        each = stack.pop()
        values += 1
        if isinstance(each, str | bytes):
            characters += len(each)
        elif isinstance(each, Mapping):
            stack.extend(chain(each.keys(), each.values()))
        elif isinstance(each, list | tuple | set | frozenset):
            stack.extend(each)
        _require(values + len(stack), MOST_VALUES)
    _require(characters)
    _spend(values)
    return characters + values
