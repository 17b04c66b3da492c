"""What common licences ask of somebody who publishes a merge. A reading aid for decisions, not legal advice."""

from __future__ import annotations

import re
from dataclasses import dataclass

NOTICES = "keep the licence text and the copyright notices of {models}"
CHANGED = "say that {models} was changed"
CREDIT = "credit the authors of {models}, link the licence and say what was changed"
NONCOMMERCIAL = "no commercial use: {licence} of {models}"
RESEARCH = "for research only: {licence} of {models}"
AGREEMENT = "hand on a copy of the agreement of {models}, and let users accept it"
USE = "hand on the use restrictions of {licence} ({models}) as terms of your own"
PRODUCTION = "no use in production: {licence} of {models}"


@dataclass(frozen=True)
class Licence:
    """One licence.

    Attributes:
        id: as the hub writes it in `license`; where the hub has no identifier, as cards write it in `license_name`.
        title: in words.
        link: where its text is.
        duties: what somebody who publishes a merge has to do, one line each; `{models}` and `{licence}` are filled in.
        limits: what it forbids that a plain licence would allow ("commercial", "use", ...); a share-alike licence
            suffers no limits beside it that are not its own.
        share: the licence that everything made from it must be under; empty: any.
        derivatives: whether changed versions may be shared at all.
        listed: whether the hub knows the identifier.
    """

    id: str
    title: str
    link: str = ""
    duties: tuple[str, ...] = ()
    limits: frozenset[str] = frozenset()
    share: str = ""
    derivatives: bool = True
    listed: bool = True

    @property
    def is_permissive(self) -> bool:
        """Whether it asks for no more than notices and credit."""
        return not self.limits and not self.share and self.derivatives


UPGRADES = {
    "cc-by-sa-3.0": ("cc-by-sa-4.0",),
    "cc-by-sa-4.0": ("gpl-3.0",),
    "cc-by-nc-sa-3.0": ("cc-by-nc-sa-4.0",),
    "lgpl-2.1": ("gpl-2.0", "gpl-3.0"),
    "lgpl-3.0": ("gpl-3.0",),
    "gpl-3.0": ("agpl-3.0",),
    "mpl-2.0": ("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"),
    "eupl-1.2": ("gpl-2.0", "gpl-3.0", "agpl-3.0", "cc-by-sa-3.0"),
}
"""Share-alike licences whose terms let the result be under another one."""

APART = {frozenset({"gpl-2.0", "apache-2.0"}): "the patent terms of the one are a further limit to the other"}
"""Licences that cannot both be kept, beyond what their limits say, and why."""


def _spdx(name: str) -> str:
    return f"https://spdx.org/licenses/{name}.html"


def _creative_commons(kind: str, version: str) -> Licence:
    """One of the Creative Commons licences that ask for credit; `kind` is such as "by-nc-sa"."""
    parts = kind.split("-")
    duties = [CREDIT, *([NONCOMMERCIAL] if "nc" in parts else [])]
    name = f"cc-{kind}-{version}"
    return Licence(
        name,
        f"Creative Commons {kind.upper()} {version}",
        f"https://creativecommons.org/licenses/{kind}/{version}/",
        tuple(duties),
        frozenset({"commercial"} if "nc" in parts else ()),
        name if "sa" in parts else "",
        "nd" not in parts,
    )


def _llama(version: str, title: str, folder: str, prefix: str) -> Licence:
    duties = [
        AGREEMENT,
        "put the notice of {licence} into a file NOTICE ({models})",
        "keep to Meta's acceptable use policy ({models}); above 700 million monthly users a licence of your own",
    ]
    if version in ("2", "3"):
        duties.append("no use of {models} or its outputs to improve language models other than {licence}'s own")
    if version != "2":
        duties.append(f"show 'Built with {prefix}', and let the model's name begin with '{prefix}' ({{models}})")
    if version in ("3.2", "4"):
        duties.append("no rights to multimodal models for persons and companies domiciled in the EU ({models})")
    return Licence(f"llama{version}", title, folder, tuple(duties), frozenset({f"llama{version}"}))


def _rail(name: str, title: str, link: str) -> Licence:
    return Licence(name, title, link, (NOTICES, CHANGED, USE), frozenset({"use"}))


