"""That following a page notices what is not true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import follow
from tests.runs.conftest import Said

PAGE = """# A page

```yaml title="a/b.yaml"
key: 1
```

```sh
evomerge show a/b.yaml \\
  --twice
cat a/b.yaml
```

```text
│ key: 17 │  done in 3.5 s
```

```python
found = open("a/b.yaml").read()
```
"""


def show(*arguments: object) -> Said:
    """Prints its arguments, and fails where one is "fail"."""
    text = f"{arguments} │ key: {len(arguments)} │ done in +0.25 s"
    return Said(int("fail" in arguments), text, "it failed")


def run(text: str, folder: Path) -> int:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return follow(
        page, folder, show, lambda arguments: ["--small"] if arguments == ["show", "a/b.yaml", "--twice"] else []
    )


def test_a_true_page_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(PAGE, tmp_path) == 4
    assert (tmp_path / "a" / "b.yaml").read_text() == "key: 1\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("done in 3.5 s", "done in 3.5 h"), ("--twice", "fail"), ("│ key", "│ name"), ('"a/b.yaml"', '"a/c.yaml"')],
)
def test_an_untrue_page_is_found_out(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, OSError)):
        run(
            PAGE.replace('title="a/b.yaml"', "TITLE").replace(right, wrong).replace("TITLE", 'title="a/b.yaml"'),
            tmp_path,
        )
