"""Settings of training a segmenter with tags beside (pseudo-)masks, and of its predictions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segmend.engine.options import TrainOptions
from segmend.rectify.groups import BackgroundJoins, Dropped
from segmend.rectify.loss import Average
from segmend.rectify.masking import Masking
from segmend.rectify.network import Head, RectifiedSpec
from segmend.rectify.ranking import Form


class RectifyOptions(TrainOptions):
    """Settings of `train_rectified`.

    The loss is cross-entropy + `tag_weight` * BCE of the gate's tags + `rectify_weight` *
    rectification. Each part has its switch. Defaults are the combination that did best in our
    trials; the paper's own is `head=plain gate=false form=all adaptive=true average=oc
    rectify_weight=0.1 rectify_stride=1`.
    """

    epochs: int = Field(20, ge=1, description="Passes over the training set.")
    crop: int | None = Field(256, ge=32, description="Side of the square crops; none: whole.")
    rescale: tuple[float, float] | None = Field(
        None, description="Random scale before cropping, low and high; HFPL .5 to 1.5."
    )
    lr: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    encoder_lr_factor: float = Field(0.3, ge=0, le=10)
    schedule: Literal["onecycle", "poly"] = "poly"
    architecture: str = Field(
        "deeplabv1", description="deeplabv1, deeplabv2, or one of smp, such as deeplabv3plus."
    )
    encoder: str = Field(
        "squeezenet1_0", description="Or tu-NAME of timm, resnet38 (DeepLab), or a name of smp."
    )
    weights: str = Field("bundled", description="Or none, hub (timm downloads), or a file.")
    head: Head | Literal["auto"] = Field(
        "auto", description="auto: hierarchical where there is a background class."
    )
    gate: bool = Field(True, description="Tag evidence inside the network.")
    gate_strength: float = Field(1.0, ge=0, description="0: the tag loss alone.")
    tag_weight: float = Field(0.3, ge=0, description="Of the gate's BCE.")
    rectify_weight: float = Field(1.0, ge=0, description="0: no rectification.")
    form: Form = Field("foreground", description="Ranking; the paper's is nearest to all.")
    average: Average = Field(
        "every", description="Over every pixel, or out-of-candidate ones alone: oc; all: their sum."
    )
    rectify_stride: int = Field(4, ge=1, description="One pixel in so many an axis is ranked.")
    margin: float = 0.0
    start: float = Field(0.2, ge=0, lt=1, description="Share of the training before it begins.")
    warm_up: float = Field(0.0, ge=0, le=1, description="Share over which its weight rises.")
    adaptive: bool = Field(False, description="Split classes by prior and posterior correlation.")
    gamma: float = Field(0.5, ge=0, le=1, description="Share of the prior.")
    rho: float = Field(0.3, ge=0, le=1, description="Candidates this far below the best leave.")
    dropped: Dropped = "out"
    background_joins: BackgroundJoins = "always"
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of averaged weights a step; 0: none.")

    @model_validator(mode="after")
    def _consistent(self) -> RectifyOptions:
        if self.loss not in ("auto", "ce"):
            raise ValueError(f"loss: want ce, got {self.loss}")
        if self.rescale is not None and not 0 < self.rescale[0] <= self.rescale[1]:
            raise ValueError(f"rescale: want 0 < low <= high, got {self.rescale}")
        return self

    def spec(self, num_classes: int, background: int | None) -> RectifiedSpec:
        """What to build for data with these classes."""
        head = self.head
        if head == "auto":
            head = "plain" if background is None else "hierarchical"
        return RectifiedSpec(
            self.architecture, self.encoder, num_classes, background, head, self.gate
        )


class RectifyPredictOptions(BaseModel):
    """Settings of a rectified segmenter's predictions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[float, ...] = Field(
        (1.0,), description="Of the image's sides; DeepLab: .5 - 1.75."
    )
    flip: bool = Field(True, description="Also the mirrored image.")
    masking: Masking | Literal["auto", "none"] = Field(
        "auto",
        description="By given tags, or the gate's own: all, or keep the foreground; auto: keep, "
        "where there are tags.",
    )
    tag_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A tag from this probability on; null: 0.01 of the gate's, 0.1 of given ones.",
    )
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> RectifyPredictOptions:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales: want one or more above 0, got {self.scales}")
        return self