_META = "https://www.llama.com"
_PERMISSIVE = {
    "mit": "MIT", "bsd": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "bsd-3-clause-clear": "BSD-3-Clause-Clear", "isc": "ISC", "zlib": "Zlib", "afl-3.0": "AFL-3.0",
    "artistic-2.0": "Artistic-2.0", "bsl-1.0": "BSL-1.0", "ecl-2.0": "ECL-2.0", "ms-pl": "MS-PL", "ncsa": "NCSA",
    "postgresql": "PostgreSQL", "odc-by": "ODC-By-1.0", "cdla-permissive-1.0": "CDLA-Permissive-1.0",
    "cdla-permissive-2.0": "CDLA-Permissive-2.0", "etalab-2.0": "etalab-2.0",
}  # fmt: skip
_FREE = {"cc0-1.0": "CC0-1.0", "unlicense": "Unlicense", "wtfpl": "WTFPL", "pddl": "PDDL-1.0"}
_SHARE = {
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only", "mpl-2.0": "MPL-2.0", "epl-2.0": "EPL-2.0", "eupl-1.2": "EUPL-1.2",
    "osl-3.0": "OSL-3.0", "odbl": "ODbL-1.0", "cdla-sharing-1.0": "CDLA-Sharing-1.0",
}  # fmt: skip

_ALL = (
    Licence("apache-2.0", "Apache License 2.0", _spdx("Apache-2.0"), (NOTICES, CHANGED)),
    *(Licence(name, spdx, _spdx(spdx), (NOTICES,)) for name, spdx in _PERMISSIVE.items()),
    *(Licence(name, spdx, _spdx(spdx)) for name, spdx in _FREE.items()),
    *(Licence(name, spdx, _spdx(spdx), (NOTICES,), share=name) for name, spdx in _SHARE.items()),
    *(_creative_commons("by", version) for version in ("2.0", "2.5", "3.0", "4.0")),
    *(_creative_commons("by-sa", version) for version in ("3.0", "4.0")),
    *(_creative_commons("by-nc", version) for version in ("2.0", "3.0", "4.0")),
    *(_creative_commons("by-nc-sa", version) for version in ("2.0", "3.0", "4.0")),
    *(_creative_commons("by-nc-nd", version) for version in ("3.0", "4.0")),
    _creative_commons("by-nd", "4.0"),
    Licence("openmdw-1.0", "OpenMDW License 1.0", "https://openmdw.ai/license/", (NOTICES,)),
    _llama("2", "Llama 2 Community License", "https://ai.meta.com/llama/license/", "Llama 2"),
    _llama("3", "Meta Llama 3 Community License", f"{_META}/llama3/license/", "Meta Llama 3"),
    _llama("3.1", "Llama 3.1 Community License", f"{_META}/llama3_1/license/", "Llama"),
    _llama("3.2", "Llama 3.2 Community License", f"{_META}/llama3_2/license/", "Llama"),
    _llama("3.3", "Llama 3.3 Community License", f"{_META}/llama3_3/license/", "Llama"),
    _llama("4", "Llama 4 Community License", f"{_META}/llama4/license/", "Llama"),
    Licence(
        "gemma",
        "Gemma Terms of Use",
        "https://ai.google.dev/gemma/terms",
        (AGREEMENT, USE, CHANGED, "put the notice of the Gemma Terms of Use into a file NOTICE ({models})"),
        frozenset({"use"}),
    ),
    _rail("openrail", "OpenRAIL", "https://www.licenses.ai/"),
    _rail("openrail++", "CreativeML Open RAIL++-M", "https://www.licenses.ai/"),
    _rail("creativeml-openrail-m", "CreativeML Open RAIL-M", "https://www.licenses.ai/"),
    _rail(
        "bigscience-openrail-m", "BigScience OpenRAIL-M", "https://bigscience.huggingface.co/blog/bigscience-openrail-m"
    ),
    _rail(
        "bigscience-bloom-rail-1.0",
        "BigScience RAIL 1.0",
        "https://huggingface.co/spaces/bigscience/license",
    ),
    _rail(
        "bigcode-openrail-m",
        "BigCode OpenRAIL-M",
        "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement",
    ),
    *(
        Licence(name, title, "", (AGREEMENT, RESEARCH), frozenset({"commercial", name}))
        for name, title in {
            "apple-amlr": "Apple Machine Learning Research Model License",
            "intel-research": "Intel Research License",
            "fair-noncommercial-research-license": "FAIR Noncommercial Research License",
        }.items()
    ),
    Licence("apple-ascl", "Apple Sample Code License", "", (NOTICES,)),
    Licence(
        "deepseek",
        "DeepSeek License Agreement 1.0",
        "https://github.com/deepseek-ai/DeepSeek-LLM/blob/main/LICENSE-MODEL",
        (AGREEMENT, CHANGED, USE),
        frozenset({"use"}),
        listed=False,
    ),
    Licence(
        "qwen",
        "Qwen License Agreement",
        "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
        (AGREEMENT, CHANGED, "above 100 million monthly users a licence of your own ({models})"),
        frozenset({"qwen"}),
        listed=False,
    ),
    Licence(
        "qwen-research",
        "Qwen Research License Agreement",
        "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
        (AGREEMENT, CHANGED, RESEARCH, "show 'Built with Qwen' or 'Improved using Qwen' ({models})"),
        frozenset({"commercial", "qwen"}),
        listed=False,
    ),
    Licence(
        "mrl",
        "Mistral AI Research License",
        "https://mistral.ai/licenses/MRL-0.1.md",
        (AGREEMENT, CHANGED, RESEARCH),
        frozenset({"commercial", "mistral"}),
        "mrl",
        listed=False,
    ),
    Licence(
        "mnpl",
        "Mistral AI Non-Production License",
        "https://mistral.ai/licenses/MNPL-0.1.md",
        (AGREEMENT, CHANGED, PRODUCTION),
        frozenset({"commercial", "mistral"}),
        "mnpl",
        listed=False,
    ),
    Licence(
        "falcon-180b",
        "Falcon 180B TII License",
        "https://huggingface.co/spaces/tiiuae/falcon-180b-license",
        (AGREEMENT, USE, "no hosting of the model as a service without a licence of TII ({models})"),
        frozenset({"use", "hosting"}),
        listed=False,
    ),
    Licence(
        "falcon-llm-license",
        "TII Falcon LLM License 2.0",
        "https://falconllm.tii.ae/falcon-terms-and-conditions.html",
        (NOTICES, CHANGED, USE, "credit TII's Falcon ({models})"),
        frozenset({"use"}),
        listed=False,
    ),
    Licence(
        "yi-license",
        "Yi Series Models Community License",
        "https://huggingface.co/01-ai/Yi-34B/blob/main/LICENSE",
        (AGREEMENT, CHANGED, USE, "ask 01.AI before commercial use ({models})"),
        frozenset({"use", "commercial"}),
        listed=False,
    ),
    Licence(
        "stabilityai-ai-community",
        "Stability AI Community License",
        "https://stability.ai/community-license-agreement",
        (AGREEMENT, USE, "show 'Powered by Stability AI'; above USD 1 million a year a licence of your own ({models})"),
        frozenset({"use", "revenue"}),
        listed=False,
    ),
    Licence(
        "nvidia-open-model-license",
        "NVIDIA Open Model License",
        "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
        (AGREEMENT, USE),
        frozenset({"use"}),
        listed=False,
    ),
    Licence(
        "lfm1.0",
        "LFM Open License 1.0",
        "https://www.liquid.ai/lfm-license",
        (NOTICES, CHANGED, "above USD 10 million a year no commercial use ({models})"),
        frozenset({"revenue"}),
        listed=False,
    ),
    Licence(
        "exaone",
        "EXAONE AI Model License",
        "",
        (AGREEMENT, NONCOMMERCIAL, "let the model's name begin with 'EXAONE' ({models})"),
        frozenset({"commercial", "exaone"}),
        "exaone",
        listed=False,
    ),
)

