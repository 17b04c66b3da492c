"""Values at a few depths, and straight lines between them."""

from __future__ import annotations

from evomerge.errors import InputError
from evomerge.spaces.basis import Basis, layer_space


@layer_space("knots")
def knots(num_layers: int, *, knots: int = 5) -> Basis:
    """A linear spline with `knots` knots, evenly spaced from the first layer to the last.

    Its basis functions are hats: non-negative, with the sum 1 in every layer, so that a curve stays between the values
    at its knots and thus in the bounds. A coefficient is the value at its knot, which one can read, and has an effect
    only up to the knots next to it. Smoother splines have coefficients that are no values and overlap more, so that
    they are harder to tell apart; and layers are too few to see the kinks.

    Args:
        num_layers: of the model.
        knots: numbers of a curve; as many as there are layers give each its own, and one is the same for all.

    Raises:
        InputError: unless 1 <= knots <= num_layers.
    """
    if not 1 <= knots <= num_layers:
        raise InputError(f"space.knots must be from 1 to the number of layers ({num_layers}), but got {knots}")
    last = max(num_layers - 1, 1)
    places = [knot * last / max(knots - 1, 1) for knot in range(knots)]
    return Basis(
        names=tuple(f"at layer {round(place, 2):g}" for place in places) if knots > 1 else ("",),
        matrix=tuple(_hats(layer * (knots - 1), last, knots) for layer in range(num_layers)),
        constant=(1.0,) * knots,
    )


def _hats(position: int, spacing: int, knots: int) -> tuple[float, ...]:
    """The weights of all knots at a position between them: of the two neighbours, by the distance from each."""
    left, rest = divmod(position, spacing)
    weights = [0.0] * knots
    weights[left] = 1 - rest / spacing
    if rest:
        weights[left + 1] = rest / spacing
    return tuple(weights)
