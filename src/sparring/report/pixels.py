"""Figure 1's pixels: small PNG images as data URIs, and the figure as one SVG file."""

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

from sparring.records import ExampleRecord
from sparring.report import words

Rows = Sequence[Sequence[float]]
_BELOW, _ABOVE = (
    (0, 103, 165),
    (213, 94, 0),
)  # blue and vermillion through white: diverging, colour-blind safe


def grey(rows: Rows) -> str:
    """Pixel values in [0, 1] as the data URI of a greyscale PNG."""
    return _uri([bytes(_byte(value) for value in row) for row in rows], channels=1)


def signed(rows: Rows, eps: float) -> str:
    """A perturbation as a PNG data URI: white is 0, full blue -eps, full vermillion +eps."""
    return _uri([b"".join(_diverging(value / eps if eps else 0.0) for value in row) for row in rows], channels=3)


def panels(examples: Sequence[ExampleRecord]) -> str:
    """Figure 1 as a file: one row of three images for each example, with what the model said."""
    side, gap, head, foot = 112, 14, 22, 26
    row = head + side + foot
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{3 * side + 4 * gap}" height="{row * len(examples) + gap}" '
        'font-family="sans-serif" font-size="10">'
        '<rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for k, example in enumerate(examples):
        top = k * row + head
        where = f"{words.attack_label(example.attack)}, eps {words.eps(example.eps)}"
        title = f"{words.label(example.recipe)}, {where}"
        parts.append(f'<text x="{gap}" y="{top - 7}" font-weight="bold">{escape(title)}</text>')
        below = (
            f"{example.prediction} ({words.percent(example.confidence)} %)",
            f"perturbation x {1 / example.eps:.3g}" if example.eps else "perturbation",
            f"{example.perturbed_prediction} ({words.percent(example.perturbed_confidence)} %)",
        )
        images = (grey(example.image), signed(example.delta, example.eps), grey(example.perturbed))
        for column, (uri, text) in enumerate(zip(images, below, strict=True)):
            left = gap + column * (side + gap)
            parts.append(
                f'<image x="{left}" y="{top}" width="{side}" height="{side}" '
                f'style="image-rendering:pixelated" xlink:href="{uri}"/>'
                f'<text x="{left}" y="{top + side + 14}">{escape(text)}</text>'
            )
    return "".join(parts) + "</svg>"


def png(rows: Sequence[bytes], channels: int) -> bytes:
    """Rows of 8-bit samples as a PNG file (RFC 2083): 1 channel is grey, 3 are red, green and blue."""
    width = len(rows[0]) // channels if rows else 0
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 0 if channels == 1 else 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _uri(rows: Sequence[bytes], channels: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(rows, channels)).decode()


def _byte(value: float) -> int:
    return round(255 * min(max(value, 0.0), 1.0)) if value == value else 0


def _diverging(value: float) -> bytes:
    end = _ABOVE if value > 0 else _BELOW
    share = min(abs(value), 1.0) if value == value else 0.0
    return bytes(round(255 + share * (part - 255)) for part in end)