LICENCES = {licence.id: licence for licence in _ALL}
"""By identifier."""

_ALIASES = {
    "apache2.0": "apache-2.0", "apache-2": "apache-2.0", "apache": "apache-2.0", "gpl": "gpl-3.0",
    "gpl-2.0-or-later": "gpl-3.0", "agpl": "agpl-3.0", "lgpl": "lgpl-3.0", "cc-by": "cc-by-4.0",
    "cc-by-sa": "cc-by-sa-4.0", "cc-by-nc": "cc-by-nc-4.0", "cc-by-nc-sa": "cc-by-nc-sa-4.0",
    "cc-by-nd": "cc-by-nd-4.0", "cc-by-nc-nd": "cc-by-nc-nd-4.0", "tongyi-qianwen": "qwen",
    "tongyi-qianwen-research": "qwen-research", "mistral-ai-research": "mrl", "mistral-research": "mrl",
    "mistral-ai-research-licence": "mrl", "mistral-ai-non-production": "mnpl", "mistral-non-production": "mnpl",
    "falcon-180b-tii": "falcon-180b", "yi": "yi-license", "falcon": "falcon-llm-license", "llama-2": "llama2",
    "llama-3": "llama3", "llama3.1-community": "llama3.1", "stabilityai-community": "stabilityai-ai-community",
    "stability-ai-community": "stabilityai-ai-community", "gemma-terms-of-use": "gemma",
}  # fmt: skip


