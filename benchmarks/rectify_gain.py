"""Rectification, its head and its gate against plain training and masking by predicted tags.

Two steps, resumable run by run; figures come from the counts that the first step has kept:

    python benchmarks/rectify_gain.py fit   --data DIR/msrc-objects --seeds 0 1 2 3 4
    python benchmarks/rectify_gain.py table --data DIR/msrc-objects --out benchmarks/results

`DIR` is in the VOC layout with train, val and test. A tag classifier learns from the tags of
`train` (or --classifier names one that `segmend tags train` wrote); its maps and the dense CRF make
the pseudo-masks. Every segmenter starts from that classifier: its lower half is frozen and its
features are kept in memory, its upper half, a DeepLab v1 context and the head are trained. This is
a cheap test-bed, the same for all variants, not the best segmenter there is.

Test labels are read five ways: as they are; masked by tags that the classifier predicts, before
("pred") and after ("pred, keep") foreground or background is decided; the same with the true tags,
which is a bound, not a method.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outcome import Cell, write_outcome
from segmend.cli.tag_recipes import resolve_stage
from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.engine.seeds import derive_seed, seed_everything
from segmend.metrics import (
    Interval,
    boundary_counts,
    boundary_f,
    iou,
    out_of_candidate_counts,
    paired_bootstrap,
    region_counts,
)  # fmt: skip
from segmend.models.backbones import build_backbone
from segmend.rectify import OutOfCandidateRectification, candidates_of, masked_labels
from segmend.rectify.decoders import DeepLab
from segmend.rectify.masking import Masking
from segmend.rectify.network import RectifiedSegmenter, RectifiedSpec
from segmend.tags.classifier_files import load_classifier
from segmend.tags.jobs import draw_cams, make_masks, train_tags
from segmend.tags.options import CamOptions, MaskOptions, TagOptions

VOID = 255
CONTEXT = 32  # channels
STEP = 4  # losses are taken at every fourth pixel along each axis


@dataclass(frozen=True)
class Variant:
    """What is trained; `weight` 0 is without rectification."""

    head: str = "hierarchical"
    gate: bool = False
    form: str = "foreground"
    weight: float = 0.0
    average: str = "oc"
    adaptive: bool = False
    dropped: str = "out"
    background_joins: str = "always"
    start: float = 0.2
    margin: float = 0.0
    strength: float = 1.0
    tag_weight: float = 0.3


FLAT = Variant(head="plain")
GATED = Variant(gate=True)
OBJECTS = {
    "flat": FLAT,
    "hierarchical": Variant(),
    "gate": GATED,
    "gate + foreground .1": replace(GATED, weight=0.1),
    "hierarchical + foreground .1": Variant(weight=0.1),
    "flat + all .1": replace(FLAT, form="all", weight=0.1),
    "flat + gate": replace(FLAT, gate=True),
    "flat + adaptive all .1": replace(FLAT, form="all", weight=0.1, adaptive=True),
    "flat + any .1": replace(FLAT, form="any", weight=0.1),
    "flat + foreground .1": replace(FLAT, weight=0.1),
    "flat + hinge .1": replace(FLAT, form="hinge", weight=0.1),
    "flat + max .1": replace(FLAT, form="max", weight=0.1),
    "flat + tags only": replace(FLAT, gate=True, strength=0.0),
    "gate + foreground .5": replace(GATED, weight=0.5),
    "gate + foreground every 1": replace(GATED, weight=1.0, average="every"),
    "gate + adaptive .1": replace(GATED, weight=0.1, adaptive=True, dropped="neutral"),
    "flat + any .1, background where it leads": replace(
        FLAT, form="any", weight=0.1, background_joins="leads", adaptive=True
    ),
}
STUFF = {
    "flat": FLAT,
    "gate": replace(FLAT, gate=True),
    "gate + any every 1": replace(FLAT, gate=True, weight=1.0, average="every"),
    "flat + any every 1": replace(FLAT, weight=1.0, average="every"),
    "flat + all .1": replace(FLAT, form="all", weight=0.1),
    "gate + any .1": replace(FLAT, gate=True, weight=0.1),
    "flat + adaptive all .1": replace(FLAT, form="all", weight=0.1, adaptive=True),
    "flat + tags only": replace(FLAT, gate=True, strength=0.0),
}
"""For data without a background class: "foreground" is "any" there."""

READINGS: dict[str, tuple[str, Masking]] = {
    "pred": ("predicted", "all"),
    "pred, keep": ("predicted", "keep"),
    "true": ("true", "all"),
    "true, keep": ("true", "keep"),
}


@dataclass
class Cached:
    """One image: what the frozen half says of it (and of its mirror image), and its labels."""

    size: tuple[int, int]
    features: Tensor
    mirrored: Tensor | None
    target: Tensor
    tags: Tensor
    scores: Tensor


class Halves:
    """A SqueezeNet trunk in two: frozen up to its third module at stride 8, and what is trained."""

    def __init__(self, model: RectifiedSegmenter) -> None:
        stages = model.trunk.backbone.stages
        self.model = model
        self.lower = nn.Sequential(*stages[0], *stages[1], *stages[2][:4])
        self.upper = nn.Sequential(*stages[2][4:], *stages[3])

    def frozen(self, image: Tensor) -> Tensor:
        """(384, h, w) in half precision of an image (3, H, W), padded to a multiple of 8."""
        height, width = image.shape[1:]
        x = (image[None] - self.model.mean) / self.model.std
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        with torch.inference_mode():
            return self.lower(x)[0].half()

    def read(self, features: Tensor, size: tuple[int, int], valid: Tensor | None) -> Any:
        trunk = self.model.trunk
        return self.model.decide(trunk.decoded(self.upper(features)), size, valid)


def prepare(options: argparse.Namespace, runs: Path) -> tuple[Path, Path]:
    """(classifier, pseudo-masks of train), made where they are not there yet."""
    items = TagFolder(options.data, split="train", labels=options.labels)
    net = options.classifier or runs / "net"
    if options.classifier is None:
        sets = {"seed": 0, "threads": 1}
        recipe = resolve_stage("train", TagOptions, Path(options.recipe), options.sets, sets)
        train_tags(recipe, items, net, progress=False)
    draw_cams(CamOptions(), net, items, runs / "cams", progress=False)
    settings = MaskOptions(constant=options.constant)
    make_masks(settings, runs / "cams", items, runs / "masks", progress=False)
    return net, runs / "masks"


def cache(
    halves: Halves, classifier: nn.Module, items: TagFolder, masks: Path | None
) -> list[Cached]:
    """Everything about a split; with `masks` the labels are theirs, and mirror images are kept."""
    rows = []
    for index in range(len(items)):
        item = items[index]
        image, target = item["image"], item["target"]
        if masks is not None:
            path = masks / f"{item['name']}.png"
            target = read_mask(path, num_classes=max(items.num_classes, 2), encoding="index")
        with torch.inference_mode():
            scores = classifier.read(image[None]).scores[0].sigmoid()
        size = (image.shape[1], image.shape[2])
        mirrored = halves.frozen(image.flip(-1)) if masks is not None else None
        rows.append(Cached(size, halves.frozen(image), mirrored, target, item["tags"], scores))
    return rows


def batches(rows: list[Cached], size: int, seed: int, epoch: int) -> Iterator[list[Cached]]:
    """Shuffled batches of equal image size, each image mirrored half of the time."""
    rng = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(rows), generator=rng).tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for index in order:
        groups.setdefault(rows[index].size, []).append(index)
    parts = [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]
    for number in torch.randperm(len(parts), generator=rng).tolist():
        yield [rows[i] for i in parts[number]]


def stacked(rows: list[Cached], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, targets and inside (every `STEP`th), tags of a batch."""
    features, targets = [], []
    for row in rows:
        flip = bool(torch.rand((), generator=rng) < 0.5)
        assert row.mirrored is not None
        features.append((row.mirrored if flip else row.features).float())
        targets.append(row.target.flip(-1) if flip else row.target)
    target = torch.stack(targets)
    below, right = -target.shape[1] % 8, -target.shape[2] % 8
    inside = F.pad(torch.ones_like(target, dtype=torch.bool), (0, right, 0, below))
    target = F.pad(target, (0, right, 0, below), value=VOID)
    tags = torch.stack([row.tags for row in rows])
    return torch.stack(features), target[:, ::STEP, ::STEP], inside[:, ::STEP, ::STEP], tags


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


