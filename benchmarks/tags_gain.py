"""Masks from tags: plain methods against the same with the add-on losses, seed by seed.

Steps, resumable run by run; figures come from the counts that the first two have kept:

    python benchmarks/tags_gain.py fit     --data DIR/msrc-objects --seeds 0 1 2 3 4
    python benchmarks/tags_gain.py segment --data DIR/msrc-objects --seeds 0 1 2 3 4
    python benchmarks/tags_gain.py table   --data DIR/msrc-objects --out benchmarks/results

Settings of all runs (`--set`) are given to every step; the tables name them. Networks, maps and
masks are written to `--runs`, what was counted on them to `benchmarks/records`, from which the
tables are made; what has a record is only repeated where something else needs its networks.

`DIR` is in the VOC layout with train, val and test. Classifiers learn from the tags of `train`. The
background constant is the best one on `val`; `train` and `test` are then scored with it, their maps
drawn for their true tags, as is usual for maps; one scale and its mirror image, since one run must
stay short. `segment` trains segmenters on the training masks, plain and with tag gate and
rectification, on the test-bed `rectify_bed.py`, all from the plain classifier of their seed,
and scores `test`. A network that several recipes have in common is trained once a seed: the `++`
recipes' tagger is the plain network, and AffinityNet and IRN go on from the plain maps. Beside them
stands a control that learns nothing: a centred ellipse of the size that suits `val` best, in the
class of each image's first tag. `--recipes truth` has the true masks in place of pseudo-masks: what
the segmenters of this test-bed could reach at all.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from records import FOLDER, SUFFIX, keep_record
from rectify_bed import Bench, add_training
from rectify_variants import variants
from segmend.cli.run_options import resolve_run
from segmend.data.masks import write_mask
from segmend.data.tags import TagFolder
from segmend.tags.affinity_jobs import load_affinity, train_affinity
from segmend.tags.affinity_network import IRNet
from segmend.tags.background_choice import NO_DOUBT, WALK_POWERS
from segmend.tags.classifier_files import TAGGER
from segmend.tags.evaluation import TagScores, evaluate_cams, evaluate_masks
from segmend.tags.jobs import draw_cams, make_masks, plain_options, train_tags
from segmend.tags.options import MaskOptions
from segmend.tags.pipeline import PipelineOptions
from tags_tables import MAPS_OF, PAIRS, RECTIFIED, tables

TRUTH = "truth"
"""Named like a recipe: the masks that every recipe is after."""

SPLITS = ("val", "train", "test")
CONSTANTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35)
"""Backgrounds tried on val for masks that are not cut at the maps' own."""


def fit(
    data: Path,
    labels: str,
    out: Path,
    recipe: str,
    seed: int,
    sets: Sequence[str],
    variant: str = "",
    *,
    masks: Sequence[str] = (),
    needed: bool = False,
) -> None:
    """One training run: its maps and masks scored on all splits; `needed`: they must be there.

    With `masks`, settings of masks alone, a variant's masks are made of the recipe's own maps.
    """
    run = out / f"{recipe}{variant}-{seed}"
    if record_of(run).exists() and (not needed or (run / "masks").exists()):
        return
    items = {split: TagFolder(data, split=split, labels=labels) for split in SPLITS}
    if recipe == TRUTH:
        found = {"masks, train": true_masks(items["train"], run / "masks")}
        keep(run, found)
        return
    options = resolve_run(Path(recipe), [*sets, *masks], epochs=None, seed=seed)
    if masks:
        fit(data, labels, out, recipe, seed, sets, needed=True)
        whole = out / f"{recipe}-{seed}"
        maps = out / f"{MAPS_OF.get(recipe, recipe)}-{seed}" / "cams"
        net = whole / "affinity" if recipe in MAPS_OF else None
        found = {"masks, train": tuned_masks(options.masks, maps, items, run, net)}
    elif recipe in MAPS_OF:
        fit(data, labels, out, MAPS_OF[recipe], seed, sets, needed=True)
        found = walked_masks(options, out / f"{MAPS_OF[recipe]}-{seed}", items, run)
    else:
        plain = out / f"cam-{seed}" / "net"
        if options.train.tagger and not (run / "net" / TAGGER).exists() and plain.exists():
            shutil.copytree(plain, run / "net" / TAGGER)
        # As a ++ recipe's plain network is trained, whatever add-on `sets` name for the others.
        training = plain_options(options.train) if recipe == "cam" else options.train
        train_tags(training, items["train"], run / "net", progress=False)
        found = maps_and_masks(options, items, run)
    for what, scores in found.items():
        print(run.name, what, f"{scores.mean_iou:.3f} {scores.boundary_f:.3f}", flush=True)
    keep(run, found)


