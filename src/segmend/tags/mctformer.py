"""Maps from a transformer with one token per class: its attention, its patches, and both.

Attention comes as the layers' weights after softmax, (L, N, heads, T, T), with T = C class tokens
followed by h * w patch tokens, row by row; entry (..., i, j) is how much token i takes from j.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.tags.activation import at_least_float32, check_valid

Reduction = Literal["sum", "mean"]
Fusion = Literal["product", "root"]

CLASS_LAYERS = 3
"""Published: the last three layers' attention of the class tokens, all layers' of the patches."""
RANK_DECAY = 0.996


def class_attention(
    attention: Tensor,
    grid: tuple[int, int],
    *,
    layers: int = CLASS_LAYERS,
    reduction: Reduction = "sum",
) -> Tensor:
    """What each class token looks at, averaged over heads: (N, C, h, w).

    Args:
        attention: float (L, N, heads, T, T), see the top of this module.
        grid: (h, w) of the patches; C is what is left of the tokens.
        layers: how many of the last layers count.
        reduction: over layers: "sum" (MCTformer V2) or "mean" (MCTformer+).
    Raises:
        SegmendError: shapes or options are not as above.
    """
    classes = _num_classes(attention, grid)
    kept = _layers(attention, layers)[..., :classes, classes:]
    return _reduce(kept, reduction).reshape(attention.shape[1], classes, *grid)


def patch_attention(
    attention: Tensor,
    grid: tuple[int, int],
    *,
    layers: int | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    """What each patch looks at, averaged over heads: (N, h * w, h * w), not symmetric.

    Arguments and errors: `class_attention`; `layers` None (published): all.
    """
    classes = _num_classes(attention, grid)
    kept = _layers(attention, attention.shape[0] if layers is None else layers)
    return _reduce(kept[..., classes:, classes:], reduction)


def fuse_cams(
    attention_maps: Tensor, patch_logits: Tensor, *, fusion: Fusion = "product"
) -> Tensor:
    """Class attention times the rectified maps of the patch head: (N, C, h, w).

    Args:
        attention_maps: float >= 0, (N, C, h, w), of `class_attention`.
        patch_logits: maps of the patch head before any activation, same shape.
        fusion: "product" (MCTformer V2), or "root" (MCTformer+), the root of the product.
    Raises:
        SegmendError: shapes or options are not as above.
    """
    if attention_maps.shape != patch_logits.shape or attention_maps.ndim != 4:
        raise SegmendError(
            "fuse_cams: want attention maps and patch logits (N, C, h, w) of one shape, got "
            f"{tuple(attention_maps.shape)} and {tuple(patch_logits.shape)}"
        )
    if fusion not in get_args(Fusion):
        raise SegmendError(f"fusion: want one of {get_args(Fusion)}, got {fusion!r}")
    fused = at_least_float32(attention_maps) * torch.relu(at_least_float32(patch_logits))
    return fused.sqrt() if fusion == "root" else fused


def spread_cams(cams: Tensor, patches: Tensor) -> Tensor:
    """Each patch takes the scores of the patches that it looks at: A times cams.

    Args:
        cams: float (N, C, h, w).
        patches: A, float (N, h * w, h * w), of `patch_attention`. Its rows are not normalised, as
            published; a normalisation per class follows anyway.
    Returns:
        (N, C, h, w), at least float32.
    Raises:
        SegmendError: shapes are not as above.
    """
    cells = cams.shape[-2] * cams.shape[-1]
    if cams.ndim != 4 or patches.shape != (len(cams), cells, cells):
        raise SegmendError(
            "spread_cams: want cams (N, C, h, w) and patches (N, h * w, h * w), "
            f"got {tuple(cams.shape)} and {tuple(patches.shape)}"
        )
    flat = at_least_float32(cams).flatten(2)
    return (flat @ at_least_float32(patches).transpose(1, 2)).reshape(cams.shape)


def mctformer_cams(
    attention: Tensor,
    patch_logits: Tensor,
    *,
    layers: int = CLASS_LAYERS,
    reduction: Reduction = "sum",
    fusion: Fusion = "product",
) -> Tensor:
    """The maps of one view: class attention, fused with the patch head, spread by the patches.

    Args:
        attention: float (L, N, heads, C + h * w, C + h * w).
        patch_logits: float (N, C, h, w).
        layers, reduction, fusion: `class_attention`, `fuse_cams`. MCTformer V2 is the default;
            MCTformer+ has reduction "mean" and fusion "root".
    Returns:
        (N, C, h, w) >= 0, at least float32. Published next: sum over flip (and scales in
        MCTformer+), tags, and `normalise_cams(method="range")`.
    Raises:
        SegmendError: shapes or options are not as above.
    Reference:
        Xu et al., CVPR 2022; MCTformer+: arXiv 2308.03005.
    """
    grid = (patch_logits.shape[-2], patch_logits.shape[-1])
    looks = class_attention(attention, grid, layers=layers, reduction=reduction)
    patches = patch_attention(attention, grid, reduction=reduction)
    return spread_cams(fuse_cams(looks, patch_logits, fusion=fusion), patches)


def ranking_pool(
    logits: Tensor, *, decay: float = RANK_DECAY, valid: Tensor | None = None
) -> Tensor:
    """Score of a class (N, C): mean over pixels weighted by decay^rank, the largest first.

    Args:
        logits: float (N, C, h, w).
        decay: in (0, 1]; 1 is average pooling, towards 0 it is maximum pooling. Published for
            MCTformer+: 0.996.
        valid: bool (N, h, w), the pixels that count; an image without any gives 0. None
            (default): all.
    Raises:
        SegmendError: an argument is not as above.
    """
    if logits.ndim != 4 or not 0 < decay <= 1:
        raise SegmendError(
            f"ranking_pool: want logits (N, C, h, w) and decay in (0, 1], "
            f"got {tuple(logits.shape)} and {decay}"
        )
    values = at_least_float32(logits)
    if valid is not None:
        check_valid(valid, logits)
        values = values.masked_fill(~valid.unsqueeze(1), -torch.inf)  # ranked last
    ranked = values.flatten(2).sort(dim=2, descending=True).values
    weights = decay ** torch.arange(ranked.shape[2], device=ranked.device, dtype=ranked.dtype)
    if valid is None:
        return (ranked * (weights / weights.sum())).sum(2)
    kept = torch.arange(ranked.shape[2], device=ranked.device) < valid.flatten(1).sum(1)[:, None]
    weights = (weights * kept).unsqueeze(1)
    total = (ranked.masked_fill(~kept.unsqueeze(1), 0) * weights).sum(2)
    return total / weights.sum(2).clamp_min(torch.finfo(total.dtype).tiny)


def distinct_tokens_loss(tokens: Tensor) -> Tensor:
    """Contrastive loss of class tokens: each is to be most alike to itself, in every layer.

    Args:
        tokens: outputs of the class tokens, float (L, N, C, D).
    Returns:
        Scalar: mean over layers, images and classes of -log softmax over c' of
        cos(token c, token c') at c' = c. With one class it is 0.
    Raises:
        SegmendError: the shape is not as above.
    Reference:
        MCTformer+ (arXiv 2308.03005), class-contrastive term, weight 1; temperature 1.
    """
    if tokens.ndim != 4:
        raise SegmendError(f"tokens: want (L, N, C, D), got {tuple(tokens.shape)}")
    with torch.autocast(tokens.device.type, enabled=False):
        unit = torch.nn.functional.normalize(at_least_float32(tokens), dim=-1)
        return -torch.log_softmax(unit @ unit.mT, -1).diagonal(dim1=-2, dim2=-1).mean()


def _num_classes(attention: Tensor, grid: tuple[int, int]) -> int:
    """Tokens that are no patches."""
    classes = attention.shape[-1] - grid[0] * grid[1]
    if attention.ndim != 5 or attention.shape[-1] != attention.shape[-2] or classes < 1:
        raise SegmendError(
            f"attention: want (L, N, heads, T, T) with at least one class token beside "
            f"{grid[0]} x {grid[1]} patches, got {tuple(attention.shape)}"
        )
    return classes


def _layers(attention: Tensor, layers: int) -> Tensor:
    if not 1 <= layers <= attention.shape[0]:
        raise SegmendError(f"layers: want 1 to {attention.shape[0]}, got {layers}")
    return attention[-layers:]


def _reduce(attention: Tensor, reduction: str) -> Tensor:
    """Mean over heads, then `reduction` over layers."""
    if reduction not in get_args(Reduction):
        raise SegmendError(f"reduction: want one of {get_args(Reduction)}, got {reduction!r}")
    each = at_least_float32(attention).mean(2)
    return each.sum(0) if reduction == "sum" else each.mean(0)
