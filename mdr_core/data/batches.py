"""Choose the images of each training batch."""

import torch
from torch import Tensor

from mdr_core.errors import StudyError


class BalancedBatches:
    """Batches of m random images a class (or all it has), of as many random classes as it takes.

    ``labels``: (N,). StudyError: it cannot hold two images of a class, or classes cannot fill it.
    """

    def __init__(self, labels: Tensor, batch_size: int, images_per_class: int):
        self.batch_size, self.images_per_class = batch_size, images_per_class
        self.members = [(labels == c).nonzero().flatten().cpu() for c in labels.unique()]
        if images_per_class < 2 or batch_size < 2:
            raise StudyError("batch_size and images_per_class must be 2 or more, for pairs")
        available = sum(min(images_per_class, len(members)) for members in self.members)
        if available < batch_size:
            why = f"{available} images, {images_per_class} of each training class, are too few"
            raise StudyError(f"{why} for a batch: set batch_size to at most {available}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return indices into the training set: (count, batch_size), int64, on the CPU."""
        chosen = []
        for _ in range(count):
            missing = self.batch_size
            for c in torch.randperm(len(self.members), generator=generator).tolist():
                order = torch.randperm(len(self.members[c]), generator=generator)
                chosen.append(self.members[c][order[: min(self.images_per_class, missing)]])
                missing -= len(chosen[-1])
                if not missing:
                    break
        return torch.cat(chosen).view(count, self.batch_size)
