"""When a step is launched, recorded and replayed; the recording itself needs a GPU (tests/gpu)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.config import Training
from sparring.data.batches import Data
from sparring.game import captured, player, train
from sparring.game.captured import WARM_UP, Captured
from sparring.game.unrolled import learns_at
from sparring.models import mlp


class Replays:
    """In a graph's place: counts."""

    def __init__(self) -> None:
        self.n = 0

    def replay(self) -> None:
        self.n += 1


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is recorded, in order; launching and recording are told apart from replaying, and nothing needs a device."""
    made: list[Any] = []

    def record(self: Captured, index: Tensor) -> Any:
        made.append(captured._Recorded(Replays(), index.clone(), {"of": index.clone()}))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(Captured, "_eager", lambda self, index: self.step(index))
    monkeypatch.setattr(Captured, "_record", record)
    return made


def test_each_course_of_a_step_is_launched_a_few_times_then_recorded_once_and_replayed(recorded: list[Any]) -> None:
    launched: list[int] = []

    def step(index: Tensor) -> dict[str, Tensor]:
        launched.append(int(index[0]))
        return {}

    play = Captured(step)
    for number in range(40):
        play(torch.tensor([number]), learns_at(number, 8))
    learning = [number for number in range(40) if number % 8 == 0]
    others = [number for number in range(40) if number % 8]
    assert sorted(launched) == sorted([*learning[:WARM_UP], *others[:WARM_UP]])
    assert [one.graph.n for one in recorded] == [len(others) - WARM_UP, len(learning) - WARM_UP]
    assert [int(one.rows[0]) for one in recorded] == [others[-1], learning[-1]]  # the indices that a replay reads


def test_a_training_tells_the_course_of_every_step() -> None:
    data = Data(torch.rand(40, 1, 2, 2), torch.arange(40) % 3, 3, "random")
    defender = player("defender", mlp(data.shape, [3]), maximize=False)
    asked: list[int] = []

    def move(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"defender_loss": torch.tensor(1.0)}

    train(
        move,
        data,
        [defender],
        Training(max_epochs=2, batch_size=10),
        seed=0,
        course=lambda step: asked.append(step),
    )
    assert asked == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(("every", "learning"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (4, [0, 4])])
def test_an_adversary_learns_at_the_first_step_and_every_so_many(every: int, learning: list[int]) -> None:
    assert [step for step in range(6) if learns_at(step, every)] == learning
