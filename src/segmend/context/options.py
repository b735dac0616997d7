"""Settings of training with context labels, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field, model_validator

from segmend.context.distance import SIGMA, TAU
from segmend.data.volumes import Intensities
from segmend.engine.options import TrainOptions
from segmend.errors import SegmendError
from segmend.models.segmenters import Weights

ContextMethod = Literal["learned", "plain", "kmeans", "dilate", "bands", "maps", "random"]


class ContextOptions(TrainOptions):
    """Settings of `train_context`; defaults are the published ones but for two.

    Published, for liver tumours: SGD at 1e-2 with momentum 0.99 and Nesterov, decay 3e-5, poly
    schedule, clipping at 12, generator by Adam at 3e-4, an update every 5 steps. Ours: a generator
    that learns ten times as fast, and the Dice of the foreground alone; see
    benchmarks/context_gain.py for what they do on short schedules.
    """

    epochs: int = Field(40, ge=1, description="Passes, each of crops_per_epoch crops.")
    crops_per_epoch: int | None = Field(None, ge=1, description="None: one a case.")
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-2, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(3e-5, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.99, ge=0, lt=1, description="Of sgd, Nesterov's.")
    clip: float | None = Field(12.0, gt=0, description="Norm of the gradient; none: as it is.")
    schedule: Literal["onecycle", "poly"] = "poly"
    precision: Literal["auto", "bf16-mixed", "32-true"] = "32-true"
    channels_last: bool = False

    method: ContextMethod = Field("learned", description="Where context labels come from.")
    num_context: int = Field(2, ge=1, le=64, description="K; 1 is plain training.")
    num_classes: int = Field(2, ge=2, le=255, description="Background included.")
    network: str = Field("plain_unet", description="Or of MONAI; in 2D also an architecture.")
    widths: tuple[int, ...] = Field((16, 32, 64, 96), min_length=2)
    encoder: str = Field("squeezenet1_0", description="Of a 2D architecture.")
    weights: Weights = "bundled"
    deep_supervision: bool = False
    dice: Literal["published", "foreground", "none"] = Field(
        "foreground", description="Over which channels; published: extra contexts, too, slower."
    )
    merge: Literal["argmax", "sum"] = Field("argmax", description="Contexts into background.")

    ring: float = Field(10.0, gt=0, description="dilate, bands: width of a ring.")
    generator_width: float = Field(0.5, gt=0, le=2, description="Of the segmenter's widths.")
    generator_stride: int = Field(2, ge=1, description="Its images are smaller by this.")
    generator_lr: float = Field(
        3e-3, gt=0, description="Of Adam; published 3e-4, for schedules a hundred times longer."
    )
    update_every: int = Field(5, ge=1, description="Segmenter steps to one of the generator.")
    meta_batch: Literal["same", "next"] = "same"
    meta_samples: int | None = Field(None, ge=1, description="None: half a batch.")
    warm_up: int = Field(0, ge=0, description="Steps over which contexts are faded in.")
    averaging: float = Field(0.0, ge=0, lt=1, description="Of the generator; 0: none.")
    tau: float | None = Field(
        None, ge=0, description=f"Reach of contexts in mm (2D: pixels); published {TAU:g}."
    )
    sigma: float = Field(SIGMA, gt=0, description="How they fade beyond it.")

    patch: tuple[int, int, int] = Field((64, 64, 64), description="Crops of volumes; in 2D: crop.")
    intensities: Intensities = Intensities()
    spacing: tuple[float, float, float] | None = Field(None, description="Resample to, in mm.")
    target: tuple[int, ...] | None = Field(None, description="Labels that are the foreground.")
    splits: tuple[int, int, int] | None = Field(
        None, description="Cases to train, validate and test on, by name; none: val_fraction."
    )
    val_fraction: float = Field(0.2, ge=0, lt=1)
    fold: int = Field(0, ge=0, description="Of nnU-Net's splits_final.json, where there is one.")

    @model_validator(mode="after")
    def _consistent(self) -> ContextOptions:
        if self.method in ("kmeans", "dilate", "bands", "maps", "random") and self.num_context < 2:
            raise ValueError(f"num_context: method {self.method} wants 2 or more")
        if self.method == "plain" and self.num_context != 1:
            raise ValueError("num_context: method plain has 1")
        if min(self.patch) < 8:
            raise ValueError(f"patch: want sides of 8 or more, got {self.patch}")
        if self.target is not None and self.num_classes != 2:
            raise ValueError("target: makes a problem of 2 classes; leave num_classes alone")
        return self

    @property
    def channels(self) -> int:
        """Logit channels while training: classes, and the contexts beyond the first."""
        return self.num_classes + self.num_context - 1


def context_methods(names: Sequence[str]) -> list[ContextMethod]:
    """Names of methods, checked; SegmendError for an unknown one."""
    known: tuple[ContextMethod, ...] = get_args(ContextMethod)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SegmendError(f"method: unknown {unknown[0]!r}; known: {', '.join(known)}")
    return [method for name in names for method in known if method == name]
