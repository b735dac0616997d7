"""A cheap test-bed for segmenters that learn from pseudo-masks, the same for all variants.

Every segmenter starts from a tag classifier: its lower half is frozen (`frozen_features.py`), its
upper half, a DeepLab v1 context and the head are trained. This is not the best segmenter there is.
Test labels are read as they are, and masked by tags (`Masked`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from frozen_features import VOID, Cached, Halves, batches, cache, fast, replace_target, stacked
from records import SUFFIX, keep_record
from rectify_variants import Variant
from segmend.data.tags import TagFolder
from segmend.engine.seeds import derive_seed, seed_everything
from segmend.metrics import boundary_counts, iou, out_of_candidate_counts, region_counts
from segmend.models.backbones import build_backbone
from segmend.rectify import OutOfCandidateRectification, candidates_of, masked_labels
from segmend.rectify.decoders import DeepLab
from segmend.rectify.inference import GATE_THRESHOLD
from segmend.rectify.masking import Masking
from segmend.rectify.network import RectifiedSegmenter, RectifiedSpec
from segmend.tags.classifier_files import load_classifier

CONTEXT = 32  # channels


@dataclass(frozen=True)
class Masked:
    """Masking of labels by tags: the classifier's ("pred"), the gate's ("own") or the true ones."""

    tags: str
    mode: Masking
    threshold: float = 0.5


READINGS = {
    "pred": Masked("pred", "all"),
    "pred, keep": Masked("pred", "keep"),
    "own, keep": Masked("own", "keep", GATE_THRESHOLD),
    "true": Masked("true", "all"),
    "true, keep": Masked("true", "keep"),
}
THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""From which probability on a tag is believed, tried on val; the gate's is `GATE_THRESHOLD`."""


