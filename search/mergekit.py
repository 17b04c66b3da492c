"""mergekit's configurations as recipes: models, slices, gradients, filters, tokenizers, chat templates.

Parameters are looked up as mergekit does: at the model, then at the slice, then at the module, then at the top; the
first scope that gives the tensor a value counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evomerge.engine.checkpoint import Checkpoint, open_checkpoint
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError, unknown_name
from evomerge.search.config import first_error
from evomerge.search.mergekit_parameters import (
    BASELESS,
    Parameter,
    idle_of,
    options_of,
    parameters_of,
)
from evomerge.search.settings import check_setting, first_of, is_plain
from evomerge.search.slices import Slice, Source, groups_of, output_layers, outside_groups, shape_of, stack_of

KEYS = {
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template",
}  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTED = (
    "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear", "linear", "multislerp",
    "task_arithmetic", "ties",
)  # fmt: skip
"""Methods in which a model of weight 0 has no part."""

Tell = Callable[[str], None]
WHOLE = -1
"""The end of a range of layers that is not given: all of them."""


class Document(NamedTuple):
    """A configuration with its parts in order.

    Attributes:
        method: of mergekit.
        base: the reference of its base model; empty without one.
        pieces: the slices; one for a list of models.
        scopes: the settings of the module and of the top.
        sliced: whether the file gives slices.
    """

    method: str
    base: str
    pieces: tuple[Slice, ...]
    scopes: tuple[Mapping[str, Any], ...]
    sliced: bool

    @property
    def models(self) -> list[str]:
        """The inputs' references, each once, in order."""
        return list(dict.fromkeys(source.model for piece in self.pieces for source in piece.sources))

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """All settings of all scopes."""
        own = [scope for piece in self.pieces for scope in (piece.settings, *(s.settings for s in piece.sources))]
        return [*own, *self.scopes]


