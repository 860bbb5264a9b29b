"""Where the adversary left each training example last time, so that it can start there: many epochs' steps at the price of one's.

Letters: S copies, N training examples, D pixels, B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.randomness import generator

NAME = "warm"  # of its part of a checkpoint
LEVELS = 127  # a perturbation over its radius, in [-1, 1], is kept in steps of 1 / 127


class WarmStart:
    """A table of perturbations over their radii, (N, D), or (S, N, D) with a sequence of seeds; at first uniform at random.

    The training loop opens it at each minibatch's examples; the move then reads and writes those.
    """

    def __init__(
        self, n: int, shape: Sequence[int], seed: int | Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.shape = tuple(shape)
        seeds = [seed] if isinstance(seed, int) else seed
        n_pixels = int(torch.tensor(self.shape).prod())
        tables = [
            torch.randint(-LEVELS, LEVELS + 1, (n, n_pixels), dtype=torch.int8, generator=generator(one, NAME))
            for one in seeds
        ]
        self.table = (tables[0] if isinstance(seed, int) else torch.stack(tables)).to(device)
        self._index: Tensor | None = None

    def seek(self, index: Tensor) -> None:
        """Open it at a minibatch's examples, indices (B,) or (S, B)."""
        self._index = index.to(self.table.device)

    def read(self, n: int) -> Tensor:
        """Where the last n examples of the minibatch were left: (n, *shape) or (S, n, *shape), in [-1, 1]."""
        rows = self._rows(n)
        kept = self.table.flatten(0, -2).index_select(0, rows.flatten())
        return kept.view(*rows.shape, *self.shape).float().mul_(1 / LEVELS)

    def write(self, u: Tensor) -> None:
        """Keep where the minibatch's last examples, as many as these, are left now."""
        flat = u.detach().flatten(-len(self.shape))
        rows, levels = self._rows(flat.shape[-2]), (flat * LEVELS).round_().to(torch.int8)
        _by_words(self.table.flatten(0, -2)).index_copy_(0, rows.flatten(), _by_words(levels.flatten(0, -2)))

    def keep(self, index: Tensor) -> None:
        """Narrow a stack's table to the copies at these indices."""
        self.table = self.table[index.to(self.table.device)]

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs of it; live."""
        return {"table": self.table}

    def load(self, state: dict[str, Tensor]) -> None:
        self.table.copy_(state["table"])

    def _rows(self, n: int) -> Tensor:
        """Rows of the table with its copies one below the other, (n,) or (S, n)."""
        assert self._index is not None, "a warm start is opened by the training loop, at each minibatch"
        index = self._index[..., self._index.shape[-1] - n :]
        if index.ndim == 1:
            return index
        first = torch.arange(len(index), device=index.device) * self.table.shape[1]
        return index + first.unsqueeze(-1)


def _by_words(levels: Tensor) -> Tensor:
    """Rows of bytes as rows of eight bytes each, where they come out even: copied seven times as fast."""
    return levels if levels.shape[-1] % 8 else levels.view(torch.int64)
