"""`segmend refine`: fit a refiner, apply it, import one that the original code saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from segmend.refine import Refiner
    from segmend.refine.cross_validation import Progress

PROBS = Annotated[
    Path, typer.Option(help="Folder of probability maps: PNG (8 or 16 bit), TIFF, NPY or NPZ.")
]
IMAGES = Annotated[
    Path | None, typer.Option(help="Folder of the images, if the refiner shall use them too.")
]


def fit(
    probs: PROBS,
    masks: Annotated[Path, typer.Option(help="Folder of the true masks.")],
    out: Annotated[Path, typer.Option(help="Folder to write the refiner to.")],
    images: IMAGES = None,
    method: Annotated[
        str | None,
        typer.Option(help="bias-field (default), patch-refine-p0, -p4 or -p64."),
    ] = None,
    recipe: RECIPE = None,
    set_: SETS = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and crops.")] = None,
    ignore_index: Annotated[int, typer.Option(help="Mask value of ignored pixels.")] = 255,
) -> None:
    """Learn where a model's probability maps are wrong.

    The maps must be of images that the model was not trained on: a validation set, or the
    out-of-fold maps of `segmend train --folds`.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.refine import RefineOptions, Refiner

    options = resolve(RefineOptions, recipe, set_ or [], {"method": method, "seed": seed})
    print_settings(options)
    with fitting_bar(options.folds, options.epochs) as on_progress:
        refiner = Refiner.fit(
            probs,
            masks,
            images=images,
            options=options,
            ignore_index=ignore_index,
            on_progress=on_progress,
        )
    refiner.save(out)
    write_run_record(out, "refine fit", options)
    typer.echo(describe(refiner))
    typer.echo(f"refiner written to {out}; next: segmend refine apply --refiner {out} --probs DIR")


@contextmanager
def fitting_bar(folds: int, epochs: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar for `Refiner.fit`: yields its `on_progress`."""
    from segmend.engine.progress import progress_bar

    networks = max(1, folds)
    with progress_bar("fitting the refiner", total=networks * epochs) as bar:

        def on_progress(state: Progress) -> None:
            bar.advance()
            if state.epochs == state.of_epochs:
                bar.note(f"network {state.network} of {state.networks}: loss {state.loss:.3f}")

        yield on_progress


def describe(refiner: Refiner) -> str:
    """What the gate found, in a sentence."""
    gate = refiner.gate
    if gate.base_score != gate.base_score:  # NaN: nothing was held out
        return "not cross-validated (folds < 2): the refiner always acts"
    name = {"saliency": "minus MAE"}.get(refiner.options.task, "IoU")
    found = (
        f"cross-validated {name} inside the fitting set: base {100 * gate.base_score:.2f}, "
        f"refiner {100 * gate.best_score:.2f} (better in {gate.confidence:.0%} of resamples)"
    )
    if not gate.is_open:
        return f"{found}; the gate is closed: refining would not help, the base is kept as it is"
    guide = f", guided filter of radius {gate.guide.radius}" if gate.guide is not None else ""
    return f"{found}; the gate is open at strength {gate.strength:g}{guide}"


def apply(
    refiner: Annotated[Path, typer.Option(help="Folder written by `segmend refine fit`.")],
    probs: PROBS,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    images: IMAGES = None,
    write: Annotated[
        Literal["masks", "probs", "both"] | None,
        typer.Option(help="masks (default), probs (refined probability maps), or both."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Skip maps whose results exist.")] = True,
    recipe: RECIPE = None,
    set_: SETS = None,
) -> None:
    """Mend a folder of probability maps."""
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.engine.progress import track
    from segmend.refine import Refiner
    from segmend.refine.folder import ApplyOptions, refine_folder

    options = resolve(ApplyOptions, recipe, set_ or [], {"write": write})
    print_settings(options)
    result = refine_folder(
        Refiner.load(refiner),
        probs,
        out,
        images=images,
        write=options.write,
        resume=resume,
        track=lambda matches: iter(track(matches, description="refining", total=len(matches))),
    )
    inputs = {"refiner": refiner, "probs": probs, "images": images}
    write_run_record(out, "refine apply", options, {"inputs": inputs})
    typer.echo(
        f"{result.refined} maps refined in {result.seconds:.1f} s "
        f"({result.network_seconds:.1f} s in the network), {result.skipped} done before; "
        f"results in {out}"
    )


def import_(
    weights: Annotated[Path, typer.Argument(help="State dict saved by the original code.")],
    out: Annotated[Path, typer.Option(help="Folder to write the refiner to.")],
    batch_statistics: Annotated[
        bool | None,
        typer.Option(
            help="Normalise by each image's own statistics, as the original's prediction does.  "
            "[default: yes, with one-map recipes]"
        ),
    ] = None,
    recipe: RECIPE = Path("refine-published"),
    set_: SETS = None,
) -> None:
    """Convert a state dict of the original PatchRefineNet code; its variant is read off it."""
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.refine import RefineOptions, Refiner
    from segmend.refine.reference import import_reference

    network = import_reference(weights)
    method = f"patch-refine-{network.variant.lower()}"
    given = {"method": method, "batch_statistics": batch_statistics}
    options = resolve(RefineOptions, recipe, set_ or [], given)
    print_settings(options)
    Refiner([network], options=options).save(out)
    write_run_record(out, "refine import", options)
    typer.echo(f"PatchRefineNet {network.variant} written to {out}")
