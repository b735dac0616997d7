"""MCTformer: a vision transformer with one token a class, whose attention localises the classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.backbones import Transformer
from segmend.tags.classifier import ClassifierSpec, Reading, TagClassifier
from segmend.tags.mctformer import mctformer_cams

TOKEN_NOISE = 0.02
"""Class tokens start as copies of the pretrained one; copies alone would start out equal."""


class Tokens(NamedTuple):
    """What one pass gives: `scores` (N, C) of the class tokens, `logits` (N, C, h, w) of the
    patches, `class_tokens` (L, N, C, D) after each block, and `attention` (L, N, 1, T, T),
    averaged over heads, or None where it was not asked for."""

    scores: Tensor
    logits: Tensor
    class_tokens: Tensor
    attention: Tensor | None


class MctformerClassifier(TagClassifier):
    """A timm vision transformer with C class tokens, and a 3x3 convolution on its patch tokens.

    A class's score is the mean over its token's channels; its patch map has a score of its own.
    The transformer's own prefix tokens (class, distillation, registers) give way to the class
    tokens, which start from its class token where it has one. Position embeddings of the patches
    are resampled (bicubic) to each image's grid, rows and columns apart.

    Args:
        backbone: of `build_backbone`, a transformer.
        spec: its method is "mctformer" (V2), or "mctformer+": maps are the root of the product of
            attention and patches, attention is averaged over layers.
    Raises:
        SegmendError: not a transformer with learned positions and plain attention.
    Reference:
        Xu et al., CVPR 2022; MCTformer+: arXiv 2308.03005.
    """

    def __init__(self, backbone: Any, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        vit = _plain_transformer(backbone, spec.backbone)
        width = int(vit.num_features)
        self.class_tokens = nn.Parameter(torch.zeros(1, spec.num_classes, width))
        nn.init.trunc_normal_(self.class_tokens, std=TOKEN_NOISE)
        self.class_positions = nn.Parameter(torch.zeros(1, spec.num_classes, width))
        with torch.no_grad():
            if vit.cls_token is not None:
                self.class_tokens.add_(vit.cls_token)
                if not vit.no_embed_class:
                    self.class_positions.add_(vit.pos_embed[:, :1])
        self.patch_head = nn.Conv2d(width, spec.num_classes, 3, padding=1)

    @property
    def plus(self) -> bool:
        """Whether this is MCTformer+."""
        return self.classifier_spec.method == "mctformer+"

    def forward(self, images: Tensor) -> Tensor:
        """Maps of the patch tokens (N, C, h, w), before any activation."""
        return self.tokens(images).logits

    def tokens(self, images: Tensor, *, attention: bool = False) -> Tokens:
        """One pass; see `Tokens`."""
        vit: Any = self.backbone.model
        x, grid = self._embedded(self.prepared(images))
        classes = self.class_tokens.shape[1]
        looks, outputs = [], []
        for block in vit.blocks:
            if attention:
                looks.append(attention_weights(block.attn, block.norm1(x)))
            x = block(x)
            outputs.append(x[:, :classes])
        x = vit.norm(x)
        patches = x[:, classes:].mT.reshape(len(x), -1, *grid)
        return Tokens(
            x[:, :classes].mean(2),
            self.patch_head(patches),
            torch.stack(outputs),
            torch.stack(looks) if attention else None,
        )

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        """Maps of class attention and patches together, and the class tokens' scores."""
        found = self.tokens(images, attention=True)
        assert found.attention is not None
        maps = mctformer_cams(
            found.attention,
            found.logits.float(),
            layers=min(3, len(found.attention)),
            reduction="mean" if self.plus else "sum",
            fusion="root" if self.plus else "product",
        )
        return Reading(maps, found.scores.float())

    def _embedded(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Class tokens and patches with their positions (N, C + h * w, D), and (h, w)."""
        vit: Any = self.backbone.model
        x = vit.patch_embed.proj(images)
        grid = (x.shape[2], x.shape[3])
        x = vit.patch_embed.norm(x.flatten(2).mT)
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        positions = resampled_positions(vit.pos_embed[:, prefix:], vit.patch_embed.grid_size, grid)
        tokens = (self.class_tokens + self.class_positions).expand(len(x), -1, -1)
        x = torch.cat([tokens.to(x.dtype), x + positions], 1)
        return vit.norm_pre(vit.pos_drop(x)), grid


def resampled_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, rows * columns, D) of one grid at another one, bicubic."""
    if tuple(old) == tuple(new):
        return positions
    maps = positions.float().mT.reshape(1, -1, *old)
    maps = F.interpolate(maps, new, mode="bicubic", antialias=True, align_corners=False)
    return maps.flatten(2).mT.to(positions.dtype)


def attention_weights(attention: Any, x: Tensor) -> Tensor:
    """Weights after softmax, averaged over heads, of timm's attention: (N, 1, T, T) of (N, T, D).

    The layer itself does not give them where its product is fused.
    """
    count, tokens, _ = x.shape
    qkv = attention.qkv(x).reshape(count, tokens, 3, attention.num_heads, -1)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query) * attention.scale, attention.k_norm(key)
    weights: Tensor = (query.float() @ key.float().mT).softmax(-1)
    return weights.mean(1, keepdim=True)


def _plain_transformer(backbone: Any, name: str) -> Any:
    """The transformer within a backbone."""
    from timm.layers.attention import Attention

    if not isinstance(backbone, Transformer):
        raise SegmendError(
            f"backbone: mctformer wants a vision transformer of timm, such as "
            f"deit_small_patch16_224, got {name}"
        )
    vit = backbone.model
    plain = all(type(block.attn) is Attention for block in vit.blocks)
    if vit.pos_embed is None or not plain:
        raise SegmendError(
            f"backbone: mctformer wants learned positions and plain attention, {name} has not"
        )
    return vit
