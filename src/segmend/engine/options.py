"""What can be chosen about a training run, and what the machine at hand makes of it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from segmend.errors import SegmendError

Loss = Literal["auto", "bce+dice", "bce", "ce"]
Precision = Literal["auto", "bf16-mixed", "32-true"]


class TrainOptions(BaseModel):
    """Options of `train_segmenter`; the defaults are our own trials' on small sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(40, ge=1, description="Passes over the training set.")
    batch_size: int = Field(8, ge=1)
    crop: int | None = Field(
        256, ge=8, description="Side of the random square crops in pixels; none: whole images."
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-2, ge=0)
    encoder_lr_factor: float = Field(
        0.3, ge=0, le=10, description="The encoder learns with lr times this."
    )
    freeze: tuple[str, ...] = Field(
        (), description="Modules that do not learn, such as backbone.stages.0."
    )
    loss: Loss = Field(
        "auto", description='"auto": BCE + ½ Dice for one logit channel, cross-entropy for more.'
    )
    schedule: Literal["onecycle", "poly"] = "onecycle"
    precision: Precision = Field(
        "auto", description="bfloat16 autocast where the processor has it in hardware."
    )
    channels_last: bool = True
    augment: bool = Field(True, description="Flips, quarter turns, mild colour changes.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after so many epochs without better validation IoU (if equal: loss).",
    )
    cache: bool | Literal["auto"] = Field(
        "auto", description='Decoded images stay in memory (8 bit); "auto": up to 2 GiB.'
    )
    num_workers: int = Field(0, ge=0, description="Processes that read and crop; 0: this one.")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none: its default.")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, that share a batch.")
    ignore_index: int = 255
    seed: int = Field(0, ge=0, le=2**32 - 1)

    @model_validator(mode="after")
    def _devices_have_work(self) -> TrainOptions:
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices: want at most batch_size = {self.batch_size}, got {self.devices}"
            )
        return self

    def loss_for(self, channels: int) -> Literal["bce+dice", "bce", "ce"]:
        """The loss for a model with so many logit channels; SegmendError where they do not fit."""
        if self.loss == "auto":
            return "bce+dice" if channels == 1 else "ce"
        if (self.loss == "ce") == (channels == 1):
            wanted = "2 or more logit channels" if self.loss == "ce" else "1 logit channel"
            raise SegmendError(
                f'loss: {self.loss!r} wants {wanted}, the model has {channels}; say loss="auto"'
            )
        return self.loss


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is in hardware: emulated on a CPU it is ten times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(
    precision: Precision, device: torch.device
) -> Literal["bf16-mixed", "32-true"]:
    """ "auto" made definite for this device."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_fast_bfloat16(device) else "32-true"


def pick_device(accelerator: Literal["auto", "cpu", "gpu"] = "auto") -> torch.device:
    """The device to work on; SegmendError where a GPU is asked for and there is none."""
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator == "gpu":
        raise SegmendError("accelerator: asked for a GPU, torch finds none; say cpu or auto")
    return torch.device("cpu")