def fields_of(raw: Mapping[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """The fields of a Recipe.

    Without a base_model the first model stands in as the base: it gives architecture and tokenizer only.

    Args:
        raw: a mergekit configuration.
        folder: which its relative paths are relative to.
        tell: told of what has no effect and is left out, line by line.

    Raises:
        InputError: a key, a value or a combination that has no recipe.
    """
    document = read_document(raw)
    _tell_idle(document, tell)
    method = document.method
    inputs = document.models
    base = document.base or inputs[0]
    if method in ("linear", "karcher") and document.base and base not in inputs and not document.sliced:
        inputs = [*inputs, base]
    experts = inputs if method in BASELESS or not document.base else [model for model in inputs if model != base]
    names = _names([base, *experts])
    if not experts:
        raise InputError(f"a merge must have a model beside its base_model, but has {base} alone")
    checkpoint = _Opened(base, folder)
    fields = {
        "base": {**parse_reference(base), "name": names[base]},
        "experts": [{**parse_reference(model), "name": names[model]} for model in experts],
        "tokenizer": _tokenizer(raw, base, names),
        "dtype": raw.get("out_dtype") or raw.get("dtype") or _stored_dtype(checkpoint()),
    }
    return {**fields, **_merge_of(document, experts, names, checkpoint)}


def chat_template_of(raw: Mapping[str, Any], folder: Path) -> str | None:
    """The chat template that the configuration gives the result; None: that of its tokenizer.

    "auto" is the template that most of the models have.

    Raises:
        InputError: it is a name instead of a template.
    """
    given = raw.get("chat_template")
    if given is None:
        return None
    if not isinstance(given, str) or (given != "auto" and "{" not in given):
        raise InputError(f"chat_template must be auto or the text of a template, but got {given!r}; write its text out")
    if given != "auto":
        return given
    document = read_document(raw)
    models = dict.fromkeys([*([document.base] if document.base else []), *document.models])
    templates = Counter(
        template.strip() for model in models if isinstance(template := _template(_Opened(model, folder)()), str)
    )
    return templates.most_common(1)[0][0] if templates else None


def read_document(raw: Mapping[str, Any]) -> Document:
    """The parts of a configuration. Raises InputError where a key or its form is unknown."""
    for key in raw:
        if key not in KEYS:
            raise unknown_name("a key of a mergekit recipe that evomerge reads", str(key), KEYS)
    method = str(raw["merge_method"])
    parameters_of(method)
    base = _reference_text(raw["base_model"], "base_model") if raw.get("base_model") else ""
    parts = [key for key in ("models", "slices", "modules") if raw.get(key)]
    if len(parts) != 1:
        raise InputError(f"exactly one of models, slices and modules must list models, but got {parts or 'none'}")
    scopes: list[Mapping[str, Any]] = [_settings(raw, "parameters")]
    body = raw
    if parts == ["modules"]:
        modules = raw["modules"]
        if (
            not isinstance(modules, Mapping)
            or len(modules) != 1
            or not isinstance(next(iter(modules.values())), Mapping)
        ):
            raise InputError(f"modules must hold one module here, but got {modules!r:.100}")
        name, body = next(iter(modules.items()))
        _only(body, ("slices", "models", "parameters"), f"modules.{name}")
        scopes.insert(0, _settings(body, f"modules.{name}.parameters"))
    sliced = bool(body.get("slices"))
    pieces = _slices(body["slices"], base) if sliced else (_models(body.get("models")),)
    return Document(method, base, pieces, tuple(scopes), sliced)


def parse_reference(text: str) -> dict[str, Any]:
    """mergekit's model@revision+adapter. Raises InputError for an adapter's revision, which recipes do not have."""
    model, _, adapter = text.partition("+")
    model, _, revision = model.partition("@")
    if "@" in adapter:
        raise InputError(f"an adapter must be given without a revision, but got {text!r}; download that revision first")
    return {"model": model, "revision": revision or None, "adapter": adapter or None}


class _Opened:
    """Opens a model when it is first asked for."""

    def __init__(self, reference: str, folder: Path) -> None:
        self._reference, self._folder = reference, folder
        self._checkpoint: Checkpoint | None = None

    def __call__(self) -> Checkpoint:
        if self._checkpoint is None:
            try:
                reference = ModelRef.model_validate(parse_reference(self._reference))
            except ValidationError as error:
                raise InputError(first_error(error, ModelRef)) from None
            self._checkpoint = open_checkpoint(reference.relative_to(self._folder))
        return self._checkpoint


def _merge_of(
    document: Document, experts: Sequence[str], names: Mapping[str, str], checkpoint: _Opened
) -> dict[str, Any]:
    """Method, options, groups and stack."""
    plain = not document.sliced and all(is_plain(value) for scope in document.settings for value in scope.values())
    if document.method == "passthrough" and len(experts) > 1:
        return _passthrough(document, experts, names, checkpoint())
    numbering = _Numbering(document, experts, names)
    if plain:
        groups: list[dict[str, Any]] | None = [{"parameters": numbering(document.pieces[0], "", 0.0)}]
        return {"method": document.method, "options": numbering.options(), "groups": groups}
    shape = shape_of(checkpoint())
    depth = len(shape.layers)
    layers = output_layers(_whole(document.pieces, depth), depth)
    groups = groups_of(layers, shape, numbering)
    if groups is None:
        raise InputError("a layer that slices list twice must have the same numbers each time here, but has others")
    told = {"method": document.method, "options": numbering.options(), "groups": groups}
    stack = stack_of(layers, depth)
    return told if stack is None else {**told, "stack": stack}


def _passthrough(
    document: Document, experts: Sequence[str], names: Mapping[str, str], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Layers of several models as they are: weights of `linear` that are 0 but for one model.

    Where the same layer of several models stands in the output, the stack names the models themselves.
    """
    shape = shape_of(checkpoint)
    depth = len(shape.layers)
    layers = output_layers(_whole(document.pieces, depth), depth)
    if any(len(layer.piece.sources) != 1 for layer in layers):
        raise InputError("a slice of passthrough must have one source, but one has several; name another merge_method")
    numbering = _Numbering(document, experts, names)

    def one(piece: Slice, name: str, t: float) -> dict[str, Any]:
        scale = numbering(piece, name, t)["scale"]
        if scale == 0.0:
            raise InputError("scale must not be 0 where several models are stacked, but is; leave the layer out")
        return {"weight": {names[model]: scale if model == piece.sources[0].model else 0.0 for model in experts}}

    told: dict[str, Any] = {"method": "linear", "options": {"normalize": False}}
    groups = groups_of(layers, shape, one)
    if groups is not None:
        stack = stack_of(layers, depth)
        return {**told, "groups": groups, **({"stack": stack} if stack else {})}
    scales = {
        numbering(place.piece, f"{shape.prefix}{place.layer}.{path}", place.t)["scale"]
        for place in layers
        for path in shape.layers[place.layer]
    }
    if scales != {1.0}:
        raise InputError("scale must be 1 where the same layer of several models is stacked, but is not everywhere")
    stack = [{"layer": place.layer, "source": names[place.piece.sources[0].model]} for place in layers]
    rest = {"parameters": {"weight": {names[model]: float(model == experts[0]) for model in experts}}}
    return {**told, "groups": [*outside_groups(layers, shape, one), rest], "stack": stack}


class _Numbering:
    """The numbers of each tensor, and the switches, which must be the same for all of them."""

    def __init__(self, document: Document, experts: Sequence[str], names: Mapping[str, str]) -> None:
        self._document, self._experts, self._names = document, experts, names
        self._parameters = parameters_of(document.method)
        self._switches: dict[str, bool] = {}

    def __call__(self, piece: Slice, name: str, t: float) -> dict[str, Any]:
        """As `slices.Numbering`."""
        numbers: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter.switch:
                self._switch(parameter, piece, name, t)
            elif self._document.method == "passthrough":
                numbers[parameter.ours] = self._of_model(parameter, piece, piece.sources[0].model, name, t)
            elif parameter.per_model:
                numbers[parameter.ours] = {
                    self._names[model]: self._of_model(parameter, piece, model, name, t) for model in self._experts
                }
            else:
                numbers[parameter.ours] = self._value(parameter, [piece.settings], name, t)
        return numbers

    def options(self) -> dict[str, Any]:
        """The recipe's options, once numbers have been asked for."""
        return options_of(self._document.method, self._switches, bool(self._document.base))

    def _of_model(self, parameter: Parameter, piece: Slice, model: str, name: str, t: float) -> Any:
        own = [source.settings for source in piece.sources if source.model == model]
        absent = not own and not (model == self._document.base and self._document.method in BASELESS)
        if absent and parameter.ours == "weight":
            if self._document.method not in WEIGHTED:
                raise InputError(f"every slice of {self._document.method} must have all models, but one lacks {model}")
            return 0.0
        return self._value(parameter, [*own, piece.settings], name, t, model)

    def _switch(self, parameter: Parameter, piece: Slice, name: str, t: float) -> None:
        value = self._value(parameter, [piece.settings], name, t)
        if self._switches.setdefault(parameter.theirs, value) != value:
            raise InputError(f"{parameter.theirs} must be the same for all tensors, but is true for some only")

    def _value(
        self, parameter: Parameter, scopes: Sequence[Mapping[str, Any]], name: str, t: float, model: str = ""
    ) -> Any:
        found = first_of([*scopes, *self._document.scopes], parameter.theirs, name, t, parameter.read)
        if found is None and parameter.default is None:
            where = f" of {model}" if model else ""
            raise InputError(f"{parameter.theirs}{where} must be given{f' for {name}' if name else ''}, but is not")
        return parameter.default if found is None else found


def _whole(pieces: Sequence[Slice], depth: int) -> list[Slice]:
    """The slices with the ends of their ranges given."""
    return [
        piece._replace(
            sources=tuple(s._replace(stop=depth) if s.stop == WHOLE else s for s in piece.sources),
        )
        for piece in pieces
    ]


def _tell_idle(document: Document, tell: Tell) -> None:
    idle = dict.fromkeys(
        name for settings in document.settings for name in settings if idle_of(document.method, str(name))
    )
    for name in idle:
        tell(f"recipe: {name} has no effect on {document.method} in mergekit; it is left out")


def _models(listed: Any) -> Slice:
    if not isinstance(listed, list) or not listed:
        raise InputError(f"models must be a list of entries with a model, but got {listed!r}")
    sources = []
    for given in listed:
        entry = given if isinstance(given, Mapping) and "model" in given else {"model": given}
        _only(entry, ("model", "parameters"), "an entry of models")
        model = _reference_text(entry["model"], "model")
        sources.append(Source(model, 0, WHOLE, _settings(entry, f"parameters of {model}")))
    _distinct(sources, "models")
    return Slice(tuple(sources), {})


def _slices(listed: Any, base: str) -> tuple[Slice, ...]:
    if not isinstance(listed, list):
        raise InputError(f"slices must be a list, but got {listed!r}")
    found = []
    for piece in listed:
        sources = piece.get("sources") if isinstance(piece, Mapping) else None
        if not isinstance(sources, list) or not sources:
            raise InputError(f"a slice must have sources with model and layer_range, but got {piece!r}")
        _only(piece, ("sources", "base_model", "parameters"), "a slice")
        own = piece.get("base_model")
        if own and _reference_text(own, "base_model") != base:
            raise InputError(f"base_model of a slice must be the recipe's {base or '(none)'}, but got {own!r}")
        read = [_source(source) for source in sources]
        _distinct(read, "a slice")
        found.append(Slice(tuple(read), _settings(piece, "parameters of a slice")))
    return tuple(found)


def _source(entry: Any) -> Source:
    if not isinstance(entry, Mapping) or not {"model", "layer_range"} <= set(entry):
        raise InputError(f"a source of a slice must have model and layer_range, but got {entry!r}")
    _only(entry, ("model", "layer_range", "parameters"), "a source of a slice")
    span = entry["layer_range"]
    whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
    if not whole or not 0 <= span[0] < span[1]:
        raise InputError(f"layer_range must be [first, after the last], but got {span!r}")
    model = _reference_text(entry["model"], "model")
    return Source(model, span[0], span[1], _settings(entry, f"parameters of {model}"))


def _distinct(sources: Sequence[Source], where: str) -> None:
    twice = [model for model, count in Counter(source.model for source in sources).items() if count > 1]
    if twice:
        raise InputError(f"{where} must list each model once, but lists {twice[0]} twice")


def _settings(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = entry.get("parameters") or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{where} must be a mapping, but got {found!r}")
    for name, setting in found.items():
        check_setting(setting, f"{where}.{name}")
    return found


def _only(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise unknown_name(f"a key of {where}", str(key), known)


def _reference_text(value: Any, where: str) -> str:
    """A reference as text, from text or from mergekit's mappings."""
    if isinstance(value, Mapping):
        if value.get("override_architecture"):
            raise InputError(
                f"{where} must do without override_architecture, but has {value!r}; change its config.json"
            )
        if "path" in value:
            _only(value, ("path", "revision"), where)
            return f"{value['path']}@{value['revision']}" if value.get("revision") else str(value["path"])
        _only(value, ("model", "lora", "override_architecture"), where)
        parts = [_reference_text(part, where) for part in (value.get("model"), value.get("lora")) if part]
        value = "+".join(parts)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} must name a model, but got {value!r}")
    if value.count("+") > 1 or value.count("@") > 2:
        raise InputError(f"{where} must be model@revision+adapter, but got {value!r}")
    return value


def _names(references: Sequence[str]) -> dict[str, str]:
    """Short names where they are unique, whole references where not."""
    distinct = list(dict.fromkeys(references))
    short = {text: Path(text.split("+")[-1].split("@")[0]).name or text for text in distinct}
    counts = Counter(short.values())
    return {text: name if counts[name] == 1 else text for text, name in short.items()}


def _tokenizer(raw: Mapping[str, Any], base: str, names: Mapping[str, str]) -> str:
    """`tokenizer_source`, or `tokenizer.source`: base, union, or a model."""
    block = raw.get("tokenizer")
    if block is not None and raw.get("tokenizer_source"):
        raise InputError("a recipe must have tokenizer_source or tokenizer, but has both")
    source: Any = raw.get("tokenizer_source") or "base"
    if block is not None:
        if not isinstance(block, Mapping):
            raise InputError(f"tokenizer must be a mapping, but got {block!r}")
        _only(block, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
        if block.get("tokens"):
            raise InputError(
                "tokenizer.tokens must be left out (rows of tokens follow fixed rules here), but is "
                f"{block['tokens']!r}"
            )
        if block.get("pad_to_multiple_of"):
            raise InputError(
                f"tokenizer.pad_to_multiple_of must be left out, but is {block['pad_to_multiple_of']!r}; resize the "
                "embeddings of the result"
            )
        source = block.get("source", "union")
    if source in ("base", "union"):
        return str(source)
    text = _reference_text(source, "tokenizer_source")
    if text == base:
        return "base"
    if text not in names:
        raise unknown_name("tokenizer_source", text, ["base", "union", *names])
    return names[text]


def _stored_dtype(base: Checkpoint) -> str:
    """The precision that the base is stored in: mergekit's meaning of an absent dtype."""
    stored = str(base.config.get("dtype") or base.config.get("torch_dtype"))
    if stored not in DTYPES:
        raise InputError(f"dtype must be given, since {base.folder} does not say its own (one of {', '.join(DTYPES)})")
    return stored


def _template(checkpoint: Checkpoint) -> str | None:
    """A model's chat template, of several the default one; None where it has none."""
    template: Any = checkpoint.tokenizer().chat_template if checkpoint.has_tokenizer else None
    found: str | None = template.get("default") if isinstance(template, Mapping) else template
    return found
