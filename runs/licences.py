"""Whether the licences of a merge's sources let it be published, and what they ask. Not legal advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError, unknown_name
from evomerge.runs.licence_table import APART, LICENCES, UPGRADES, Licence, licence_named
from evomerge.runs.sources import Card, card_of, parts_of

Kind = Literal["compatible", "obligations", "unknown", "refused"]
UNNAMED = ("", "other", "unknown")
TERMS_FILE = "LICENSE.md"
"""What an export writes the sources' terms to."""


@dataclass(frozen=True)
class Found:
    """The licence of one source.

    Attributes:
        model: how the source is called; of an adapter, the adapter.
        licence: in the table; None where it is not there, or nothing was found.
        said: what was found, as it was written; empty: nothing.
        where: the file or option it was found in; empty: nowhere.
    """

    model: str
    licence: Licence | None
    said: str = ""
    where: str = ""

    @property
    def name(self) -> str:
        """The identifier, or what was found instead of one."""
        return self.licence.id if self.licence else self.said or "unknown"


@dataclass(frozen=True)
class Verdict:
    """What the licences of the sources say together.

    Attributes:
        kind: "compatible" (no more than notices and credit), "obligations" (more than that), "unknown" (so is a
            licence; the rest is judged), "refused" (a licence forbids a published merge, or two cannot both be kept).
        sources: the licence of each source.
        obligations: what a publisher has to do, one line each.
        conflicts: why it is refused, one line each.
        metadata: the card's `license`, and where the hub has no identifier `license_name` and `license_link`.
    """

    kind: Kind
    sources: tuple[Found, ...]
    obligations: tuple[str, ...]
    conflicts: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def unknown(self) -> tuple[str, ...]:
        """The sources whose terms are not known here."""
        return tuple(each.model for each in self.sources if each.licence is None)

    def lines(self) -> list[str]:
        """What the user should be told, one line each; nothing for a compatible merge."""
        told = [f"licence: {conflict}" for conflict in self.conflicts]
        for found in self.sources:
            if found.licence is None and found.said:
                told.append(
                    f"licence: {found.said!r} of {found.model} is not known here ({found.where}); read its terms"
                )
        nothing = [found.model for found in self.sources if found.licence is None and not found.said]
        if nothing:
            told.append(f"licence: none was found for {', '.join(nothing)}; find out before you publish the merge")
        if self.kind != "compatible":
            told += [f"licence: {line}" for line in self.obligations]
        return told


def verdict(models: Sequence[ModelRef], stated: Mapping[str, str] | None = None) -> Verdict:
    """The verdict over the sources of a merge. Reads cards and licence files, no weights.

    Args:
        models: base and experts; the model and the adapter of one are both sources.
        stated: licences by the models' names, which count instead of what is found.

    Raises:
        InputError: `stated` names a model that is none of the sources.
    """
    return judge(found_licences(models, stated))


def found_licences(models: Sequence[ModelRef], stated: Mapping[str, str] | None = None) -> tuple[Found, ...]:
    """The licence of every model and adapter, each once. Raises InputError as `verdict`."""
    stated = dict(stated or {})
    for name in stated:
        if name not in {model.name for model in models}:
            raise unknown_name("a model whose licence is stated", name, {model.name for model in models})
    found: dict[tuple[str, str | None], Found] = {}
    for model in models:
        parts = parts_of(model)
        for place in parts:
            if model.name in stated and place == parts[-1]:
                found[place] = Found(model.name, licence_named(stated[model.name]), stated[model.name], "--licence")
            elif place not in found:
                found[place] = _found(_label(model, place[0], place == parts[-1]), card_of(*place))
    return tuple(found.values())


def parse_stated(options: Sequence[str]) -> dict[str, str]:
    """Licences by model from `NAME=LICENCE`. Raises InputError when one is written otherwise."""
    told = {}
    for option in options:
        name, equals, licence = option.partition("=")
        if not (name and equals and licence):
            raise InputError(f"--licence must be NAME=LICENCE, such as math=apache-2.0, but got {option!r}")
        if licence_named(licence) is None and licence.lower() not in UNNAMED:
            raise unknown_name("a licence of --licence", licence, LICENCES)
        told[name] = licence
    return told


def check_licences(found: Verdict, accept: bool = False) -> None:
    """Raise InputError for a refused verdict unless the user accepts it."""
    if found.kind == "refused" and not accept:
        raise InputError(
            f"the licences of the sources must allow a merge of them, but {found.conflicts[0]}; --accept-licence "
            "writes it all the same, for those who have the right to"
        )


def judge(sources: Sequence[Found]) -> Verdict:
    """The verdict over licences."""
    known = [found for found in sources if found.licence is not None]
    conflicts = tuple(_forbidding(known) + _conflicting(known))
    obligations = tuple(_obligations(known))
    restricted = any(found.licence and not found.licence.is_permissive for found in known)
    if conflicts:
        kind: Kind = "refused"
    elif len(known) < len(sources) or not sources:
        kind = "unknown"
    else:
        kind = "obligations" if restricted else "compatible"
    return Verdict(kind, tuple(sources), obligations, conflicts, _metadata(kind, sources))


