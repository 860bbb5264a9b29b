"""Named random streams, derived from a seed and a position, never carried: evaluating cannot shift the training."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sparring.errors import InputError


def check_seed(seed: object) -> int:
    """The seed as an int, or an InputError that says what was expected: a whole number from 0 on, NumPy's too."""
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < 0:
        raise InputError(f"seed must be a whole number >= 0; got {seed!r}")
    return number


def check_seeds(seeds: object) -> list[int]:
    """The seeds as ints, at least one, or an InputError that says what was expected."""
    if not isinstance(seeds, Iterable) or isinstance(seeds, str | bytes):
        raise InputError(f"seeds must be a sequence of whole numbers, such as (0, 1, 2); got {seeds!r}")
    numbers = [check_seed(seed) for seed in seeds]
    if not numbers:
        raise InputError(f"seeds must be at least one whole number, such as (0, 1, 2); got {seeds!r}")
    return numbers


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


@contextmanager
def own_draws(device: torch.device) -> Iterator[Callable[[int], object]]:
    """PyTorch's own generators, of the processor and of a CUDA `device`, for a block that seeds them by what this yields; they
    are then put back where they stood. All threads of a process share them, so that blocks side by side disturb each other."""
    own = [torch.default_generator]
    if device.type == "cuda":
        own.append(torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index])
    before = [one.get_state() for one in own]

    def draw_from(seed: int) -> None:
        for one in own:
            one.manual_seed(seed)

    try:
        yield draw_from
    finally:
        for one, state in zip(own, before, strict=True):
            one.set_state(state)
