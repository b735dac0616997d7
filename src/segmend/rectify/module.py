"""The rectification loss as a module for any training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmend.errors import SegmendError
from segmend.rectify.candidates import candidates_of
from segmend.rectify.correlation import LabelCorrelation
from segmend.rectify.groups import AdaptiveSplit, BackgroundJoins, Dropped
from segmend.rectify.loss import Average, rectification_loss
from segmend.rectify.ranking import Form


class OutOfCandidateRectification(nn.Module):
    """`weight` times `rectification_loss`: add it to the segmentation loss.

    `loss(logits, tags, ignore=None)`: logits (N, K, H, W), tags {0, 1} (N, C) over the classes
    without the background, ignore bool (N, H, W), True where there is no image (padding); a
    scalar. It is 0 for the first `start` calls in training mode and rises linearly over the next
    `warm_up`; calls are counted in the state. It has no parameters.

    Args:
        num_classes: K, background included if there is one.
        background: its label; None where every pixel belongs to a class that can be a tag.
        form, margin, average, stride: as in `rectification_loss`. The default form, "foreground",
            cannot push mass into the background's logit; "all" is the published idea as far as it
            is known, which does (see the documentation).
        weight: of the loss; in our trials 0.1, and 1 for the average "every" on a hierarchical
            head with a tag gate, which did best.
        start, warm_up: in calls, that is in training steps.
        adaptive: split the classes at each pixel by prior and posterior correlation, the paper's
            split, with `gamma`, `rho`, `dropped`, `background_joins` as in `split_groups`;
            otherwise all candidates stand against all others. The prior counts the tags that pass
            by in training; `count(tags)` counts a whole table first and ends that.
    Raises:
        SegmendError: an option out of range; tags of another width, or neither 0 nor 1.
    Reference:
        Cheng et al., Out-of-Candidate Rectification for Weakly Supervised Semantic Segmentation,
        CVPR 2023. No code or formula was available; inferred parts are listed in the
        documentation.
    """

    calls: Tensor
    counted: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        background: int | None = 0,
        form: Form = "foreground",
        weight: float = 0.1,
        margin: float = 0.0,
        average: Average = "oc",
        stride: int = 1,
        start: int = 0,
        warm_up: int = 0,
        adaptive: bool = False,
        gamma: float = 0.5,
        rho: float = 0.3,
        dropped: Dropped = "out",
        background_joins: BackgroundJoins = "always",
    ) -> None:
        super().__init__()
        if not weight >= 0 or start < 0 or warm_up < 0:
            raise SegmendError(
                f"weight, start, warm_up: want numbers from 0 up, got {weight}, {start}, {warm_up}"
            )
        if background is not None and not 0 <= background < num_classes:
            raise SegmendError(f"background: want a label 0..{num_classes - 1}, got {background}")
        self.num_classes, self.background = num_classes, background
        self.form: Form = form
        self.average: Average = average
        self.weight, self.margin, self.stride = weight, margin, stride
        self.start, self.warm_up, self.adaptive = start, warm_up, adaptive
        self.split = AdaptiveSplit(None, gamma, rho, dropped, background, background_joins)
        self.correlation = LabelCorrelation(num_classes - (background is not None))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("counted", torch.zeros((), dtype=torch.bool))
        # Options are checked now, not at step 10 000.
        rectification_loss(
            torch.zeros(1, num_classes, 1, 1), torch.zeros(1, num_classes, dtype=torch.bool),
            form=form, margin=margin, average=average, stride=stride, background=background,
        )  # fmt: skip

    def count(self, tags: Tensor) -> None:
        """Take the prior from a whole training set's tags (N, C); later batches do not add."""
        self.correlation.together.zero_()
        self.correlation.images.zero_()
        self.correlation.update(tags)
        self.counted.fill_(True)

    def ramp(self) -> float:
        """Share of the weight at the present call: 0 before `start`, then rising to 1."""
        if not self.start and not self.warm_up:
            return 1.0
        past = int(self.calls) - self.start
        return 0.0 if past < 0 else min(1.0, (past + 1) / (self.warm_up + 1))

    def forward(
        self,
        logits: Tensor,
        tags: Tensor,
        ignore: Tensor | None = None,
        *,
        class_logits: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss; `class_logits` of a hierarchical head as in `rectification_loss`."""
        if logits.ndim > 1 and logits.shape[1] != self.num_classes:
            raise SegmendError(
                f"logits: want {self.num_classes} channels, got {tuple(logits.shape)}"
            )
        if ignore is not None and ignore.dtype != torch.bool:
            raise SegmendError(f"ignore: want bool, got {ignore.dtype}; say target == 255")
        candidates = candidates_of(tags, num_classes=self.num_classes, background=self.background)
        candidates = candidates.to(logits.device)
        share = self._count_call(tags)
        return (
            self.weight
            * share
            * rectification_loss(
                logits,
                candidates,
                form=self.form,
                groups=self._splitter() if self.adaptive else None,
                margin=self.margin,
                average=self.average,
                stride=self.stride,
                valid=None if ignore is None else ~ignore,
                background=self.background,
                class_logits=class_logits,
            )
        )

    def _count_call(self, tags: Tensor) -> float:
        if not self.training:
            return 1.0
        share = self.ramp()
        self.calls += 1
        if self.adaptive and not bool(self.counted):
            self.correlation.update(tags)
        return share

    def _splitter(self) -> AdaptiveSplit:
        s = self.split
        prior = self.correlation.matrix
        return AdaptiveSplit(prior, s.gamma, s.rho, s.dropped, s.background, s.background_joins)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, form={self.form!r}, weight={self.weight}, "
            f"adaptive={self.adaptive}"
        )
