"""Named random streams, derived from a seed and a position, never carried: evaluating cannot shift the training."""

import hashlib

import torch


def derive(seed: int, name: str, *position: int) -> int:
    """63 bits that depend on all arguments: the first of SHA-256 over them."""
    text = "/".join([str(seed), name, *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream `name` at this position (epoch, step, ...)."""
    return torch.Generator(device).manual_seed(derive(seed, name, *position))


class Stream:
    """A stream that an attack draws from; the training loop moves it to each step's position.

    The same seed, name and position give the same draws, whatever was drawn before.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed = seed
        self.name = name
        self._position: tuple[int, ...] = ()
        self._generator: torch.Generator | None = None

    def seek(self, *position: int) -> None:
        """Go to a position, such as (epoch, step)."""
        self._position = position
        self._generator = None

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The generator at this position; a second call at the same position goes on where the first ended."""
        if self._generator is None or self._generator.device != torch.device(device):
            self._generator = generator(self.seed, self.name, *self._position, device=device)
        return self._generator

    def __repr__(self) -> str:
        return f"Stream(seed={self.seed}, name={self.name!r})"
