"""One fine-tuning in several processes, each with a share of every batch (started by torchrun)."""

import dataclasses
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from openvla_ros.core.strict_config import ConfigError


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Its number; 0 writes the folder and speaks.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Take leave of the others."""
        if self.count > 1:
            dist.destroy_process_group()


def join_processes(batch: int, device: torch.device) -> Processes:
    """Join the processes torchrun has started; alone where it has not.

    Args:
        batch: Examples of a step, of which each process takes an equal share.
        device: Where this process computes; of several GPUs each process takes its own.

    Raises:
        ConfigError: the batch cannot be shared equally.
    """
    count = int(os.environ.get('WORLD_SIZE', '1'))
    if count == 1:
        return Processes()
    if batch % count:
        raise ConfigError(f'--batch: got {batch}, expected a multiple of the {count} processes')
    if device.type == 'cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    return Processes(dist.get_rank(), count)
