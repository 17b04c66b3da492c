"""The verdict over the licences of sources: what is found, what excludes what, what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.runs.licence_table import LICENCES, licence_named, recognised
from evomerge.runs.licences import Found, check_licences, judge, parse_stated, verdict
from evomerge.runs.sources import card_of

names = st.sampled_from(sorted(LICENCES))


def of(*licences: str) -> list[Found]:
    return [Found(f"model{i}", licence_named(name), name, "README.md") for i, name in enumerate(licences)]


@pytest.mark.parametrize(
    ("licences", "kind", "metadata"),
    [
        (("apache-2.0", "mit"), "compatible", {"license": "apache-2.0"}),
        (("mit", "mit"), "compatible", {"license": "mit"}),
        (("llama3.1", "apache-2.0"), "obligations", {"license": "llama3.1"}),
        (("cc-by-nc-4.0", "mit"), "obligations", {"license": "cc-by-nc-4.0"}),
        (("cc-by-sa-4.0", "gpl-3.0"), "obligations", {"license": "gpl-3.0"}),
        (("cc-by-nc-sa-4.0", "cc-by-nc-4.0"), "obligations", {"license": "cc-by-nc-sa-4.0"}),
        (
            ("mrl", "apache-2.0"),
            "obligations",
            {"license": "other", "license_name": "mrl", "license_link": LICENCES["mrl"].link},
        ),
        (
            ("gemma", "llama3.1"),
            "obligations",
            {"license": "other", "license_name": "terms-of-all-sources", "license_link": "LICENSE.md"},
        ),
        (("something", "else"), "unknown", {"license": "unknown"}),
        (
            ("something", "mit"),
            "unknown",
            {"license": "other", "license_name": "unknown-in-part", "license_link": "LICENSE.md"},
        ),
    ],
)
def test_verdicts(licences: tuple[str, ...], kind: str, metadata: dict[str, str]) -> None:
    found = judge(of(*licences))
    assert (found.kind, found.conflicts, dict(found.metadata)) == (kind, (), metadata)
    check_licences(found)


@pytest.mark.parametrize(
    ("licences", "why"),
    [
        (("mit", "cc-by-nd-4.0"), "cc-by-nd-4.0 of model1 allows no changed versions"),
        (("gpl-3.0", "gemma"), "gpl-3.0 of model0 suffers no further limits, but gemma of model1 has some"),
        (("gpl-3.0", "cc-by-nc-4.0"), "suffers no further limits"),
        (("cc-by-nc-sa-4.0", "cc-by-sa-4.0"), "each want the merge under their own terms"),
        (("gpl-2.0", "apache-2.0"), "exclude each other"),
    ],
)
def test_conflicts_are_refused_unless_accepted(licences: tuple[str, ...], why: str) -> None:
    found = judge(of(*licences))
    assert found.kind == "refused"
    with pytest.raises(InputError, match=f"{why}.*--accept-licence") as error:
        check_licences(found)
    assert "\n" not in str(error.value)
    check_licences(found, accept=True)


@given(st.lists(names, min_size=1, max_size=4), st.randoms())
def test_the_order_of_sources_does_not_matter(licences: list[str], random: object) -> None:
    shuffled = list(licences)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = judge(of(*licences)), judge(of(*shuffled))
    assert (first.kind, len(first.conflicts)) == (second.kind, len(second.conflicts))


@given(st.lists(names, min_size=1, max_size=4), names)
def test_a_further_source_never_makes_a_verdict_milder(licences: list[str], more: str) -> None:
    order = ("compatible", "obligations", "unknown", "refused")
    assert order.index(judge(of(*licences, more)).kind) >= order.index(judge(of(*licences)).kind)


@given(names)
def test_a_licence_goes_with_itself_unless_it_forbids_merges(name: str) -> None:
    licence = LICENCES[name]
    found = judge(of(name, name))
    assert (found.kind == "refused") == (not licence.derivatives)
    assert found.metadata["license"] in (name, "other")
    assert all("{" not in line for line in found.obligations)
    if licence.is_permissive:
        assert found.kind == "compatible"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            "apache-2.0",
        ),
        ("MIT License\n\nCopyright (c) 2024", "mit"),
        ("Permission is hereby granted, free of charge, to any person\nobtaining a copy of", "mit"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date", "llama3.1"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT", "llama2"),
        ("Tongyi Qianwen LICENSE AGREEMENT", "qwen"),
        ("Qwen RESEARCH LICENSE AGREEMENT", "qwen-research"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International\n====\nCreative Commons", "cc-by-nc-sa-4.0"),
        ("Creative Commons Attribution-NonCommercial 3.0 Unported", "cc-by-nc-3.0"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "gpl-3.0"),
        ("DEEPSEEK LICENSE AGREEMENT\nVersion 1.0", "deepseek"),
        ("Gemma Terms of Use\n", "gemma"),
        ("All rights reserved.", None),
    ],
)
def test_texts_are_recognised(text: str, name: str | None) -> None:
    found = recognised(text)
    assert (found.id if found else None) == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("apache license 2.0", "apache-2.0"),
        ("tongyi-qianwen-license", "qwen"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("Mistral AI Research License", "mrl"),
        ("cc-by-nc", "cc-by-nc-4.0"),
        ("my-own", None),
    ],
)
def test_names_are_understood(said: str, name: str | None) -> None:
    found = licence_named(said)
    assert (found.id if found else None) == name


def source(folder: Path, name: str, card: str | None = None, **files: str) -> ModelRef:
    place = folder / name
    place.mkdir()
    if card is not None:
        (place / "README.md").write_text(f"---\n{card}\n---\n# {name}\n")
    for file, text in files.items():
        (place / file).write_text(text)
    return ModelRef(model=str(place))


def test_where_licences_are_found(tmp_path: Path) -> None:
    models = [
        source(tmp_path, "card", "license: mit\nlanguage: [en, ja]"),
        source(tmp_path, "named", "license: other\nlicense_name: gemma"),
        source(tmp_path, "file", LICENSE="LLAMA 3.2 COMMUNITY LICENSE AGREEMENT"),
        source(tmp_path, "other-card", "license: other\nlicense_name: house-rules"),
        source(tmp_path, "none"),
    ]
    adapted = ModelRef(model=models[0].model, adapter=models[1].model, name="adapted")
    found = verdict([*models, adapted])
    assert [(each.model, each.name) for each in found.sources] == [
        ("card", "mit"),
        ("named", "gemma"),
        ("file", "llama3.2"),
        ("other-card", "house-rules"),
        ("none", "unknown"),
    ]
    assert found.unknown == ("other-card", "none")
    assert card_of(models[0].model).languages == ("en", "ja")
    lines = found.lines()
    assert any("'house-rules' of other-card is not known here" in line for line in lines)
    assert any("none was found for none; find out" in line for line in lines)


def test_licences_can_be_stated(tmp_path: Path) -> None:
    models = [source(tmp_path, "base", "license: apache-2.0"), source(tmp_path, "mine")]
    assert verdict(models).kind == "unknown"
    found = verdict(models, parse_stated(["mine=MIT"]))
    assert (found.kind, found.sources[1].where) == ("compatible", "--licence")
    with pytest.raises(InputError, match="did you mean 'mine'"):
        verdict(models, {"mind": "mit"})
    for option, message in (("mine", "NAME=LICENCE"), ("mine=apache-2.1", "did you mean 'apache-2.0'")):
        with pytest.raises(InputError, match=message):
            parse_stated([option])


@pytest.mark.parametrize("card", ["license: [mit]", "license:\n  - mit", "license: MIT"])
def test_cards_as_people_write_them(card: str, tmp_path: Path) -> None:
    assert verdict([source(tmp_path, "model", card)]).kind == "compatible"


@pytest.mark.parametrize("card", ["license: !!python/object:os.system {}", "{" * 500, "- a\n- b", "license: {a: b}"])
def test_cards_that_are_none_say_nothing(card: str, tmp_path: Path) -> None:
    assert verdict([source(tmp_path, "model", card)]).unknown == ("model",)
