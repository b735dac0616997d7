"""Settings of a refiner: what it is, how it is fitted, and when it is allowed to act."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Method = Literal["bias-field", "patch-refine-p0", "patch-refine-p4", "patch-refine-p64"]


class RefineOptions(BaseModel):
    """Settings of `Refiner.fit`; frozen, and saved with the refiner.

    Defaults of the bias field are ours (docs/benchmarks/refine.md); `published()` gives those of
    PatchRefineNet (Nagendra et al., WACV 2024, and its released code).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "bias-field"
    task: Literal["segmentation", "saliency"] = "segmentation"
    """Saliency keeps grey levels: no threshold is set, and the gate judges by MAE."""
    width: int = Field(16, ge=1)
    """Channels of the first stage (PatchRefineNet as published: 32)."""
    stride: Literal[1, 2, 4, 8] = 2
    """Pixels per value of the bias field along each axis: fewer follow small objects, more hold a
    very small fitting set together."""
    use_images: Literal["guide", "network", "both"] = "guide"
    """What images are for, if they are given: the gate tries guided filters, the network sees them
    (bias field only), or both. A network learns the colours of a small fitting set by heart."""
    shared: bool = False
    """One class-agnostic network for all channels (bias field only)."""
    epochs: int = Field(40, ge=0)
    batch_size: int = Field(4, ge=1)
    crop: int | None = Field(256, ge=16)
    """Side of the training crops in pixels; None trains on whole frames, one at a time."""
    resize: int | None = Field(None, ge=16)
    """Refine maps resized to this side (as published: 512) and bring the result back."""
    colour_jitter: float = Field(0.5, ge=0, le=1)
    """Images only: while fitting, multiplied by up to 1 +- this and shifted by up to half of it, so
    that a small fitting set does not teach its own colours."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["one-cycle", "plateau"] = "one-cycle"
    """`plateau` is the published rule on the training loss: over 4 epochs without gain reload
    the best weights and divide the rate by 1.1, over 8 stop."""
    pseudo_label_weight: float = Field(0.0, ge=0, le=1)
    """Share of the loss that is taught by patch pseudo-labels (as published: 0.7)."""
    patch_size: int | None = Field(None, ge=1)
    """Side of the pseudo-labels' patches in pixels; None: the network's own grid, or 64."""
    folds: int = Field(3, ge=0)
    """Cross-validation folds inside the fitting set. Each fold's network is kept and their
    corrections are averaged. 0 or 1: one network, fitted to everything, without a gate."""
    gate_confidence: float = Field(0.9, ge=0, lt=1)
    """The refiner acts only if its cross-validated gain is above zero with this bootstrap
    confidence; 0 always acts."""
    boundary_slack: float = Field(0.005, ge=0, le=1)
    """How far a guided filter may bring the boundary F of the average image below the base's: one
    that closes the gaps between objects gains area. 1 does not ask."""
    batch_statistics: bool | None = None
    """PatchRefineNet only: normalise each image and patch by its own statistics when refining, as
    the original's prediction script does. None: where it learned from one map at a time, since its
    norms knew no other statistics then (running ones cost 42 points of IoU on nuclei)."""
    merge: Literal["published", "mean", "global", "local"] = "mean"
    """How PatchRefineNet's two outputs become one; the bias field has one output."""
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> RefineOptions:
        if self.method != "bias-field" and self.shared:
            raise ValueError("shared: only the bias field can be shared between channels")
        if self.method != "bias-field" and self.use_images != "guide":
            raise ValueError("use_images: PatchRefineNet sees no images; want 'guide'")
        return self

    @property
    def own_statistics(self) -> bool:
        """`batch_statistics`, decided where it was left open."""
        alone = self.crop is None or self.batch_size == 1
        return alone if self.batch_statistics is None else self.batch_statistics

    @property
    def network_sees_images(self) -> bool:
        """Whether the network takes images, where there are any."""
        return self.use_images != "guide"

    @property
    def guided(self) -> bool:
        """Whether the gate may lay a guided filter over the map, where there are images."""
        return self.use_images != "network"

    @classmethod
    def published(cls, *, variant: Literal["p0", "p4", "p64"] = "p64") -> RefineOptions:
        """PatchRefineNet's own protocol: Adam 8e-4, batch 1, 512-pixel frames, 300 epochs at
        most, pseudo-label weight 0.7, published merge rule, no gate.

        Source: released training code (values), patchrefine method page.
        """
        return cls.model_validate(
            {
                "method": f"patch-refine-{variant}",
                "width": 32,
                "epochs": 300,
                "batch_size": 1,
                "crop": None,
                "resize": 512,
                "learning_rate": 8e-4,
                "weight_decay": 0.0,
                "schedule": "plateau",
                "pseudo_label_weight": 0.7,
                "folds": 0,
                "gate_confidence": 0.0,
                "merge": "published",
            }
        )
