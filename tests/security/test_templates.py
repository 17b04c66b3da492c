"""Templates of task files: they come out as in lm-eval's own environment, and nothing leaves the sandbox."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined

from evomerge.errors import InputError
from evomerge.evaluators.templates import TaskEnvironment, sandbox_templates

DOCUMENT: dict[str, Any] = {
    "q": "What?", "choices": ["a", "b"], "n": 3, "long": "x\t" * 500_000, "more": {"k": [1, 2]},
}  # fmt: skip
GROWING = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(100) %}"


@pytest.fixture(scope="module")
def environment() -> TaskEnvironment:
    from lm_eval import utils

    sandbox_templates()
    assert isinstance(utils.env, TaskEnvironment)
    return utils.env


@pytest.mark.parametrize(
    "text",
    [
        "{{q}} {{choices|join(', ')}} {{n + 1}} {{n * 2}} {{q * 2}} {{q ~ n ~ choices}}\n",
        "{% for c in choices %}{{loop.index}}. {{c.strip()}}\n{% endfor %}{{choices.index('b')}}",
        "{{long}}{{long|replace('x', 'y')}}{{long.replace('x', 'yy')}}",
        "{{ '%05d'|format(n) }} {{ '{:>5}'.format(q) }} {{ '%s-%s' % (q, n) }} {{ q|center(20) }}",
        "{% macro m(a) %}[{{a}}]{% endmacro %}{{m(1)}}{% set x %}a{{q}}{% endset %}{{x|upper}}",
        "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{{q}}{% endcall %}",
        "{{ [q, n]|map('string')|join('-') }} {{ range(3)|list }} {{ more.items()|list }}",
        "{{ n ** 2 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 7 - n }} {{ -n }} {{ n / 2 }} {{ n in [1, 3] }}",
        "{% set ns = namespace(x=0) %}{% for i in range(4) if i != 2 %}{% set ns.x = ns.x + i %}{% endfor %}{{ns.x}}",
        "{% filter upper %}abc{{q}}{% endfilter %}{{ q|tojson }}{{ q[::-1] }}",
        "{{ none }}{{ [1] + [2] }}{{ (q + ' ') * 2 }}{{ q.split('a') }}{{ q.lower().capitalize() }}",
        "{% block b %}{{q}}{% endblock %}{{ self.b() }}",
    ],
)
def test_what_lm_eval_renders_comes_out_the_same(environment: TaskEnvironment, text: str) -> None:
    plain = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    assert environment.from_string(text).render(**DOCUMENT) == plain.from_string(text).render(**DOCUMENT)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()", "q|attr('__class__')", "''['__class__']",
        "self.__init__.__globals__",
        "cycler.__init__.__globals__", "joiner('x').__call__.__globals__", "'{0.__class__}'.format(q)", "dict.mro()",
        "choices.append(1)", "more.update({})", "more.k.pop()", "(1).to_bytes(9, 'big')", "'a'.translate({97: q})",
        "namespace.__init__", "q.__format__",
    ],
)  # fmt: skip
def test_no_object_but_the_document_is_reached(environment: TaskEnvironment, expression: str) -> None:
    with pytest.raises(InputError, match="must stay in their sandbox"):
        environment.from_string(f"{{{{ {expression} }}}}").render(**DOCUMENT)
    assert DOCUMENT["choices"] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**10 }}", "{{ choices * 10**10 }}", "{{ 9**(9**9) }}", "{{ (2**4000) * (2**4000) }}",
        "{{ 'x'|center(10**9) }}", "{{ 'x'.ljust(10**9) }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10**9, 1) }}",
        "{{ '{:>1000000000}'.format(1) }}", "{{ '{:>{}}'.format(1, 10**9) }}", "{{ [1]|batch(10**9, 0)|list }}",
        "{{ long.replace('', long) }}", "{{ long|replace('x', long) }}", "{{ long.join(choices * 1000) }}",
        "{{ ('a,' * 100000).split(',')|join(long) }}", "{{ long.expandtabs(10**9) }}", "{{ long|indent(10**6) }}",
        "{{ ([1] * 100000)|map('center', 100000)|join }}", "{{ q|regex_replace('', long * 9) * 9 }}",
        "{% for i in range(10**9) %}{% endfor %}", "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        GROWING + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}", GROWING + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        GROWING + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        GROWING + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    ],
)  # fmt: skip
def test_templates_end(environment: TaskEnvironment, text: str) -> None:
    with pytest.raises(InputError, match="templates of tasks must"):
        environment.from_string(text).render(**DOCUMENT)


def test_one_rendering_s_budget_is_not_the_next_one_s(environment: TaskEnvironment) -> None:
    template = environment.from_string("{{ long }}")
    for _ in range(30):
        assert len(template.render(**DOCUMENT)) == 1_000_000
