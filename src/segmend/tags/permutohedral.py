"""Gaussian filters of high dimension in linear time, on the permutohedral lattice, in NumPy.

The filter is a product of sparse linear maps: pixels to the corners of the simplices that hold
them (splat), a short blur along every axis of the lattice, corners back to pixels (slice). All of
them depend on the features alone, so they are set up once and then cost a few array operations a
call. Nothing is compiled on installation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segmend.errors import SegmendError

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
_CHUNK = 1 << 14  # pixels at a time: their planes stay in the cache


class PermutohedralLattice:
    """The Gaussian filter sum_j exp(-|f_i - f_j|^2 / 2) v_j, up to a constant factor.

    An approximation: the kernel is piecewise linear, and the blur stops at lattice points that no
    pixel uses, so colours that nothing lies between hardly reach each other. Where a feature lies
    on the face of a simplex, rounding decides which points are used.

    Args:
        features: (d, n), in units of the kernel's standard deviation.
    Attributes:
        corners: number of lattice points in use.
    Raises:
        SegmendError: features are not (d, n) and finite, or spread over so many standard
            deviations that the lattice points cannot be numbered in 64 bits.
    Reference:
        Adams, Baek and Davis, Eurographics 2010.
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 2 or 0 in features.shape or not np.isfinite(features).all():
            raise SegmendError(f"features: want finite (d, n), got {features.shape}, or NaN in it")
        size, n = len(features) + 1, features.shape[1]
        keys, weights, steps = _corners(features)
        numbers, index = _enumerate(keys)
        self.corners = len(numbers)
        self._near = [_neighbours(numbers, step) for step in steps]
        starts = np.arange(0, size * n + 1, size, dtype=index.dtype)
        self._slice = sparse.csr_matrix((weights.reshape(-1), index, starts), (n, self.corners))

    def filter(self, values: Floats) -> Floats:
        """The sums for values (n,) or (n, channels), float32 of the same shape.

        Four channels and more are faster together, fewer one by one.
        """
        result: Floats = self._slice @ self._blur(self._slice.T @ values)
        return result

    def normalise(self) -> Floats:
        """Divide the kernel from now on by the roots of its sums over i and over j.

        Returns:
            The roots, (n,): up to the constant factor.
        """
        n, size = self._slice.shape[0], len(self._near)
        roots: Floats = np.sqrt(self.filter(np.ones(n, dtype=np.float32)))
        self._slice.data.reshape(n, size)[:] /= roots[:, None]
        return roots

    def _blur(self, held: Floats) -> Floats:
        # The last is the neighbour of those that have none.
        padded = np.zeros((self.corners + 1, *held.shape[1:]), dtype=np.float32)
        padded[:-1] = held
        for ahead, behind in self._near:
            sides = padded.take(ahead, axis=0)
            sides += padded.take(behind, axis=0)
            sides *= np.float32(0.5)
            padded[:-1] += sides
        return padded[:-1]


def _corners(features: Floats) -> tuple[Integers, Floats, list[int]]:
    """Corners of each pixel's simplex: numbers (n, d + 1), weights alike, and a step per axis.

    A corner's number is linear in its coordinates, so that a step along an axis of the lattice
    always changes it by the same amount.
    """
    size, n = len(features) + 1, features.shape[1]
    position = _elevate(features)
    strides = _strides(position)
    keys = np.empty((n, size), dtype=np.int64)
    weights = np.empty((n, size), dtype=np.float32)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        origin, rank = _simplex(position[:, part])
        offset = (position[:, part] - origin) * np.float32(1 / size)
        # Both by rank: corner r lies ahead of corner r - 1 along the axis ranked d + 1 - r.
        places = rank.astype(np.intp) * rank.shape[1] + np.arange(rank.shape[1])
        ranked = np.empty_like(offset)
        ranked.reshape(-1)[places] = offset
        turned = np.empty(rank.shape, dtype=np.int64)
        turned.reshape(-1)[places] = strides[:, None]
        key = strides @ origin.astype(np.int64)
        keys[part, 0], weights[part, 0] = key, 1 + ranked[-1] - ranked[0]
        for r in range(1, size):
            key += strides.sum() - size * turned[size - r]
            keys[part, r], weights[part, r] = key, ranked[size - 1 - r] - ranked[size - r]
    keys -= keys.min()  # fewer bits to sort
    return keys, weights, [int(strides.sum() - size * stride) for stride in strides]


