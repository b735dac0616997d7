"""Logits and label volumes of whole images: at once where they fit, else window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmend.data.nifti import VOLUME_SUFFIXES, write_volume
from segmend.data.volumes import VolumeSet, resampled
from segmend.engine.progress import progress_bar
from segmend.errors import SegmendError
from segmend.models.single_volume import quick_single_volumes

OVERLAP = 0.5
"""Of neighbouring windows, per axis (published code and nnU-Net)."""
SIGMA = 0.125
"""Of the Gaussian that weights a window, as a share of its side (published code and nnU-Net)."""


@torch.inference_mode()
def image_logits(
    model: nn.Module, image: Tensor, *, window: Sequence[int] | None = None, batch_size: int = 4
) -> Tensor:
    """Logits (M, *size) of one image (C, *size), on the model's device.

    Images with two axes, and volumes no larger than the window along every axis, go through the
    network whole; larger volumes window by window, whose logits are averaged with Gaussian weights
    as in the published code (MONAI's sliding-window inference).

    Args:
        model: (N, C, *size) to logits of that size; used as it is: call `eval()` before.
        window: sides; None: always whole.
        batch_size: windows that go through the network together.
    Raises:
        SegmendError: a volume larger than the window, and MONAI is missing.
    """
    parameter = next(model.parameters(), None)
    batch = image[None] if parameter is None else image[None].to(parameter.device)
    if window is None or image.ndim == 3 or not exceeds(image, window):
        with quick_single_volumes(batch):
            return _finest(model(batch))[0]
    sliding: Tensor = _monai().sliding_window_inference(
        batch,
        roi_size=tuple(window),
        sw_batch_size=batch_size,
        predictor=lambda x: _finest(model(x)),
        overlap=OVERLAP,
        mode="gaussian",
        sigma_scale=SIGMA,
        padding_mode="replicate",
    )
    return sliding[0]


def exceeds(image: Tensor, window: Sequence[int]) -> bool:
    """Whether a side of the image (C, *size) is longer than the window's."""
    return any(n > w for n, w in zip(image.shape[1:], window, strict=True))


def predict_volumes(
    model: nn.Module,
    items: VolumeSet,
    out: str | Path,
    *,
    window: Sequence[int],
    threshold: float | None = None,
    probabilities: bool = False,
    suffix: str = ".nii.gz",
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write a label volume for each case, on the grid and with the affine of its image.

    Args:
        model: (N, C, H, W, D) to logits (N, num_classes, H, W, D), background first.
        out: folder; files are called as the cases are.
        window: as in `image_logits`.
        threshold: for two classes: foreground where its softmax is above; None: the argmax.
        probabilities: also write the foreground's softmax, one volume a class, as
            CASE_prob1.nii.gz (float32).
        resume: leave cases alone whose label volume is there.
    Returns:
        The paths of the label volumes, in order.
    Raises:
        SegmendError: an option out of range, and as in `VolumeSet` and `write_volume`.
    """
    if suffix not in VOLUME_SUFFIXES:
        raise SegmendError(f"suffix: want one of {', '.join(VOLUME_SUFFIXES)}, got {suffix!r}")
    if threshold is not None and not 0 < threshold < 1:
        raise SegmendError(f"threshold: want a probability between 0 and 1, got {threshold}")
    out, was_training = Path(out), model.training
    paths = [out / f"{name}{suffix}" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.is_file())]
    model.eval()
    try:
        with progress_bar("predicting", total=len(todo), enabled=progress) as bar:
            for index in todo:
                item = items[index]
                probs = case_probabilities(model, item, window=window)
                if probabilities:
                    for c in range(1, len(probs)):
                        beside = out / f"{items.names[index]}_prob{c}{suffix}"
                        write_volume(beside, probs[c], item["affine"])
                # Last, so that a case with labels is a case that is done.
                write_volume(paths[index], labels_of(probs, threshold), item["affine"])
                bar.advance()
    finally:
        model.train(was_training)
    return paths


def case_probabilities(model: nn.Module, item: dict[str, Any], *, window: Sequence[int]) -> Tensor:
    """Softmax (num_classes, H, W, D) of a case on the grid of its file, on the CPU."""
    probs = image_logits(model, item["image"], window=window).float().softmax(0).cpu()
    if "original" not in item:
        return probs
    return resampled(probs, tuple(item["original"].tolist()))


def labels_of(probs: Tensor, threshold: float | None = None) -> Tensor:
    """Labels (*size) of probabilities (num_classes, *size): argmax, or above a threshold."""
    if threshold is None:
        return probs.argmax(0)
    if len(probs) != 2:
        raise SegmendError(f"threshold: only for two classes, got {len(probs)}")
    return (probs[1] > threshold).long()


def _finest(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, (list, tuple)) else output
    return found


def _monai() -> Any:
    try:
        import monai.inferers
    except ImportError as error:
        raise SegmendError(
            "volumes larger than the patch want MONAI's sliding window, which is not installed: "
            "pip install 'segmend[medical]'"
        ) from error
    return monai.inferers
