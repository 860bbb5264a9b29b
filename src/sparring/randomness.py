"""Named random streams, derived from a seed and a position, never carried: evaluating cannot shift the training."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive(seed: int, name: str, *position: int) -> int:
    """63 bits that depend on all arguments: the first of SHA-256 over them."""
    text = "/".join([str(seed), name, *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream `name` at this position (epoch, step, ...)."""
    return torch.Generator(device).manual_seed(derive(seed, name, *position))


class Stream:
    """A stream that an attack draws from; the training loop moves it to each step's position.

    The same seed, name and position give the same draws, whatever was drawn before. With a sequence of seeds it serves a
    stack: copy s draws what it would alone.
    """

    def __init__(self, seed: int | Sequence[int], name: str) -> None:
        self.seed = seed
        self.name = name
        self._position: tuple[int, ...] = ()
        self._generators: list[torch.Generator] = []
        self._stale = True  # the generators stand at another position

    def seek(self, *position: int) -> None:
        """Go to a position, such as (epoch, step)."""
        self._position, self._stale = position, True
        if self._generators and self._generators[0].device.type == "cuda":
            self.generators(self._generators[0].device)  # now: a captured graph draws without asking

    @property
    def position(self) -> tuple[int, ...]:
        """Where it stands, such as (epoch, step)."""
        return self._position

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The generator at this position; a second call at the same position goes on where the first ended."""
        assert isinstance(self.seed, int), "a stack draws by `uniform`, one generator a copy"
        return self.generators(device)[0]

    def generators(self, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """One generator a copy, at this position; the same objects for as long as the device is the same."""
        seeds = [self.seed] if isinstance(self.seed, int) else self.seed
        if not self._generators or self._generators[0].device != torch.device(device):
            self._generators, self._stale = [torch.Generator(device) for _ in seeds], True
        if self._stale:
            for one, seed in zip(self._generators, seeds, strict=True):
                one.manual_seed(derive(seed, self.name, *self._position))
            self._stale = False
        return self._generators

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [-1, 1), of this tensor's shape: (S, ...) for a stack's stream, copy by copy."""
        drawn = torch.empty_like(like)
        if isinstance(self.seed, int):
            return drawn.uniform_(-1, 1, generator=self.generator(like.device))
        for part, one in zip(drawn, self.generators(like.device), strict=True):
            part.uniform_(-1, 1, generator=one)
        return drawn

    def keep(self, index: Sequence[int]) -> None:
        """Narrow a stack's stream to the copies at these indices."""
        assert not isinstance(self.seed, int)
        self.seed = [self.seed[i] for i in index]
        self._generators = [self._generators[i] for i in index] if self._generators else []

    def __repr__(self) -> str:
        return f"Stream(seed={self.seed}, name={self.name!r})"
