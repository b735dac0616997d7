"""Settings of training from tags, and of the maps that are drawn afterwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segmend.engine.options import TrainOptions
from segmend.tags.activation import Normalisation, SimilarityForm
from segmend.tags.dense_crf import CrfName
from segmend.tags.gradient_maps import MapKind
from segmend.tags.network import Method, Pooling


class PlainTagOptions(TrainOptions):
    """Settings of a plain tag classifier."""

    epochs: int = Field(10, ge=1, description="Passes over the training set.")
    crop: int | None = Field(256, ge=32, description="Side of the square crops in pixels.")
    batch_size: int = Field(16, ge=1)
    lr: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    encoder_lr_factor: float = Field(1.0, ge=0, le=10)
    long_side: tuple[int, int] | None = Field(
        None, description="Longest side after random rescaling; none: as it is."
    )
    backbone: str = Field("squeezenet1_0", description="Or the name of a timm model.")
    output_stride: Literal[8, 16] = 8
    weights: str = Field("bundled", description="Or none, hub (timm downloads), or a file.")
    pooling: Pooling = Field("mean", description="From a map to a class's score.")

    @model_validator(mode="after")
    def _ordered(self) -> PlainTagOptions:
        if self.long_side is not None and not 32 <= self.long_side[0] <= self.long_side[1]:
            raise ValueError(f"long_side: want 32 <= low <= high, got {self.long_side}")
        return self


class TagOptions(PlainTagOptions):
    """Settings of a tag classifier, of the method that trains it, and of two add-on losses.

    The classifier's own loss is (1 - `isl_weight`) * GAP + `isl_weight` * ISL, to which
    `fsl_weight` * FSL is added. Defaults are a plain class activation map; where an add-on is
    switched on, its constants are HFPL's (published code: samples 10, mu 2.5, sigma 5 cells at
    stride 8, that is 40 pixels).
    """

    method: Method = Field("cam", description="How it is trained; see docs/methods/tags.md.")
    method_weight: float | None = Field(
        None, ge=0, description="Of the method's own loss, where it has one; none: as published."
    )
    small_view: float = Field(0.3, gt=0, lt=1, description="SEAM: scale of its second view.")
    isl_weight: float = Field(0.0, ge=0, le=1, description="Importance-sampling loss; HFPL: 0.2.")
    isl_start: float = Field(0.0, ge=0, lt=1, description="Share of the training before ISL.")
    num_samples: int = Field(10, ge=1, description="Pixels drawn for each class and image.")
    sampling: Literal["published", "stratified", "exact"] = "published"
    fsl_weight: float = Field(0.0, ge=0, description="Feature-similarity loss; HFPL on SEAM: 1.")
    fsl_form: SimilarityForm = Field(
        "binomial", description="HFPL's; competitive: a class counts by its share; multinomial."
    )
    fsl_start: float = Field(0.0, ge=0, lt=1, description="Share of the training before FSL.")
    fsl_trust: bool = Field(
        False, description="An image of several tags counts in FSL by their probability by now."
    )
    mu: float = Field(2.5, description="Where a colour difference turns from like to unlike.")
    sigma: float = Field(40.0, gt=0, description="Reach of the similarity in input pixels.")
    tagger: bool = Field(
        False, description="First train a plain network, which tells tags; the other draws maps."
    )
    start_from_tagger: bool | Literal["auto"] = Field(
        False,
        description="The network of maps starts from the plain one, not from its weights; auto: in "
        "data without a background class, where there is a plain one.",
    )

    @model_validator(mode="after")
    def _has_its_start(self) -> TagOptions:
        if self.start_from_tagger is True and not self.tagger:
            raise ValueError("start_from_tagger: wants tagger")
        return self


class CamOptions(BaseModel):
    """Settings of `segmend tags cams`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[float, ...] = Field((0.75, 1.0, 1.25), description="Of the image's sides.")
    flip: bool = Field(True, description="Also the mirrored image.")
    maps: MapKind = Field("cam", description="cam: the method's own; others: from gradients.")
    plain_share: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        0.0,
        description="Say of the plain network beside the one that draws in which of its tags an "
        "image shows where; auto: 0.5 in data without a background class, else 0.",
    )
    tags_from: str = Field(
        "data", description="Or network: the run's own that tells tags; or another run's folder."
    )
    tag_threshold: float = Field(0.5, gt=0, lt=1, description="Probability of a predicted tag.")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> CamOptions:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales: want one or more above 0, got {self.scales}")
        return self


class MaskOptions(BaseModel):
    """Settings of `segmend tags masks`.

    The best background score depends on data and network. Left open, `constant` (after
    AffinityNet's walk `walk_power`) is the one whose masks tell the most about colours, see
    `settle_background`; where some true masks are at hand, `segmend tags evaluate --cams` finds it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalisation: Normalisation = "min-max"
    constant: float | None = Field(
        None, ge=0, le=1, description="Background score; null: chosen by colours."
    )
    power: float | None = Field(None, gt=0, description="Or (1 - max)^power; wins over constant.")
    walk_power: float | None = Field(
        None, gt=0, description="AffinityNet: (1 - max)^walk_power walks along; null: chosen."
    )
    walk_beta: float = Field(8.0, gt=0, description="Exponent of affinities; IRN: 10.")
    walk_steps: int = Field(256, ge=0, description="2**8 in AffinityNet and IRN, 2**6 in SEAM.")
    refine: Literal["crf", "pamr", "none"] = "crf"
    crf: CrfName = Field("affinity-labels", description="Settings of the dense CRF.")
    confidence: float = Field(0.0, ge=0, lt=1, description="Below it a pixel is ignored.")
    need_agreement: bool = Field(False, description="Ignore pixels that the refinement changed.")
    min_share: float = Field(
        0.0, ge=0, lt=1, description="A label needs more than it of the unrefined scores; 0: any."
    )
    write_confidence: bool = Field(False, description="Also 16-bit maps of the posterior.")