def train(
    halves: Halves, rows: list[Cached], variant: Variant, options: argparse.Namespace, seed: int
) -> list[float]:
    """The mean loss of each epoch."""
    model = halves.model
    learning = [*halves.upper.parameters(), *model.trunk.branches.parameters()]
    learning += [*model.head.parameters()] + (
        [] if model.gate is None else [*model.gate.parameters()]
    )
    optimiser = torch.optim.AdamW(learning, lr=options.lr, weight_decay=1e-2)
    total = options.epochs * sum(1 for _ in batches(rows, options.batch, seed, 0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: (1 - s / total) ** 0.9)
    rectify = OutOfCandidateRectification(
        model.spec.num_classes, background=model.spec.background, form=variant.form,
        weight=variant.weight, average=variant.average, adaptive=variant.adaptive,
        dropped=variant.dropped, background_joins=variant.background_joins,
        margin=variant.margin, start=round(variant.start * total),
    )  # fmt: skip
    rectify.count(torch.stack([row.tags for row in rows]))
    curve = []
    for epoch in range(options.epochs):
        rng = torch.Generator().manual_seed(derive_seed(seed, epoch, 1))
        losses = []
        for batch in batches(rows, options.batch, seed, epoch):
            features, target, inside, tags = stacked(batch, rng)
            size = (target.shape[1], target.shape[2])
            with fast():
                reading = halves.read(features, size, inside)
            loss = F.cross_entropy(reading.logits, target, ignore_index=VOID)
            if reading.tags is not None:
                loss = loss + model.gate.loss(reading.tags, tags)
            if variant.weight:
                loss = loss + rectify(reading.logits, tags, ~inside, class_logits=reading.classes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        curve.append(sum(losses) / len(losses))
    return curve


def tuned_masking(
    halves: Halves, rows: list[Cached], background: int | None
) -> tuple[Masked, dict[str, dict[str, Tensor]]]:
    """Masking by the classifier at the threshold that is best on `rows` (val), and all counts."""
    mode: Masking = "all" if background is None else "keep"
    sources = ("pred",) if halves.model.gate is None else ("pred", "own")
    tried = {f"{s} {t:g}": Masked(s, mode, t) for s in sources for t in THRESHOLDS}
    ways = tried | {"true": READINGS["true"]}
    found = score(halves, rows, background, ways, outlines=False)
    told = [name for name, one in tried.items() if one.tags == "pred"]
    return tried[max(told, key=lambda name: mean_iou_of(found[name]))], found


@torch.inference_mode()
def score(
    halves: Halves,
    rows: list[Cached],
    background: int | None,
    readings: Mapping[str, Masked],
    *,
    outlines: bool,
) -> dict[str, dict[str, Tensor]]:
    """Counts of each image for each way of reading the labels, "plain" before all others."""
    classes = halves.model.spec.num_classes
    found: dict[str, dict[str, list[Tensor]]] = {}
    for row in rows:
        height, width = row.size
        padded = (height + -height % 8, width + -width % 8)
        inside = F.pad(torch.ones(1, height, width), (0, -width % 8, 0, -height % 8)) > 0
        with fast():
            reading = halves.read(row.features[None].float(), padded, inside).cut(height, width)
        probs, target = reading.logits.softmax(1), row.target[None]
        labels = {"plain": probs.argmax(1)}
        sure = {"pred": row.scores[None], "true": row.tags[None]}
        if reading.tags is not None:
            sure["own"] = reading.tags.float().sigmoid()
        for name, how in readings.items():
            again = background is None and how.mode == "keep" and how.tags != "own"
            if again or how.tags not in sure:
                continue  # without a background both modes are one
            wanted = (sure[how.tags] >= how.threshold).float()
            candidates = candidates_of(wanted, background=background)
            labels[name] = masked_labels(probs, candidates, mode=how.mode, background=background)
        valid = target != VOID
        for name, each in labels.items():
            part = found.setdefault(name, {"region": [], "boundary": [], "oc": [], "behind": []})
            part["region"].append(region_counts(each, target, num_classes=classes))
            if outlines:
                part["boundary"].append(boundary_counts(each, target, num_classes=classes))
            part["oc"].append(
                out_of_candidate_counts(each, row.tags[None], valid=valid, background=background)
            )
            behind = (valid & (each == 0)).sum() if background == 0 else torch.tensor(0)
            part["behind"].append(torch.stack([behind, valid.sum()])[None])
    return {
        name: {key: torch.cat(rows) for key, rows in part.items() if rows}
        for name, part in found.items()
    }


class Bench:
    """The data of a test-bed, read when the first run needs it.

    `inputs` gives the classifier to start from and the training images' pseudo-masks; what is
    counted goes to `records`.
    """

    def __init__(
        self, options: argparse.Namespace, records: Path, inputs: Callable[[], tuple[Path, Path]]
    ) -> None:
        self.options, self.records, self.inputs = options, records, inputs
        self.loaded: Any = None

    def load(self) -> Any:
        if self.loaded is None:
            net, masks = self.inputs()
            found = load_classifier(net)
            found.model.to(memory_format=torch.channels_last)
            items = {
                split: TagFolder(self.options.data, split=split, labels=self.options.labels)
                for split in ("train", "val", "test")
            }
            background, classes = items["train"].background, items["train"].num_classes
            spec = RectifiedSpec("deeplabv1", "squeezenet1_0", classes, background, head="plain")
            halves = self.halves(spec, found.model, Variant())
            train_rows = cache(halves, found.model, items["train"], masks)
            truths = [items["train"].target(i) for i in range(len(items["train"]))]
            others = {s: cache(halves, found.model, items[s], None) for s in ("val", "test")}
            self.loaded = (found.model, background, classes, train_rows, truths, others)
        return self.loaded

    def halves(self, spec: RectifiedSpec, classifier: Any, variant: Variant) -> Halves:
        trunk = DeepLab(build_backbone(weights="none"), spec.architecture, width=CONTEXT)
        model = RectifiedSegmenter(
            trunk, spec, gate_strength=variant.strength, tag_weight=variant.tag_weight
        )
        model.trunk.backbone.load_state_dict(classifier.backbone.state_dict())
        model.start_from_maps(classifier.head.weight.detach())
        return Halves(model)

    def fit(self, name: str, variant: Variant, seed: int) -> None:
        path = self.records / f"{name.replace(' ', '_')}-{seed}{SUFFIX}"
        if path.exists():
            return
        classifier, background, classes, train_rows, truths, others = self.load()
        seed_everything(seed)
        spec = RectifiedSpec(
            "deeplabv1", "squeezenet1_0", classes, background, variant.head, variant.gate
        )
        halves = self.halves(spec, classifier, variant)
        start = time.perf_counter()
        curve = train(halves, train_rows, variant, self.options, seed)
        seconds = time.perf_counter() - start
        halves.model.eval()
        tuned, val = tuned_masking(halves, others["val"], background)
        ways = READINGS | {"pred, tuned": tuned}
        test = score(halves, others["test"], background, ways, outlines=True)
        true_rows = [replace_target(r, t) for r, t in zip(train_rows, truths, strict=True)]
        seen = score(halves, true_rows, background, {}, outlines=False)
        content = {"variant": asdict(variant), "seconds": seconds, "curve": curve, "test": test,
                   "val": val, "train": seen, "threshold": tuned.threshold}  # fmt: skip
        keep_record(path, content)
        told = {k: f"{100 * mean_iou_of(v):.1f}" for k, v in test.items()}
        told["val"] = f"{100 * mean_iou_of(val['plain']):.1f}"
        rate = rate_of(test["plain"]["oc"])
        share = rate_of(test["plain"]["behind"], 0, 1)
        print(f"{name}, seed {seed}: {seconds:.0f} s, loss {curve[0]:.3f} to {curve[-1]:.3f}, "
              f"mIoU {told}, OC {rate:.1f}%, background {share:.0f}%, "
              f"tags from {tuned.threshold:g}", flush=True)  # fmt: skip


def mean_iou(counts: Tensor) -> float:
    return float(iou(counts).nanmean())


def mean_iou_of(counted: Mapping[str, Tensor]) -> float:
    return mean_iou(counted["region"].sum(0))


def rate_of(counts: Tensor, above: int = 0, below: int = 2) -> float:
    """Percent of summed counts."""
    total = counts.sum(0).double()
    return float(100 * total[above] / total[below])


def add_training(parser: argparse.ArgumentParser) -> None:
    """How the segmenters of a test-bed are trained."""
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
