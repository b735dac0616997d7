"""`Refiner`: fit to probability maps and masks, apply to maps, save, load."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segmend
from segmend.errors import SegmendError
from segmend.refine.examples import Example, collect_examples, limited_logits, logits_of
from segmend.refine.fitting import build_network, fit_network, pseudo_labels_of, run_network
from segmend.refine.gate import Gate, choose_gate
from segmend.refine.merge import merge
from segmend.refine.network import RefinedLogits
from segmend.refine.options import RefineOptions

if TYPE_CHECKING:
    from segmend.refine.examples import Batches

WEIGHTS_FILE, DESCRIPTION_FILE = "refiner.safetensors", "refiner.json"

_UNKNOWN = float("nan")
OPEN = Gate(1.0, 0.0, 0.0, _UNKNOWN, 1.0, 0.0, _UNKNOWN, _UNKNOWN)
"""The gate of a refiner that was never judged: it acts fully and moves no threshold."""


class Progress(NamedTuple):
    """Where fitting stands: network `network` of `networks`, `epochs` done of `of_epochs`."""

    network: int
    networks: int
    epochs: int
    of_epochs: int
    loss: float


class Refiner(nn.Module):
    """Mend a base model's probability maps.

    `refiner(probs)` takes float (N, C, H, W) in [0, 1] (and `images` if it was fitted with
    them) and returns probabilities of the same shape. They are ready to use: for one channel
    the mask is `refined > 0.5`, since the tuned threshold is already in them; for several it is
    their argmax. Where the gate is closed they are the base's own, moved to its best threshold.

    Build one with `Refiner.fit`, `Refiner.load`, or from networks of your own.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        options: RefineOptions,
        gate: Gate = OPEN,
        channels: int = 1,
        with_images: bool = False,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.options, self.gate = options, gate
        self.channels, self.with_images = channels, with_images
        self.eval()

    @classmethod
    def fit(
        cls,
        probs: Tensor | str | Path | Batches,
        masks: Tensor | str | Path | None = None,
        *,
        images: Tensor | str | Path | None = None,
        options: RefineOptions | None = None,
        ignore_index: int = 255,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Refiner:
        """Learn where the base's maps are wrong, and whether mending them helps.

        The maps must come from images that the base was not trained on: a validation split, or
        out-of-fold maps (`segmend train --folds`). Otherwise the refiner learns from errors that
        are smaller than those it will meet.

        Args:
            probs: (N, C, H, W) or (N, H, W) in [0, 1], a folder, a data set or a DataLoader; see
                `collect_examples`.
            masks: (N, H, W) labels or a folder; None where `probs` brings them along.
            images: (N, 3, H, W) in [0, 1] or a folder: the bias field then sees them too.
            options: `RefineOptions()` is the bias field, `RefineOptions.published()` the paper.
            ignore_index: label of pixels that count for nothing.
            on_progress: called after every epoch.
        Raises:
            SegmendError: naming the file or index of bad input.
        """
        options = options or RefineOptions()
        examples = collect_examples(probs, masks, images, ignore_index=ignore_index)
        return fit_refiner(examples, options, on_progress=on_progress)

    @torch.inference_mode()
    def forward(self, probs: Tensor, images: Tensor | None = None) -> Tensor:
        """Refined probabilities; see the class."""
        logits = logits_of(probs)
        if logits.shape[1] != self.channels:
            raise SegmendError(
                f"probs: this refiner was fitted to maps of {self.channels} channel(s), got "
                f"{logits.shape[1]}"
            )
        if self.with_images and images is None:
            raise SegmendError("images: this refiner was fitted with images; give them too")
        return self.refine_logits(logits, images if self.with_images else None)

    def refine_logits(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """Refined probabilities from the base's logits, unchecked."""
        if self.gate.is_open:
            refined = self.refined_logits(logits, images)
            logits = torch.lerp(logits, refined, self.gate.strength)
        if self.channels > 1:
            return logits.softmax(1)
        return (logits - self.gate.threshold).sigmoid()

    def refined_logits(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """Mean output of the networks at full strength, before the gate; shapes as `logits`."""
        outputs = [
            apply_network(network, logits, images, self.options) for network in self.networks
        ]
        return torch.stack(outputs).mean(0)

    def save(self, folder: str | Path) -> Path:
        """Write `refiner.safetensors` and `refiner.json` into `folder`; returns the folder."""
        from safetensors.torch import save_file

        from segmend.data.files import atomic_write

        folder = Path(folder)
        description = {
            "segmend": segmend.__version__,
            "networks": len(self.networks),
            "channels": self.channels,
            "with_images": self.with_images,
            "options": self.options.model_dump(),
            "gate": asdict(self.gate),
        }
        weights = {k: v.contiguous() for k, v in self.networks.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as path:
            save_file(weights, path)
        with atomic_write(folder / DESCRIPTION_FILE) as path:
            path.write_text(json.dumps(description, indent=2) + "\n", "utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Refiner:
        """Read what `save` wrote.

        Raises:
            SegmendError: a file is missing, damaged, or does not fit the other.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION_FILE).read_text("utf-8"))
            options = RefineOptions.model_validate(description["options"])
            channels, with_images = description["channels"], description["with_images"]
            gate = Gate(**description["gate"])
            networks = [
                build_network(options, channels=channels, with_images=with_images)
                for _ in range(description["networks"])
            ]
            refiner = cls(
                networks, options=options, gate=gate, channels=channels, with_images=with_images
            )
            refiner.networks.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise SegmendError(
                f"{folder}: want a refiner ({DESCRIPTION_FILE} and {WEIGHTS_FILE} from "
                f"`segmend refine fit`), but reading it failed: {error}"
            ) from error
        return refiner.eval()


class RefinerGraph(nn.Module):
    """A refiner without its checks of input values, so that it can be traced and exported."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.refiner = refiner

    def forward(self, probs: Tensor, images: Tensor | None = None) -> Tensor:
        """As `Refiner.forward`."""
        return self.refiner.refine_logits(limited_logits(probs), images)


def apply_network(
    network: nn.Module, logits: Tensor, images: Tensor | None, options: RefineOptions
) -> Tensor:
    """One network's refined logits (N, C, H, W), resized and merged as `options` say."""
    size = logits.shape[-2:]
    if options.resize is not None:
        logits = _resized(logits, (options.resize, options.resize))
        images = None if images is None else _resized(images, (options.resize, options.resize))
    output = run_network(network, logits, images)
    if isinstance(output, RefinedLogits):
        output = merge(output, rule="global" if output.local is None else options.merge)
        if output.shape[1] > 1:
            output = F.logsigmoid(output)  # one class against the rest, on log p's scale
    return _resized(output, size) if options.resize is not None else output


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def fit_refiner(
    examples: Sequence[Example],
    options: RefineOptions,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Refiner:
    """`Refiner.fit` on examples that are already in memory."""
    channels, with_images = examples[0].logits.shape[0], examples[0].image is not None
    if options.resize is not None:
        examples = [_resized_example(e, options.resize) for e in examples]
    pseudo = pseudo_labels_of(examples, options)
    folds = split_folds(len(examples), options.folds, seed=options.seed)
    networks: list[nn.Module] = []
    unseen: dict[int, Tensor] = {}
    for number, held_out in enumerate(folds):

        def report(epochs: int, loss: float, number: int = number) -> None:
            if on_progress is not None:
                on_progress(Progress(number + 1, len(folds), epochs, options.epochs, loss))

        kept = [i for i in range(len(examples)) if i not in held_out]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed * 1000 + number)  # of the initial weights
            network = build_network(options, channels=channels, with_images=with_images)
        fit_network(
            network,
            [examples[i] for i in kept],
            [pseudo[i] for i in kept],
            options,
            seed=options.seed * 1000 + number,
            on_epoch=report,
        )
        networks.append(network)
        for index in sorted(held_out):
            unseen[index] = _refine_example(network, examples[index], options)
    gate = OPEN
    if unseen:
        order = sorted(unseen)
        gate = choose_gate(
            [examples[i].logits for i in order],
            [unseen[i] for i in order],
            [examples[i].labels for i in order],
            task=options.task,
            confidence=options.gate_confidence,
            seed=options.seed,
        )
    return Refiner(networks, options=options, gate=gate, channels=channels, with_images=with_images)


def split_folds(count: int, folds: int, *, seed: int) -> list[set[int]]:
    """Which examples each network does not see: `folds` parts, or one empty part for none."""
    folds = min(folds, count)
    if folds < 2:
        return [set()]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [set(order[k::folds]) for k in range(folds)]


@torch.inference_mode()
def _refine_example(network: nn.Module, example: Example, options: RefineOptions) -> Tensor:
    image = None if example.image is None else example.image.float().unsqueeze(0) / 255
    logits = example.logits.float().unsqueeze(0)
    inner = options.model_copy(update={"resize": None})  # examples are resized already
    return apply_network(network, logits, image, inner)[0].half()


def _resized_example(example: Example, side: int) -> Example:
    """Bilinear for maps and images, nearest for labels: an ignored pixel stays ignored."""
    logits = _resized(example.logits.float().unsqueeze(0), (side, side))[0].half()
    labels = F.interpolate(example.labels[None, None].float(), size=(side, side), mode="nearest")
    image = example.image
    if image is not None:
        image = _resized(image.float().unsqueeze(0), (side, side))[0].round().to(torch.uint8)
    return Example(example.name, logits, labels[0, 0].to(torch.uint8), image)