def _elevate(features: Floats) -> Floats:
    """Features (d, n) in the hyperplane of d + 1 coordinates that sum to zero.

    The scale makes the standard deviation of all blurs together one unit of the features. It is
    rounded as in the reference implementation, so that pixels on faces fall to the same side.
    """
    d, n = features.shape
    unit = float(np.float32(np.sqrt(2 / 3) * (d + 1)))
    position = np.empty((d + 1, n), dtype=np.float32)
    rest = np.zeros(n, dtype=np.float32)
    for i in range(d, 0, -1):
        scaled = features[i - 1] * np.float32(1 / math.sqrt(i * (i + 1)) * unit)
        np.subtract(rest, np.float32(i) * scaled, out=position[i])
        rest += scaled
    position[0] = rest
    return position


def _strides(position: Floats) -> Integers:
    """Factors (d + 1,) that give every lattice point in reach its own number."""
    size = len(position)
    # A corner is less than `size` away from its pixel, and its neighbour as much again.
    extents = [math.ceil(e) + 4 * size for e in np.ptp(position.astype(np.float64), axis=1)]
    strides = [0]  # the first coordinate follows from the others: all sum to zero
    strides += [math.prod(extents[1:i]) for i in range(1, size)]
    if size * math.prod(extents) >= 2**62:
        raise SegmendError(
            f"features: they spread over too many standard deviations, up to "
            f"{max(extents) // size}, for a lattice; widen the kernel"
        )
    return np.array(strides, dtype=np.int64)


def _simplex(position: Floats) -> tuple[Floats, NDArray[np.int8]]:
    """The lattice point of remainder zero that the simplex starts from, and the ranks.

    Rank 0 has the coordinate furthest ahead of that point; both are (d + 1, n).
    """
    size = len(position)
    multiple = np.rint(position * np.float32(1 / size))
    origin = multiple * np.float32(size)
    ahead = position - origin
    rank = np.broadcast_to(multiple.sum(0), position.shape).astype(np.int8)
    for i in range(size):
        for j in range(i + 1, size):
            less = ahead[i] < ahead[j]
            rank[i] += less
            rank[j] += ~less
    # Rounding can leave the hyperplane: then the furthest coordinates move on by one multiple.
    wrap = (rank < 0).astype(np.int8) - (rank >= size)
    rank += wrap * np.int8(size)
    origin += wrap * np.float32(size)
    return origin, rank


def _enumerate(keys: Integers) -> tuple[Integers, NDArray[np.integer]]:
    """The distinct keys in order, and the index among them of every key, flat."""
    flat = keys.reshape(-1)
    bits = len(flat).bit_length()
    if int(flat.max()) >= 2 ** (63 - bits):
        distinct, index = np.unique(flat, return_inverse=True)
        return distinct, index.reshape(-1).astype(_index_type(len(flat)))
    # One sort of numbers that carry their place is faster than any that returns places.
    packed = flat << bits
    packed |= np.arange(len(flat))
    packed.sort()
    order = packed & ((1 << bits) - 1)
    packed >>= bits
    first = np.empty(len(flat), dtype=bool)
    first[0] = True
    np.not_equal(packed[1:], packed[:-1], out=first[1:])
    index = np.empty(len(flat), dtype=_index_type(len(flat)))
    index[order] = np.cumsum(first, dtype=index.dtype) - 1
    return packed[first], index


def _index_type(size: int) -> type[np.integer]:
    """What sparse matrices index with."""
    return np.int32 if size < 2**31 else np.int64


def _neighbours(numbers: Integers, step: int) -> tuple[Integers, Integers]:
    """Indices of the corners one step ahead and behind; `len(numbers)` where there is none."""
    count = len(numbers)
    wanted = numbers + step
    place = np.searchsorted(numbers, wanted)
    place[place == count] = 0
    ahead = np.where(numbers[place] == wanted, place, count)
    behind = np.full(count + 1, count)
    behind[ahead] = np.arange(count)
    return ahead, behind[:count]