@torch.inference_mode()
def score(
    halves: Halves, rows: list[Cached], background: int | None, *, readings: bool
) -> dict[str, dict[str, Tensor]]:
    """Counts of each image for each way of reading the labels."""
    classes = halves.model.spec.num_classes
    found: dict[str, dict[str, list[Tensor]]] = {}
    for row in rows:
        height, width = row.size
        padded = (height + -height % 8, width + -width % 8)
        inside = F.pad(torch.ones(1, height, width), (0, -width % 8, 0, -height % 8)) > 0
        reading = halves.read(row.features[None].float(), padded, inside).cut(height, width)
        probs, target = reading.logits.softmax(1), row.target[None]
        labels = {"plain": probs.argmax(1)}
        wanted = {"predicted": (row.scores >= 0.5).float()[None], "true": row.tags[None]}
        for name, (tags, mode) in READINGS.items() if readings else ():
            if background is None and mode == "keep":
                continue
            candidates = candidates_of(wanted[tags], background=background)
            labels[name] = masked_labels(probs, candidates, mode=mode, background=background)
        valid = target != VOID
        for name, each in labels.items():
            part = found.setdefault(name, {"region": [], "boundary": [], "oc": [], "behind": []})
            part["region"].append(region_counts(each, target, num_classes=classes))
            if readings:
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

    `inputs` gives the classifier to start from and the training images' pseudo-masks.
    """

    def __init__(
        self, options: argparse.Namespace, runs: Path, inputs: Callable[[], tuple[Path, Path]]
    ) -> None:
        self.options, self.runs, self.inputs = options, runs, inputs
        self.loaded: Any = None

    def load(self) -> Any:
        if self.loaded is None:
            net, masks = self.inputs()
            found = load_classifier(net)
            items = {
                split: TagFolder(self.options.data, split=split, labels=self.options.labels)
                for split in ("train", "test")
            }
            background, classes = items["train"].background, items["train"].num_classes
            spec = RectifiedSpec("deeplabv1", "squeezenet1_0", classes, background, head="plain")
            halves = self.halves(spec, found.model, Variant())
            train_rows = cache(halves, found.model, items["train"], masks)
            truths = [items["train"].target(i) for i in range(len(items["train"]))]
            test_rows = cache(halves, found.model, items["test"], None)
            self.loaded = (found.model, background, classes, train_rows, truths, test_rows)
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
        path = self.runs / f"{name.replace(' ', '_')}-{seed}.pt"
        if path.exists():
            return
        classifier, background, classes, train_rows, truths, test_rows = self.load()
        seed_everything(seed)
        spec = RectifiedSpec(
            "deeplabv1", "squeezenet1_0", classes, background, variant.head, variant.gate
        )
        halves = self.halves(spec, classifier, variant)
        start = time.perf_counter()
        curve = train(halves, train_rows, variant, self.options, seed)
        seconds = time.perf_counter() - start
        halves.model.eval()
        test = score(halves, test_rows, background, readings=True)
        true_rows = [replace_target(r, t) for r, t in zip(train_rows, truths, strict=True)]
        seen = score(halves, true_rows, background, readings=False)
        content = {"variant": asdict(variant), "seconds": seconds, "curve": curve, "test": test,
                   "train": seen}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        torch.save(content, temporary)
        temporary.rename(path)
        told = {k: f"{100 * mean_iou(v['region'].sum(0)):.1f}" for k, v in test.items()}
        rate = rate_of(test["plain"]["oc"])
        share = rate_of(test["plain"]["behind"], 0, 1)
        print(f"{name}, seed {seed}: {seconds:.0f} s, loss {curve[0]:.3f} to {curve[-1]:.3f}, "
              f"mIoU {told}, OC {rate:.1f}%, background {share:.0f}%", flush=True)  # fmt: skip


def replace_target(row: Cached, target: Tensor) -> Cached:
    return Cached(row.size, row.features, None, target, row.tags, row.scores)


def mean_iou(counts: Tensor) -> float:
    return float(iou(counts).nanmean())


def rate_of(counts: Tensor, above: int = 0, below: int = 2) -> float:
    """Percent of summed counts."""
    total = counts.sum(0).double()
    return float(100 * total[above] / total[below])


def variants(labels: str) -> dict[str, Variant]:
    return OBJECTS if labels == "SegmentationClass" else STUFF


def table(runs: Path, options: argparse.Namespace, name: str) -> None:
    """A row a variant and way of reading; paired differences over all seeds they share."""
    found: dict[str, dict[int, Any]] = {}
    for variant in variants(options.labels):
        for path in sorted(runs.glob(f"{variant.replace(' ', '_')}-*.pt")):
            seed = path.stem.rpartition("-")[2]
            if path.stem == f"{variant.replace(' ', '_')}-{seed}":
                found.setdefault(variant, {})[int(seed)] = torch.load(path, weights_only=True)
    rows: list[dict[str, Cell]] = []
    for variant, seeds in found.items():
        for reading in next(iter(seeds.values()))["test"]:
            if reading == "plain" or not reading.startswith("true") or "keep" in reading:
                rows.append(row_of(variant, reading, seeds, found))
    notes = [
        "mIoU in points on test images (train: on the true masks of training images, read plainly)."
        " OC: pixels whose class is not among the image's true tags; background: pixels labelled "
        "so; both percent. pred: masked by the classifier's tags; keep: the class alone is masked;"
        " true: the bound with true tags.",
        "The classifier is the recipe cam's at crops of 208 pixels, seed 0, its stem not frozen; "
        "the masks' background constant of .01 is the best on val. Which variants are worth a row "
        "was known from an earlier trial that had looked at this test split.",
        "Differences: to the named variant and reading with the same seeds, 95% paired bootstrap "
        "intervals over test images, averaged over seeds.",
    ]
    steps = "fit|table --data msrc-objects --set crop=208 freeze=[] --seeds 0 1"
    command = f"python benchmarks/rectify_gain.py {steps}"
    write_outcome(options.out / f"{name}.json", name=name, command=command, rows=rows, notes=notes)
    for row in rows:
        print(row)


def row_of(
    variant: str, reading: str, seeds: dict[int, Any], found: dict[str, dict[int, Any]]
) -> dict[str, Cell]:
    mine = [run["test"][reading] for run in seeds.values()]
    row: dict[str, Cell] = {"variant": variant, "read": reading, "seeds": len(seeds)}
    row["mIoU"] = mean_of(mean_iou(m["region"].sum(0)) * 100 for m in mine)
    keep = "pred, keep" if "pred, keep" in mine[0] else "pred"
    for title, other, how in (
        ("to flat", "flat", "plain"),
        ("to gate", "gate", "plain"),
        (f"to flat, {keep}", "flat", keep),
        (f"to hierarchical, {keep}", "hierarchical", keep),
    ):
        if title.startswith("to hierarchical") and "hierarchical" not in variants_of(found):
            continue
        row[title] = ""
        both = sorted(seeds.keys() & found.get(other, {}).keys())
        if both and (other, how) != (variant, reading):
            base, new = (
                torch.stack([runs[s]["test"][way]["region"] for s in both])
                for runs, way in ((found[other], how), (seeds, reading))
            )
            row[title] = signed(difference(base, new))
    row["boundary F"] = mean_of(outline(m["boundary"], reading, seeds) for m in mine)
    row["OC %"] = mean_of(rate_of(m["oc"]) for m in mine)
    row["background %"] = mean_of(rate_of(m["behind"], 0, 1) for m in mine)
    if reading == "plain":
        seen = [run["train"]["plain"] for run in seeds.values()]
        row["train mIoU"] = mean_of(mean_iou(m["region"].sum(0)) * 100 for m in seen)
        row["train OC %"] = mean_of(rate_of(m["oc"]) for m in seen)
    else:
        row["train mIoU"] = row["train OC %"] = ""
    row["seconds"] = round(sum(run["seconds"] for run in seeds.values()) / len(seeds))
    return row


def variants_of(found: dict[str, dict[int, Any]]) -> set[str]:
    return set(found)


def outline(counts: Tensor, reading: str, seeds: dict[int, Any]) -> float:
    behind = next(iter(seeds.values()))["test"][reading]["behind"]
    first = 1 if int(behind[:, 0].sum()) else 0
    return float(100 * boundary_f(counts.sum(0))[first:].nanmean())


def mean_of(values: Any) -> str:
    numbers = list(values)
    return f"{sum(numbers) / len(numbers):.1f}"


def difference(base: Tensor, other: Tensor) -> Interval:
    """Paired difference of mIoU from counts (seeds, images, classes, 3)."""
    classes = base.shape[-2]

    def statistic(sums: Tensor) -> Tensor:
        return iou(sums.view(*sums.shape[:-1], classes, 3)).nanmean(-1)

    return paired_bootstrap(base.flatten(2), other.flatten(2), statistic=statistic)


def signed(interval: Interval) -> str:
    return f"{100 * interval.difference:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def add_training(parser: argparse.ArgumentParser) -> None:
    """How the segmenters of a test-bed are trained."""
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["fit", "table"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", default="SegmentationClass")
    parser.add_argument("--runs", type=Path, default=Path("runs/rectify_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--classifier", type=Path, help="what `segmend tags train` wrote")
    parser.add_argument("--recipe", default="cam", help="of the classifier, where none is given")
    parser.add_argument("--set", dest="sets", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--constant", type=float, default=0.01, help="background; best on val")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add_training(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = f"rectify_gain_{options.labels.removeprefix('Segmentation').lower()}"
    runs = options.runs / name
    if options.step == "table":
        table(runs, options, name)
        return
    bench = Bench(options, runs, lambda: prepare(options, runs))
    chosen = variants(options.labels)
    for seed in options.seeds:
        for variant in options.variants or chosen:
            bench.fit(variant, chosen[variant], seed)


if __name__ == "__main__":
    main()
