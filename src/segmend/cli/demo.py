"""`segmend demo`: a real base diagnosed and mended on bundled images, before and after shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from segmend.data.sample import NucleiSample
    from segmend.engine.evaluation import Evaluation
    from segmend.refine import Refiner

SHOWN = 4
"""Rows of the picture: the two images that gained most, the median one, and the one that lost."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the fitting images.  [default: 30]", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the refiner.  [default: 0]")] = None,
    recipe: RECIPE = Path("demo"),
    set_: SETS = None,
) -> None:
    """Diagnose and mend a real model's masks on bundled nuclei images, in about three minutes.

    The base (SqueezeNet + FPN, trained on 400 other images of BBBC038) predicts 40 images, which
    are diagnosed and which a refiner is fitted to, and 20 test images that neither has seen; both
    are scored on the test images, and a report shows them before and after.
    """
    from segmend.cli.diagnose import show
    from segmend.cli.refine import describe, fitting_bar
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.data.sample import nuclei_sample
    from segmend.diagnose import diagnose
    from segmend.refine import RefineOptions, Refiner

    options = resolve(RefineOptions, recipe, set_ or [], {"epochs": epochs, "seed": seed})
    print_settings(options)
    sample = nuclei_sample()
    predict(sample, out)
    typer.echo("\nwhat is wrong with the fit images' masks")
    show(diagnose(out / "probs" / "fit", sample.fit_masks, images=sample.fit_images, progress=True))
    typer.echo("\nOf these, refining needs no new training of the base: it is tried now.\n")
    with fitting_bar(options.folds, options.epochs) as on_progress:
        refiner = Refiner.fit(
            out / "probs" / "fit",
            sample.fit_masks,
            images=sample.fit_images,
            options=options,
            on_progress=on_progress,
        )
    refiner.save(out / "refiner")
    typer.echo(describe(refiner))
    write_masks(refiner, sample, out)
    result = evaluate(sample, out)
    picture = draw(sample, out, result)
    write_run_record(out, "demo", options, extra=result.summary())
    show_gain(result)
    report = write_report(refiner, sample, out)
    typer.echo(f"\nreport:  {report}\npicture: {picture}")
    typer.echo(f"masks:   {out / 'masks'}\nfigures: {out / 'run.json'}")


def predict(sample: NucleiSample, out: Path) -> None:
    """The base's probability maps of both parts of the sample."""
    from segmend.engine.checkpoints import load_segmenter
    from segmend.engine.prediction import predict_folder
    from segmend.models.pretrained import nuclei_base

    model, _ = load_segmenter(nuclei_base())
    for part, images in (("fit", sample.fit_images), ("test", sample.test_images)):
        typer.echo(f"base model on the {part} images")
        predict_folder(model, images, out / "probs" / part)


def write_masks(refiner: Refiner, sample: NucleiSample, out: Path) -> None:
    """Test masks of the base at its best threshold on the fitting images, and refined ones."""
    from segmend.engine.progress import track
    from segmend.refine import Refiner
    from segmend.refine.folder import refine_folder

    base = Refiner([], options=refiner.options, gate=refiner.gate.closed())
    for name, used in (("base", base), ("refined", refiner)):
        refine_folder(
            used,
            out / "probs" / "test",
            out / "masks" / name,
            images=sample.test_images if used.needs_images else None,
            resume=False,
            track=lambda m, name=name: track(m, description=f"masks: {name}"),  # type: ignore[misc]
        )


def evaluate(sample: NucleiSample, out: Path) -> Evaluation:
    """Refined against base on the test images."""
    from segmend.engine.evaluation import evaluate_folder

    return evaluate_folder(
        out / "masks" / "refined",
        sample.test_masks,
        kind="pred",
        against=out / "masks" / "base",
    )


def write_report(refiner: Refiner, sample: NucleiSample, out: Path) -> Path:
    """The base's masks of the test images diagnosed, and the same images after mending."""
    import torch

    from segmend.diagnose import DiagnoseOptions, diagnose
    from segmend.diagnose.save import save

    threshold = torch.tensor(refiner.gate.base_threshold).sigmoid().item()
    base = diagnose(
        out / "probs" / "test",
        sample.test_masks,
        images=sample.test_images,
        options=DiagnoseOptions(threshold=threshold),
        progress=True,
    )
    mended = diagnose(None, sample.test_masks, pred=out / "masks" / "refined", progress=True)
    return save(base, out / "report.html", mended=mended)


def show_gain(result: Evaluation) -> None:
    """Print base against refined with intervals."""
    from rich.console import Console
    from rich.table import Table

    assert result.against is not None
    table = Table(title=f"{len(result.names)} test images, 95% paired bootstrap intervals")
    for heading in ("", "base", "refined", "difference"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, interval in result.differences.items():
        table.add_row(
            result.title(name),
            f"{100 * interval.base:.1f}",
            f"{100 * interval.other:.1f}",
            f"{100 * interval.difference:+.1f} "
            f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]",
        )
    Console().print(table)


def draw(sample: NucleiSample, out: Path, result: Evaluation) -> Path:
    """A sheet of base and refined masks: most gained, median, and worst, not only the best."""
    from segmend.data.files import atomic_write
    from segmend.data.folders import match_folders
    from segmend.data.images import read_image
    from segmend.data.masks import read_mask
    from segmend.metrics import class_score, iou
    from segmend.plot import Row, sheet

    assert result.against is not None
    before, after = (class_score(iou(s.region)) for s in (result.against, result.pred))
    order = (after - before).nan_to_num(0.0).argsort(descending=True).tolist()
    picked = [order[0], order[1], order[len(order) // 2], order[-1]][:SHOWN]
    matches = match_folders({"images": sample.test_images, "masks": sample.test_masks})
    paths = {match.name: match.paths for match in matches}
    rows = []
    for index in picked:
        name = result.names[index]
        masks = [read_mask(out / "masks" / kind / f"{name}.png") for kind in ("base", "refined")]
        scores = [float(s[index]) for s in (before, after)]
        rows.append(
            Row(
                name=name,
                image=read_image(paths[name]["images"]),
                target=read_mask(paths[name]["masks"]),
                predictions=masks,
                captions=[f"IoU {100 * score:.1f}" for score in scores],
            )
        )
    path = out / "overlays.png"
    with atomic_write(path) as temporary:
        sheet(rows, ["base", "refined"]).save(temporary)
    return path
