"""`Refiner`: fit to probability maps and masks, apply to maps, save, load."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import segmend
from segmend.errors import SegmendError
from segmend.refine.applying import apply_network, build_network
from segmend.refine.examples import collect_examples, limited_logits, logits_of
from segmend.refine.gate import Gate
from segmend.refine.guided import guided_filter
from segmend.refine.options import RefineOptions

if TYPE_CHECKING:
    from segmend.refine.cross_validation import Progress
    from segmend.refine.examples import Batches

WEIGHTS_FILE, DESCRIPTION_FILE = "refiner.safetensors", "refiner.json"

_UNKNOWN = float("nan")
OPEN = Gate(1.0, 0.0, 0.0, _UNKNOWN, 1.0, 0.0, _UNKNOWN, _UNKNOWN)
"""The gate of a refiner that was never judged: it acts fully and moves no threshold."""


class Refiner(nn.Module):
    """Mend a base model's probability maps.

    `refiner(probs)` takes float (N, C, H, W) in [0, 1] (and `images` where `needs_images`) and
    returns probabilities of the same shape. They are ready to use: for one channel
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

    @property
    def needs_images(self) -> bool:
        """Whether applying it takes images: its networks see them, or the gate's guide does."""
        return self.with_images or self.gate.guide is not None

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
            images: (N, 3, H, W) in [0, 1] or a folder: what they are for, `options.use_images`
                says; by default the gate tries guided filters of them.
            options: `RefineOptions()` is the bias field, `RefineOptions.published()` the paper.
            ignore_index: label of pixels that count for nothing.
            on_progress: called after every epoch.
        Raises:
            SegmendError: naming the file or index of bad input.
        """
        options = options or RefineOptions()
        from segmend.refine.cross_validation import fit_refiner

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
        if self.needs_images and images is None:
            raise SegmendError("images: this refiner was fitted with images; give them too")
        return self.refine_logits(logits, images if self.needs_images else None)

    def refine_logits(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """Refined probabilities from the base's logits, unchecked."""
        if self.gate.strength > 0:
            refined = self.refined_logits(logits, images if self.with_images else None)
            logits = torch.lerp(logits, refined, self.gate.strength)
        if self.gate.guide is not None and images is not None:
            logits = guided_filter(logits, images, self.gate.guide)
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
            gate = Gate.from_plain(description["gate"])
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
