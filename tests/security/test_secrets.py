"""Credentials are told from other text, and left out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from evomerge.errors import InputError
from evomerge.secrets import hide, public_url, require_no_secrets, secret_keys

SAFE = st.text("abcXYZ019%_-.!$+", min_size=1, max_size=20)
TOKEN = "hf_" + "aB3" * 9


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql+psycopg://u:pw@h:5/db", "postgresql+psycopg://u@h:5/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://u:p%40s%2Fs@h/db?options=-csync%3Doff", "postgresql://u@h/db?options=-csync%3Doff"),
        ("postgresql://u:p@ss@h/db", "postgresql://u@h/db"),
        ("postgresql://u:p/w@h/db", "postgresql://u@h/db"),
        ("postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u"),
        ("postgresql:///db?host=/tmp&sslpassword=x&sslmode=require", "postgresql:///db?host=/tmp&sslmode=require"),
        ("mysql+pymysql://u:p?x@h/db?charset=utf8", "mysql+pymysql://u@h/db?charset=utf8"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "mssql+pyodbc:///"),
        ("sqlite:////tmp/x@y.db", "sqlite:////tmp/x@y.db"),
    ],
)
def test_a_url_without_its_password(url: str, public: str) -> None:
    assert public_url(url) == public
    assert public_url(public) == public


@given(SAFE, SAFE, st.booleans())
def test_no_password_stays_in_a_url(user: str, password: str, as_parameter: bool) -> None:
    url = f"postgresql://{user}@h/db?password={password}" if as_parameter else f"postgresql://{user}:{password}@h/db"
    assert make_url(public_url(url)).password is None
    assert make_url(public_url(url)).query == {}
    assert make_url(public_url(url)).host == "h"
    hidden = hide(f"cannot open {url} because")
    assert hidden.endswith(" because")
    assert f":{password}@" not in hidden
    assert f"password={password}" not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "https://user:{}@huggingface.co/org/m",
        "https://{}@huggingface.co/org/m",
        "key {} of somebody",
        '{{"api_key": "x", "url": "http://h/?token={}"}}',
        "password={} host=h",
        "see ?sig={}&x=1",
    ],
)
def test_a_token_is_hidden(text: str) -> None:
    assert TOKEN not in hide(text.format(TOKEN))
    assert "***" in hide(text.format(TOKEN))


@pytest.mark.parametrize(
    "text",
    [
        "eos_token=</s> max_new_tokens=5 tokenizer=base", "a/b:c@d", "sqlite:////tmp/a.db", "sha 0123456789abcdef" * 3,
        "org/name@main+adapter", "trial 3: objective 0.5", "postgresql://user@host/db", "https://huggingface.co/org/name",
    ],
)  # fmt: skip
def test_other_text_stays(text: str) -> None:
    assert hide(text) == text


def test_what_the_environment_holds_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEBODYS_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "something long")
    assert hide("with correct-horse-battery something long") == "with *** something long"


def test_a_configuration_holds_none() -> None:
    tree = {"a": {"b": [1, f"x{TOKEN}"[1:]]}, "runtime": {"storage": "postgresql://u:p@h/d"}, "c": "plain"}
    assert list(secret_keys(tree)) == ["a.b.1", "runtime.storage"]
    with pytest.raises(InputError, match=r"x\.yaml: a\.b\.1 must hold no password or token") as caught:
        require_no_secrets(tree, "x.yaml", besides="runtime.storage")
    assert TOKEN not in str(caught.value)
    require_no_secrets({"runtime": tree["runtime"]}, "x.yaml", besides="runtime.storage")


@pytest.mark.parametrize("piece", ["a-", "a://b:", "https://", "password", "?sig", "hf_", "%3B", "token=", "x@"])
def test_long_texts_do_not_take_for_ever(piece: str) -> None:
    assert len(hide(piece * 20_000)) <= len(piece) * 20_000 + 20_000
    assert len(public_url(piece * 20_000)) <= len(piece) * 20_000
