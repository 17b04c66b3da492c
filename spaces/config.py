"""The `space` section of a configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_serializer, model_validator

from evomerge.engine.recipe import Frozen


class SpaceConfig(Frozen):
    """What may vary.

    Attributes:
        layers: the name of a layer space: how a number varies over depth.
        modules: groups of parameters inside a layer that get numbers of their own, tried in this order: "all",
            "attention", "mlp", "other" (whatever is left), or regular expressions.
        settings: every other key of the section: options of the layer space (such as `blocks`), and for each
            parameter of the merge method its bounds `[low, high]` or a fixed number. `Space` checks them.
    """

    layers: str = "blocks"
    modules: tuple[str, ...] = Field(default=("all",), min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {key: value[key] for key in ("layers", "modules") if key in value}
        return {**known, "settings": {key: value[key] for key in value if key not in known}}

    @model_serializer
    def _flatten(self) -> dict[str, Any]:
        return {"layers": self.layers, "modules": list(self.modules), **self.settings}

    @model_validator(mode="after")
    def _modules_are_distinct(self) -> SpaceConfig:
        for module in self.modules:
            if not module:
                raise ValueError("modules must be words or regular expressions, but one is empty")
            if self.modules.count(module) > 1:
                raise ValueError(f"modules must be distinct, but {module!r} stands twice")
        for earlier, later in zip(self.modules, self.modules[1:], strict=False):
            if earlier in ("all", "other"):
                raise ValueError(f"modules after {earlier!r} can never be reached, but got {later!r}; put it last")
        return self
