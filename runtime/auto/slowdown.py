"""What hardening is estimated to cost in time: from the cost model that also chooses layers, not timed."""

from __future__ import annotations

import onnx

from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.costs import estimated_ratio
from kdguard.graph_passes.strip_nodes import StripNodes


def estimate_slowdown(hardened: onnx.ModelProto, card: ModelCard, pair: ImagePair) -> float | None:
    """Time of a hardened model over that of the same model without our nodes; 1 is no cost.

    Args:
        pair: costs are counted for its size.

    Returns:
        None where shape inference does not find the size of a hardened map.
    """
    clean, shape = StripNodes()(hardened).model, image_to_tensor(pair.degraded, card).shape
    try:
        return estimated_ratio(clean, hardened, {card.input_name: shape})
    except ValueError:
        return None
