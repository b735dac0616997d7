"""Training on several processes: how a batch is divided, what is exchanged, how they start."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import Sampler

from segmend.errors import SegmendError


class ShardedBatches(Sampler[list[int]]):
    """The batches of one process: every `world`-th image of each batch, from its `rank`-th on.

    All processes together see the batches that one process would. Where a batch has too few images
    for all, a process without one takes the first, with a `share` of 0.

    Args:
        sampler: gives the order of all images; its `set_epoch` is called by Lightning.
    """

    def __init__(
        self, sampler: Sampler[int], *, batch_size: int, drop_last: bool, rank: int, world: int
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]  # torch leaves it to the subclasses
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield batch[self.rank :: self.world] or batch[:1]

    def share(self, number: int) -> float:
        """Images of this process in a batch, over the mean of all processes.

        Times this, the process's mean loss averages to the batch's mean over its images.
        """
        count = len(self.sampler)  # type: ignore[arg-type]
        size = min(self.batch_size, count - number * self.batch_size)
        mine = len(range(self.rank, size, self.world))
        return mine * self.world / size


def processes() -> int:
    """How many processes train together; 1 outside of training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a value that each process has."""
    return sum_over_processes(value) / processes()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a value that each process has; its own where there is one process."""
    if processes() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total


def gathered_losses(losses: list[Tensor]) -> list[Tensor]:
    """All processes' losses of images that were dealt out in turn, in the images' order."""
    if processes() == 1:
        return losses
    found: list[Any] = [None] * processes()
    distributed.all_gather_object(found, [float(loss) for loss in losses])
    device = losses[0].device if losses else torch.device("cpu")
    longest = max(len(part) for part in found)
    order = [part[i] for i in range(longest) for part in found if i < len(part)]
    return list(torch.tensor(order, dtype=torch.float64, device=device))


def same_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers: running means of a batch norm may differ."""
    if processes() == 1:
        return
    for buffer in model.buffers():
        distributed.broadcast(buffer, src=0)


def launch(work: Callable[[int, int], None], count: int, *, accelerator: str) -> None:
    """Run `work(rank, count)` in so many new processes that know of each other.

    Args:
        work: and all that it holds must be picklable. A script that calls this needs Python's
            usual `if __name__ == "__main__":`, since new processes import it.
        accelerator: "cpu" divides this process's threads.
    Raises:
        SegmendError: `work` cannot be pickled, or raised one.
        RuntimeError: any other error of a process, with its traceback.
    """
    from torch.multiprocessing.spawn import ProcessException, start_processes

    try:
        payload = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SegmendError(
            f"devices: {count} processes want a model, data and losses that can be pickled "
            f"({error}); define them at a module's top level, or say devices=1"
        ) from error
    threads = max(1, torch.get_num_threads() // count) if accelerator == "cpu" else None
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (payload, count, _free_port(), threads, errors)
    # What torch's C++ says about parameters without a gradient is not for our users.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    context: Any = start_processes(  # type: ignore[no-untyped-call]
        _work, args=arguments, nprocs=count, join=False
    )
    try:
        while not context.join():
            pass
    except ProcessException as error:
        if not errors.empty():
            raise SegmendError(errors.get()) from None
        raise RuntimeError(str(error)) from error
    finally:
        for process in context.processes:
            process.terminate()


def _work(
    rank: int, payload: bytes, count: int, port: int, threads: int | None, errors: Any
) -> None:
    # Names that torch and Lightning look for: this process was started by someone else.
    places = {"LOCAL_RANK": rank, "RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count}
    os.environ |= {key: str(value) for key, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if threads is not None:
        torch.set_num_threads(threads)
    work: Callable[[int, int], None] = pickle.loads(payload)
    try:
        work(rank, count)
    except SegmendError as error:
        errors.put(str(error))
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
