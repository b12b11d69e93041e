"""Head maps of a few hundred bytes: one pixel per head, enlarged by the browser without smoothing."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from html import escape

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cap_viz.figures.head_grid import FADED_OPACITY, colour_limit
from cap_viz.figures.theme import ACCENT, HELPS, HURTS

# Usual size in pixels on the screen: a map takes the next lower whole multiples of its heads and layers.
WIDTH, HEIGHT = 81, 60
# Opacity of a head without effect, so that the map's extent can be seen.
EMPTY = 0.09


def thumbnail(
    mean: Float[np.ndarray, "layer head"],
    faded: Bool[np.ndarray, "layer head"],
    title: str,
    limit: float | None = None,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    selected: tuple[int, int] | None = None,
) -> str:
    """Return an HTML image of signed values, coloured as in a head map; `limit` is that of a shared scale."""
    n_layers, n_heads = mean.shape
    data = b64encode(png(pixels(mean, faded, limit or colour_limit(mean)))).decode()
    across, down = max(1, size[0] // n_heads), max(1, size[1] // n_layers)
    frame = ""
    if selected is not None:
        top, left = selected[0] * down - 2, selected[1] * across - 2
        frame = (
            f'<i style="position:absolute;top:{top}px;left:{left}px;width:{across + 4}px;height:{down + 4}px;'
            f'box-sizing:border-box;border:2px solid {ACCENT}"></i>'
        )
    return (
        f'<span style="position:relative;display:inline-block"><img alt="{escape(title)}" width="{n_heads * across}" '
        f'height="{n_layers * down}" style="image-rendering:pixelated;display:block" '
        f'src="data:image/png;base64,{data}">{frame}</span>'
    )


def pixels(
    mean: Float[np.ndarray, "layer head"], faded: Bool[np.ndarray, "layer head"], limit: float
) -> UInt8[np.ndarray, "layer head 4"]:
    """Colour each head by the sign of its effect, more opaque the larger it is, and fade it where it is unclear."""
    opacity = np.clip(np.abs(np.nan_to_num(mean)) / limit, 0, 1) * np.where(faded, FADED_OPACITY, 1)
    hurts, helps = ([int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (HURTS, HELPS))
    colours = np.where(mean[..., None] >= 0, hurts, helps)
    return np.dstack([colours, 255 * np.maximum(opacity, EMPTY)]).round().astype(np.uint8)


def png(image: UInt8[np.ndarray, "row column 4"]) -> bytes:
    """Encode an RGBA image as PNG, with lines unfiltered."""
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