def maps_and_masks(
    options: PipelineOptions, items: dict[str, TagFolder], run: Path
) -> dict[str, TagScores]:
    """Maps of all splits at the constant that is best on val, and the training masks."""
    constant: float | None = None
    found: dict[str, TagScores] = {}
    drawing = options.cams.model_copy(update={"scales": (1.0,)})
    for split in SPLITS:
        cams = run / "cams" / split
        draw_cams(drawing, run / "net", items[split], cams, progress=False)
        scores = evaluate_cams(cams, items[split], constant=constant, progress=False)
        if split == "val":
            constant = scores.constant
        found[f"maps, {split}"] = scores
        print(run.name, split, f"{scores.mean_iou:.3f} {scores.tag_map:.3f}", flush=True)
    found["masks, train"] = tuned_masks(options.masks, run / "cams", items, run, None)
    return found


def true_masks(items: TagFolder, out: Path) -> TagScores:
    """The labels themselves, as files of pseudo-masks."""
    for index, name in enumerate(items.names):
        write_mask(out / f"{name}.png", items.target(index), encoding="palette")
    return evaluate_masks(out, items, progress=False)


def walked_masks(
    options: PipelineOptions, maps: Path, items: dict[str, TagFolder], run: Path
) -> dict[str, TagScores]:
    """The training masks after an affinity network's walk."""
    assert options.affinity is not None
    cams, net = maps / "cams", run / "affinity"
    affinity = options.affinity.model_copy(update={"seed": options.train.seed, "threads": 1})
    train_affinity(affinity, maps / "net", cams / "train", items["train"], net, progress=False)
    return {"masks, train": tuned_masks(options.masks, cams, items, run, net)}


def tuned_masks(
    settings: MaskOptions, cams: Path, items: dict[str, TagFolder], run: Path, affinity: Path | None
) -> TagScores:
    """Masks of the training images with the background score that is best on val."""
    name = "walk_power" if affinity is not None and not _irn(affinity) else "constant"
    values = WALK_POWERS if name == "walk_power" else CONSTANTS
    if items["val"].background is None:
        values = values[:1]

    def score(value: float) -> float:
        tried = settings.model_copy(update=NO_DOUBT | {name: value})
        masks = run / "tuning" / str(value)
        make_masks(tried, cams / "val", items["val"], masks, affinity=affinity, progress=False)
        return evaluate_masks(masks, items["val"], progress=False).mean_iou

    chosen = settings.model_copy(update={name: climb(values, score)})
    masks = run / "masks"
    make_masks(chosen, cams / "train", items["train"], masks, affinity=affinity, progress=False)
    return evaluate_masks(masks, items["train"], progress=False)


def climb(values: Sequence[float], score: Callable[[float], float]) -> float:
    """The ordered value with the best score, looked for from the second on as long as it rises."""
    tried: dict[int, float] = {}
    at = min(1, len(values) - 1)
    while len(values) > 1:
        around = [i for i in (at - 1, at, at + 1) if 0 <= i < len(values)]
        tried |= {i: score(values[i]) for i in around if i not in tried}
        best = max(around, key=lambda i: tried[i])
        if best == at:
            break
        at = best
    return values[at]


def _irn(affinity: Path) -> bool:
    return isinstance(load_affinity(affinity), IRNet)