def _label(model: ModelRef, source: str, is_last: bool) -> str:
    return model.name if is_last else Path(source).name


def _found(label: str, card: Card) -> Found:
    """What a card says, else the licence file beside it."""
    for said in (card.licence, card.licence_name):
        if said.lower() not in UNNAMED and (licence := licence_named(said)):
            return Found(label, licence, said, card.where)
    if card.recognised is not None:
        licence, where = card.recognised
        return Found(label, licence, licence.id, where)
    said = card.licence_name or card.licence
    return Found(label, None, said if said.lower() not in UNNAMED else "", card.where if said else "")


def _forbidding(known: Sequence[Found]) -> list[str]:
    return [
        f"{found.name} of {found.model} allows no changed versions to be shared"
        for found in known
        if found.licence and not found.licence.derivatives
    ]


def _conflicting(known: Sequence[Found]) -> list[str]:
    """Licences that must hold for the whole merge, against each other and against limits beside them."""
    sharing = _by_licence(found for found in known if found.licence and found.licence.share)
    told = []
    for place, (licence, models) in enumerate(sharing):
        for other, others in sharing[place + 1 :]:
            if not _targets(licence) & _targets(other):
                told.append(
                    f"{licence.id} of {_and(models)} and {other.id} of {_and(others)} each want the merge under their "
                    "own terms"
                )
        for other, others in _by_licence(found for found in known if found.licence and not found.licence.share):
            if other.derivatives and other.limits - licence.limits:
                told.append(
                    f"{licence.id} of {_and(models)} suffers no further limits, but {other.id} of {_and(others)} "
                    "has some"
                )
    licences = {found.licence.id: found.model for found in known if found.licence}
    for pair, why in APART.items():
        if pair <= licences.keys():
            first, second = sorted(pair)
            told.append(f"{first} of {licences[first]} and {second} of {licences[second]} exclude each other: {why}")
    return told


def _targets(licence: Licence) -> set[str]:
    """The licences that a work may be under when part of it is under this one."""
    found, todo = {licence.share}, [licence.share]
    while todo:
        for name in UPGRADES.get(todo.pop(), ()):
            if name not in found:
                found.add(name)
                todo.append(name)
    return found


def _common(licences: Iterable[Licence]) -> str:
    """The licence that all share-alike ones let the merge be under: one of them where that is so; else empty."""
    sharing = [licence for licence in licences if licence.share]
    shared = set.intersection(*map(_targets, sharing)) if sharing else set()
    own = [licence.id for licence in sharing if licence.id in shared]
    return own[0] if own else min(shared, default="")


def _by_licence(sources: Iterable[Found]) -> list[tuple[Licence, list[str]]]:
    found: dict[str, tuple[Licence, list[str]]] = {}
    for source in sources:
        if source.licence:
            found.setdefault(source.licence.id, (source.licence, []))[1].append(source.model)
    return list(found.values())


def _obligations(known: Sequence[Found]) -> list[str]:
    """Each duty once, with the models that ask for it."""
    asked: dict[str, list[str]] = {}
    for licence, models in _by_licence(known):
        for duty in licence.duties:
            asked.setdefault(duty.replace("{licence}", licence.id), []).extend(models)
    told = [duty.format(models=_and(models)) for duty, models in asked.items()]
    sharing = [(licence, models) for licence, models in _by_licence(known) if licence.share]
    if common := _common(licence for licence, _ in sharing):
        askers = [model for _, models in sharing for model in models]
        told.insert(0, f"publish the merge under {common}, as {_and(askers)} asks of all that is made from it")
    return told


def _metadata(kind: Kind, sources: Sequence[Found]) -> dict[str, str]:
    """The licence that a card can name: the one with the most terms, where that covers the others."""
    if kind == "refused":
        return {"license": "other", "license_name": "conflicting-terms-of-the-sources", "license_link": TERMS_FILE}
    licences = [licence for licence, _ in _by_licence(sources)]
    if kind == "unknown":
        partly = {"license": "other", "license_name": "unknown-in-part", "license_link": TERMS_FILE}
        return partly if licences else {"license": "unknown"}
    ruling = [licence for licence in licences if not licence.is_permissive]
    if not ruling:
        return {"license": min(licences, key=lambda licence: (-len(licence.duties), licence.id)).id}
    common = _common(ruling)
    if common or len(ruling) == 1:
        return _named(LICENCES[common] if common else ruling[0])
    return {"license": "other", "license_name": "terms-of-all-sources", "license_link": TERMS_FILE}


def _named(licence: Licence) -> dict[str, str]:
    if licence.listed:
        return {"license": licence.id}
    return {"license": "other", "license_name": licence.id, "license_link": licence.link or TERMS_FILE}


def _and(models: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(models))
