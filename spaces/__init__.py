"""What may vary: from a point in a bounded box to a Recipe. No torch, no Optuna."""

from evomerge.spaces.basis import LAYER_SPACES, Basis, Dimension, layer_space
from evomerge.spaces.config import SpaceConfig
from evomerge.spaces.space import METHOD, Merge, Point, Space

__all__ = ["LAYER_SPACES", "METHOD", "Basis", "Dimension", "Merge", "Point", "Space", "SpaceConfig", "layer_space"]