def segment(options: argparse.Namespace, runs: Path, recipe: str, seed: int, named: str) -> None:
    """Segmenters on one run's masks, without and with rectification."""
    run = runs / f"{recipe}{named}-{seed}"

    def inputs() -> tuple[Path, Path]:
        data = options.data, options.labels, runs
        fit(*data, "cam", seed, options.sets, needed=True)
        fit(*data, recipe, seed, options.sets, named, masks=options.masks, needed=True)
        return runs / f"cam-{seed}" / "net", run / "masks"

    bench = Bench(options, FOLDER / runs.name / run.name, inputs)
    known = variants(options.labels)
    for name in options.variants or ("flat", RECTIFIED[options.labels == "SegmentationClass"]):
        bench.fit(name, known[name], seed)


def control(data: Path, labels: str, out: Path) -> None:
    """The ellipse that learns nothing."""
    run = out / "ellipse-0"
    if record_of(run).exists():
        return
    items = {split: TagFolder(data, split=split, labels=labels) for split in SPLITS}
    if items["val"].background is None:
        return
    best: tuple[float, float] = (-1.0, 0.0)
    for size in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        scores = draw_ellipses(items["val"], run / f"val-{size}", size)
        best = max(best, (scores.mean_iou, size))
    found = {
        f"maps, {split}": draw_ellipses(items[split], run / split, best[1]) for split in SPLITS
    }
    keep(run, found)


def draw_ellipses(items: TagFolder, out: Path, size: float) -> TagScores:
    """Masks of a centred ellipse whose axes are `size` of the image's sides."""
    for index, name in enumerate(items.names):
        height, width = items.target(index).shape
        rows = (torch.arange(height) + 0.5).unsqueeze(1) / height * 2 - 1
        cols = (torch.arange(width) + 0.5) / width * 2 - 1
        inside = rows**2 + cols**2 <= size**2
        tags = items.tags(index).nonzero().flatten().tolist()
        label = tags[0] + 1 if tags else 0
        write_mask(out / f"{name}.png", inside.long() * label, encoding="palette")
    return evaluate_masks(out, items, progress=False)


def record_of(run: Path) -> Path:
    return FOLDER / run.parent.name / f"{run.name}{SUFFIX}"


def keep(run: Path, found: dict[str, TagScores]) -> None:
    """Counts and figures of a run, in one file, once: segmenters have its masks."""
    if record_of(run).exists():
        return
    content = {
        name: {"region": s.region, "boundary": s.boundary, **s.summary()}
        for name, s in found.items()
    }
    keep_record(record_of(run), {"scores": content})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["fit", "segment", "table"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", default="SegmentationClass")
    parser.add_argument("--name", help="of the data in the tables; default: class or all")
    parser.add_argument("--runs", type=Path, default=Path("runs/tags_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--recipes", nargs="+", default=[r for pair in PAIRS.items() for r in pair])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", help="segment: of rectify_variants.py")
    parser.add_argument("--as", dest="named", help="of recipes with other settings: 'ISL alone'")
    parser.add_argument("--masks", nargs="+", default=[], metavar="masks.KEY=VALUE",
                        help="with --as: other masks, of the recipe's own maps")  # fmt: skip
    add_training(parser)
    parser.add_argument("--set", dest="sets", nargs="+", default=[], metavar="STAGE.KEY=VALUE")
    options = parser.parse_args()
    if options.masks and not options.named:
        parser.error("--masks wants --as: the recipe's own record is of its own masks")
    torch.set_num_threads(1)
    labels = options.labels.removeprefix("Segmentation").lower()
    name = f"tags_gain_{options.name or labels}"
    runs = options.runs / name
    if options.step == "table":
        tables(FOLDER / name, options, name)
        return
    if options.step == "fit":
        control(options.data, options.labels, runs)
    named = f", {options.named}" if options.named else ""
    data = options.data, options.labels, runs
    for seed in options.seeds:
        for recipe in options.recipes:
            if options.step == "segment":
                segment(options, runs, recipe, seed, named)
            else:
                fit(*data, recipe, seed, options.sets, named, masks=options.masks)


if __name__ == "__main__":
    main()
