"""Head maps of a page: what the browser is given to draw them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest

# Values are rounded to what can be seen.
SEEN = 6e-4


def head_maps(at: AppTest) -> list[dict[str, Any]]:
    """Return the data of every head map on the page, in order."""
    protos = [one.proto for one in at.get("bidi_component")]
    return [json.loads(proto.json) for proto in protos if proto.component_name == "cap_viz_head_map"]


def drawn(at: AppTest, place: int = 0) -> np.ndarray:
    """Return the values of a head map on the page, layer × head."""
    data = head_maps(at)[place]
    return np.array(data["mean"], dtype=float).reshape(-1, data["heads"])
