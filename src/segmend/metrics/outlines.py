"""Counting boundary pixels and their partners in one image: the NumPy work behind `contour`.

NumPy and not torch: on one small image the time goes into some fifty calls, and one of torch's
costs several of NumPy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLANES = 8  # classes that share a byte


def count_outlines(
    prediction: NDArray[Any],
    target: NDArray[Any],
    valid: NDArray[np.bool_],
    *,
    num_classes: int,
    radius: int,
) -> NDArray[np.int64]:
    """The counts of `boundary_counts` for one image: int64 (num_classes, 4).

    Args:
        prediction, target: labels below `num_classes`, integer (H, W).
        valid: bool (H, W).
    """
    counts = np.zeros((num_classes, 4), dtype=np.int64)
    pair = np.stack((prediction, target), dtype=np.uint8 if num_classes <= 256 else np.int64,
                    casting="unsafe")  # fmt: skip
    edges = boundary(pair)
    at = np.flatnonzero((edges[0] | edges[1]) != 0)
    if not len(at):
        return counts
    # everything else is work on these few pixels: labels (2, 4, n) of each and its neighbours
    # (`take`, because it is several times faster than an index)
    near: NDArray[Any] = pair.reshape(2, -1).take(_neighbours(at, valid), axis=1)
    # a binary problem has one boundary, which both classes share
    present = [1] if num_classes == 2 else np.flatnonzero(np.bincount(near.ravel()))
    for first in range(0, len(present), _PLANES):
        # one bit a class: the boundaries of eight classes cost as much as those of one
        group = present[first : first + _PLANES]
        bits = np.zeros(num_classes, dtype=np.uint8)
        bits[group] = 1 << np.arange(len(group))
        planes = bits.take(near)
        edge = np.bitwise_or.reduce(planes[:, :1] ^ planes[:, 1:], axis=1)
        found = _match(edge, at, valid.shape, radius)
        where = slice(None) if num_classes == 2 else group
        counts[where] = _count_bits(found, len(group))
    return counts


def boundary(labels: NDArray[Any]) -> NDArray[Any]:
    """Where a pixel differs from its right, lower or lower-right neighbour: not 0, or True.

    Args:
        labels: (..., H, W); bool or integer, of which 0 comes back where nothing differs.
    """
    edge, width = np.zeros_like(labels), labels.shape[-1]
    # one long row is compared several times faster than many short ones
    flat, out = labels.reshape(-1), edge.reshape(-1)
    for step in (1, width, width + 1):
        out[:-step] |= flat[:-step] ^ flat[step:]
    edge[..., -1] = 0  # here a row's end met the beginning of the next
    edge[..., -1, :] = 0
    edge[..., :-1, -1] |= labels[..., :-1, -1] ^ labels[..., 1:, -1]
    edge[..., -1, :-1] |= labels[..., -1, :-1] ^ labels[..., -1, 1:]
    return edge


def dilate(planes: NDArray[Any], radius: int) -> NDArray[Any]:
    """Bits set within `radius` (Euclidean) of a pixel; shape and type of `planes`.

    The disk is a union of vertical runs, one a column offset, which shrink towards its sides; so
    the run grows in place while the offset falls, at 4 * radius steps of one byte a pixel. This
    equals `distance transform <= radius` and is several times faster at these radii.

    Args:
        planes: (..., H, W), bool or uint8 in which each bit is a region of its own.
    """
    height, width = planes.shape[-2:]
    # with a margin of zeros a shift by rows or columns is one shift of the whole memory
    padded = np.zeros((*planes.shape[:-2], height + radius, width + radius), dtype=planes.dtype)
    padded[..., :height, :width] = planes
    grown, source = np.zeros_like(padded), padded.reshape(-1)
    column, out, reach = source.copy(), grown.reshape(-1), 0
    for offset in range(radius, -1, -1):
        while (reach + 1) ** 2 + offset**2 <= radius**2:
            reach += 1
            _spread(column, source, reach * (width + radius))
        _spread(out, column, offset)
    return grown[..., :height, :width]


def _spread(out: NDArray[Any], flat: NDArray[Any], step: int) -> None:
    """Add `flat`, shifted by `step` both ways, to `out`; both (n,)."""
    if step == 0:
        out |= flat
    elif step < len(flat):
        out[step:] |= flat[:-step]
        out[:-step] |= flat[step:]


def _neighbours(at: NDArray[np.intp], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(4, n) flat indices: each pixel and its three neighbours, itself where one does not count."""
    height, width = valid.shape
    not_last = at % width != width - 1
    not_bottom = at < (height - 1) * width
    found = at + np.array([[0], [1], [width], [width + 1]])
    counts = np.stack((not_last, not_bottom, not_last & not_bottom))
    if not valid.all():
        # a neighbour off the image is looked up at its pixel
        inside = np.where(counts, found[1:], at)
        counts &= valid.ravel()[at] & valid.ravel()[inside]
    return np.concatenate((found[:1], np.where(counts, found[1:], at)))


def _match(
    edges: NDArray[np.uint8], at: NDArray[np.intp], size: tuple[int, ...], radius: int
) -> NDArray[np.uint8]:
    """uint8 (4, n): [matched predicted, predicted, matched target, target] bits of each pixel.

    Args:
        edges: uint8 (2, n), bits of the classes on whose boundary a pixel is.
        at: rising flat indices (n,) in an image of `size`.
    """
    y, x = np.divmod(at, size[1])
    # all boundary pixels lie in this box, so nothing outside it can match or be matched
    top, left = y[0], x.min()
    box = np.zeros((2, int(y[-1] - top) + 1, int(x.max() - left) + 1), dtype=np.uint8)
    place = (y - top) * box.shape[2] + (x - left)
    for plane, edge in zip(box.reshape(2, -1), edges, strict=True):
        plane[place] = edge
    near = dilate(box, radius)[::-1].reshape(2, -1).take(place, axis=1)
    return np.stack((edges[0] & near[0], edges[0], edges[1] & near[1], edges[1]))


def _count_bits(planes: NDArray[np.uint8], num_bits: int) -> NDArray[np.int64]:
    """How often each of the lowest bits is set in each row of uint8 (R, n): int64 (bits, R)."""
    return np.array(
        [[np.count_nonzero((row & (1 << bit)) != 0) for row in planes] for bit in range(num_bits)]
    )
