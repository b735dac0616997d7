"""The second stage of AffinityNet and IRN: labels from maps, a network from labels, maps walked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segmend.data.files import write_json
from segmend.data.masks import read_mask, write_mask
from segmend.data.tags import TagFolder
from segmend.engine.checkpoints import load_segmenter
from segmend.engine.crops import Item
from segmend.engine.options import TrainOptions
from segmend.engine.progress import track
from segmend.engine.seeds import seed_everything
from segmend.engine.task import SegmentationTask
from segmend.engine.training import TrainResult, segmentation_crops, train_model
from segmend.errors import SegmendError
from segmend.models.backbones import build_backbone
from segmend.tags.affinity import RADIUS, affinity_labels
from segmend.tags.affinity_network import AffinityMethod, AffinityNet, IRNet
from segmend.tags.background_choice import settle_background
from segmend.tags.cam_files import CamFile, read_cams
from segmend.tags.classifier_files import load_classifier
from segmend.tags.irn import TRAINING_RADIUS, confident_labels
from segmend.tags.options import MaskOptions
from segmend.tags.pseudo_masks import BackgroundPower, pseudo_mask

FILE = "affinity.json"
IGNORED = 255


class AffinityOptions(TrainOptions):
    """Settings of `segmend tags affinity`.

    The backgrounds of the labels are left open by default: they follow from the maps' own best
    background score, as the published ones do from theirs (`label_backgrounds`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AffinityMethod = "affinitynet"
    epochs: int = Field(8, ge=1)
    crop: int | None = Field(256, ge=64)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)
    radius: int | None = Field(None, ge=2, description="Of pairs, in cells; none: 5, IRN 10.")
    low_power: float | None = Field(
        None, gt=0, description="Much background: what is left is foreground. Published: 4."
    )
    high_power: float | None = Field(
        None, gt=0, description="Little background: what is, is safe. Published: 32."
    )
    strict: float | None = Field(
        None, ge=0, le=1, description="IRN: the same by constants. Published: 0.3."
    )
    lenient: float | None = Field(None, ge=0, le=1, description="Published: 0.05.")


@dataclass(frozen=True)
class AffinitySpec:
    """All that is needed to build an affinity network again."""

    method: AffinityMethod
    backbone: str
    output_stride: int
    radius: int


