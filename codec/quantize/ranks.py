"""Statistics over all processes of a distributed run; alone, each of these gives back what it got.

>>> sum_over_ranks([torch.ones(2)])
[tensor([1., 1.])]
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def count_ranks() -> int:
    """Processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor summed over the ranks, in one message; shapes and types are the same on all ranks."""
    if count_ranks() == 1 or not tensors:
        return tensors
    flat = torch.cat([x.flatten() for x in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [x.numel() for x in tensors])
    return [part.view_as(x) for part, x in zip(parts, tensors, strict=True)]


def same_on_ranks(x: Tensor) -> Tensor:
    """Rank 0's tensor, everywhere; the shape is the same on all ranks."""
    if count_ranks() == 1:
        return x
    x = x.contiguous()
    dist.broadcast(x, 0)
    return x


def gather_ranks(x: Tensor) -> Tensor:
    """The rows of all ranks, everywhere, rank 0's first: (N, D) -> (ranks * N, D); N is the same on all ranks."""
    if count_ranks() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count_ranks())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