def licence_named(name: str) -> Licence | None:
    """The licence that a card, SPDX or people call so, whatever its case; None: unknown here."""
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    for candidate in (key, key.removesuffix("-only").removesuffix("-or-later"), key.removesuffix("-license")):
        found = LICENCES.get(_ALIASES.get(candidate, candidate))
        if found is not None:
            return found
    return next((each for each in _ALL if re.sub(r"\s+", "-", each.title.lower()) == key), None)


_HEADINGS = (
    (r"attribution noncommercial noderiv\w*", "cc-by-nc-nd"),
    (r"attribution noncommercial sharealike", "cc-by-nc-sa"),
    (r"attribution noncommercial", "cc-by-nc"),
    (r"attribution share ?alike", "cc-by-sa"),
    (r"attribution noderiv\w*", "cc-by-nd"),
    (r"attribution \d \d (international|unported|generic)|creative commons.{0,40}attribution", "cc-by"),
    (r"cc0 1 0 universal", "cc0-1.0"),
    (r"llama 4 community licen[sc]e", "llama4"),
    (r"llama 3 3 community licen[sc]e", "llama3.3"),
    (r"llama 3 2 community licen[sc]e", "llama3.2"),
    (r"llama 3 1 community licen[sc]e", "llama3.1"),
    (r"llama 3 community licen[sc]e", "llama3"),
    (r"llama 2 community licen[sc]e", "llama2"),
    (r"gemma terms of use", "gemma"),
    (r"(qwen|tongyi qianwen) research licen[sc]e", "qwen-research"),
    (r"(qwen|tongyi qianwen) licen[sc]e", "qwen"),
    (r"deepseek licen[sc]e agreement", "deepseek"),
    (r"mistral ai research licen[sc]e", "mrl"),
    (r"mistral ai non production licen[sc]e", "mnpl"),
    (r"bigcode (open ?rail|model licen[sc]e)", "bigcode-openrail-m"),
    (r"bigscience rail", "bigscience-bloom-rail-1.0"),
    (r"bigscience open ?rail", "bigscience-openrail-m"),
    (r"open rail m\b.{0,40}\+\+|open rail\+\+|open rail m ?2", "openrail++"),
    (r"creativeml open ?rail", "creativeml-openrail-m"),
    (r"falcon 180b tii licen[sc]e", "falcon-180b"),
    (r"falcon llm licen[sc]e", "falcon-llm-license"),
    (r"yi series models.{0,30}licen[sc]e", "yi-license"),
    (r"stability ai community licen[sc]e", "stabilityai-ai-community"),
    (r"nvidia open model licen[sc]e", "nvidia-open-model-license"),
    (r"lfm open licen[sc]e", "lfm1.0"),
    (r"exaone ai model licen[sc]e", "exaone"),
    (r"apache licen[sc]e.{0,12}version 2 0", "apache-2.0"),
    (r"gnu affero general public licen[sc]e version 3", "agpl-3.0"),
    (r"gnu lesser general public licen[sc]e version 3", "lgpl-3.0"),
    (r"gnu lesser general public licen[sc]e version 2 1", "lgpl-2.1"),
    (r"gnu general public licen[sc]e version 3", "gpl-3.0"),
    (r"gnu general public licen[sc]e version 2", "gpl-2.0"),
    (r"mozilla public licen[sc]e.{0,12}2 0", "mpl-2.0"),
    (r"bsd 3 clause|neither the name of .{0,200}endorse or promote", "bsd-3-clause"),
    (r"bsd 2 clause|redistributions of source code must retain", "bsd-2-clause"),
    (r"mit licen[sc]e|permission is hereby granted free of charge to any person obtaining a copy", "mit"),
)
"""What the text of a licence says near its beginning, in words in lower case; the first that fits counts."""

OPENING = 6000
"""Characters of a text that are looked at."""

NEAR = 40
"""Headings that begin within so many characters of the first are about the same licence."""


def recognised(text: str) -> Licence | None:
    """The licence whose text this is, by its headings and typical sentences; None: not recognised."""
    words = " ".join(re.sub(r"[^a-z0-9+]+", " ", text[:OPENING].lower()).split())
    places = [(match.start(), name) for pattern, name in _HEADINGS if (match := re.search(pattern, words))]
    if not places:
        return None
    first = min(start for start, _ in places)
    near = next(name for start, name in places if start <= first + NEAR)
    version = re.search(r"\b(2 0|2 5|3 0|4 0)\b", words[first : first + 200]) if near.startswith("cc-by") else None
    return licence_named(f"{near}-{version[1].replace(' ', '.')}" if version else near)