def train_affinity(
    options: AffinityOptions,
    run: Path,
    cams: Path,
    items: TagFolder,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Learn from maps which pixels belong together.

    Args:
        run: what `train_tags` wrote: its backbone is where the network starts.
        cams: what `draw_cams` wrote for `items`.
        out: folder for the network; the labels that it learns from go to `out`/labels.
    Raises:
        SegmendError: as in `train_model`; a file of maps missing or broken.
    """
    labels = suggest_labels(options, cams, items, out / "labels", resume=resume, progress=progress)
    drawer = load_classifier(run).model
    spec = AffinitySpec(
        options.method,
        drawer.classifier_spec.backbone,
        drawer.classifier_spec.output_stride,
        options.radius or (TRAINING_RADIUS if options.method == "irn" else RADIUS),
    )
    seed_everything(options.seed)
    model = build_affinity(spec)
    model.backbone.load_state_dict(drawer.backbone.state_dict())
    write_json(out / FILE, asdict(spec))
    return train_model(
        model,
        _Labelled(items, labels),
        None,
        options=options,
        out=out,
        make_task=AffinityTask,
        make_crops=segmentation_crops,
        resume=resume,
        progress=progress,
        description=f"training: {options.method}",
    )


def build_affinity(spec: AffinitySpec) -> AffinityNet | IRNet:
    """The network that a spec describes, with random weights."""
    backbone = build_backbone(spec.backbone, output_stride=spec.output_stride, weights="none")
    if spec.method == "irn":
        return IRNet(backbone, radius=spec.radius)
    return AffinityNet(backbone, radius=spec.radius)


def load_affinity(folder: Path) -> AffinityNet | IRNet:
    """Read what `train_affinity` wrote. Nothing is unpickled.

    Raises:
        SegmendError: a missing, truncated or foreign file, or weights that do not fit.
    """
    path = folder / FILE
    try:
        spec = AffinitySpec(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise SegmendError(
            f"{path}: not found; want the folder that `segmend tags affinity` wrote"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise SegmendError(
            f"{path}: not the description of an affinity network: {error}"
        ) from error
    model = build_affinity(spec)
    load_segmenter(folder, model=model)
    return model.eval()


def suggest_labels(
    options: AffinityOptions,
    cams: Path,
    items: TagFolder,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write, for every image, the labels that two backgrounds agree on; 255 elsewhere.

    Without a background class, only pixels that the CRF and the maps agree on are labelled.
    """
    paths = [out / f"{name}.png" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    if todo:
        options = _settled(options, cams, items, out, resume=resume, progress=progress)
    for index in track(todo, description="affinity labels", enabled=progress):
        file = read_cams(cams / f"{items.names[index]}.npz", num_tags=items.num_tags)
        labels = labels_of(options, file, items[index]["image"], items.background)
        write_mask(paths[index], labels, encoding="palette")
    return paths


def _settled(
    options: AffinityOptions,
    cams: Path,
    items: TagFolder,
    out: Path,
    *,
    resume: bool,
    progress: bool,
) -> AffinityOptions:
    """`options` with the labels' backgrounds that they leave open."""
    names = ("strict", "lenient") if options.method == "irn" else ("low_power", "high_power")
    missing = [name for name in names if getattr(options, name) is None]
    if items.background is None or not missing:
        return options
    maps = MaskOptions(normalisation="max")
    found = settle_background(maps, cams, items, out, resume=resume, progress=progress)
    assert found.constant is not None
    known = label_backgrounds(found.constant)
    return options.model_copy(update={name: known[name] for name in missing})


def label_backgrounds(constant: float) -> dict[str, float]:
    """Backgrounds of the labels for maps whose best background score is `constant`, in [0, 1].

    They stand to it as the published ones to theirs: AffinityNet's powers 4 and 32 cut maps at
    0.276 and 0.077, where (1 - x)^power = x, its walk's 16 at 0.123; IRN's constants are 0.3 and
    0.05 beside 0.15.
    """
    constant = min(max(constant, 1e-3), 0.4)  # beyond, powers lose their meaning
    low, high = (constant * level / 0.123 for level in (0.276, 0.077))
    return {
        "low_power": math.log(low) / math.log1p(-low),
        "high_power": math.log(high) / math.log1p(-high),
        "strict": 2 * constant,
        "lenient": constant / 3,
    }


def labels_of(
    options: AffinityOptions, file: CamFile, image: Tensor, background: int | None
) -> Tensor:
    """Labels, int64 (H, W), of an image (3, H, W), of the classes that its file of maps has.

    Where there is a background class, the options must say its scores.
    """
    maps, tags = file.dense(), file.tags()
    if background is None:
        return pseudo_mask(
            maps, tags, image, background=None, normalise="max", need_agreement=True
        ).labels.long()
    if options.method == "irn":
        strict, lenient = (
            pseudo_mask(
                maps, tags, image, background=score, normalise="max", crf="confident-labels"
            ).labels
            for score in _given(options.strict, options.lenient)
        )
        return confident_labels(strict, lenient)
    low, high = (
        pseudo_mask(maps, tags, image, background=BackgroundPower(power), normalise="max").labels
        for power in _given(options.low_power, options.high_power)
    )
    return affinity_labels(low, high)


def _given(*scores: float | None) -> list[float]:
    if None in scores:
        raise SegmendError("affinity labels: the background scores are open; see suggest_labels")
    return [score for score in scores if score is not None]


class AffinityTask(SegmentationTask):
    """The network's own loss against the labels at its maps' size."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        model: nn.Module = self.model
        assert isinstance(model, (AffinityNet, IRNet))
        size = [-(-side // model.map_stride) for side in batch["target"].shape[1:]]
        loss = model.loss(batch["image"], small_labels(batch["target"], size))
        self._losses.append(loss.detach())
        return loss


def small_labels(labels: Tensor, size: list[int]) -> Tensor:
    """Labels (N, H, W) at another size: the label of most pixels of a cell, 255 among them."""
    found: Tensor = labels.unique()  # type: ignore[no-untyped-call]
    shares = torch.stack([(labels == value).float() for value in found], 1)
    winners = F.interpolate(shares, size=tuple(size), mode="area").argmax(1)
    return found[winners]


class _Labelled(Dataset[Item]):
    """Images of a set with suggested labels as their targets."""

    def __init__(self, items: TagFolder, labels: list[Path]) -> None:
        self.items = items
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        target = read_mask(
            self.labels[index],
            num_classes=max(2, self.items.num_classes),
            ignore_index=IGNORED,
            encoding="index",
        )
        item = self.items[index]
        return {"name": item["name"], "image": item["image"], "target": target}
