"""The loop: its order, its streams, its records, and each of its ends."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.adversaries import Adversary
from sparring.attacks import PGD, Noise
from sparring.config import Training
from sparring.data.batches import Data
from sparring.errors import Diverged
from sparring.game import Epoch, Metrics, Player, Progress, against, alternating, best_response, duel, player, train
from sparring.models import mlp
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE = (1, 4, 4)
THREAT = ThreatModel(0.2, SHAPE)
C = 4


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, *SHAPE, generator=generator)
    return Data(x, (x.flatten(1).sum(-1) * 3).long() % C, C, "random")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def players(**settings: Any) -> tuple[Player, Player]:
    learning: dict[str, Any] = {"lr": 0.05, "rate": "constant"} | settings
    adversary = Adversary(mlp(SHAPE, [8, 16], generator=seeded(2)))
    defender = mlp(SHAPE, [8, C], generator=seeded(1))
    return (
        player("adversary", adversary, maximize=True, **learning),
        player("defender", defender, maximize=False, **learning),
    )


def scripted(losses: list[float], player: Player) -> Any:
    """A move that steps nobody and reports this loss in the n-th epoch (one step an epoch)."""
    left = iter(losses)

    def move(x: Tensor, y: Tensor) -> Metrics:
        return {f"{player.name}_loss": torch.tensor(next(left))}

    return move


def epochs_until_stop(losses: list[float], data: Data, *, who: int = 1, rate: Any = "constant", **settings: Any) -> Any:
    one = players(lr=1.0, rate=rate, every=1)[who]
    seen: list[Epoch] = []
    defaults: dict[str, Any] = {"batch_size": 50, "max_epochs": 30, "patience": 3, "flat": 0.01, "min_lr": 0.0}
    progress = train(
        scripted(losses, one),
        data,
        [one],
        Training(**(defaults | settings)),
        seed=0,
        on_epoch=lambda epoch, progress: seen.append(epoch),
    )
    assert progress.epoch == len(seen)
    return progress, seen


def test_it_stops_once_the_best_loss_has_been_flat_for_patience_epochs(data: Data) -> None:
    # 0.995 is less than one per cent below 1.0, so it is no new best; 0.98 is
    progress, _ = epochs_until_stop([2.0, 1.0, 0.995, 1.5, 0.98, 0.979, 0.978, 0.977, 0.0], data)
    assert progress.epoch == 8 and progress.stopped == "loss flat for 3 epochs"
    assert progress.best == pytest.approx(0.98)


def test_an_adversary_is_flat_when_its_loss_no_longer_rises(data: Data) -> None:
    progress, _ = epochs_until_stop([1.0, 2.0, 3.0, 2.9, 2.0, 1.0, 9.0], data, who=0)
    assert progress.epoch == 6 and "flat" in progress.stopped


def test_it_stops_after_max_epochs(data: Data) -> None:
    progress, seen = epochs_until_stop([math.exp(-k) for k in range(30)], data, max_epochs=4)
    assert progress.stopped == "4 epochs" and [e.epoch for e in seen] == [1, 2, 3, 4]


def test_it_stops_once_every_rate_is_below_min_lr(data: Data) -> None:
    progress, seen = epochs_until_stop([math.exp(-k) for k in range(30)], data, rate="every", min_lr=0.2)
    assert progress.epoch == 3 and progress.stopped == "learning rate below 0.2"
    assert [e.rates["defender"] for e in seen] == [1.0, 0.5, 0.25]  # the rates that the epochs were trained with


def test_the_rate_is_halved_after_the_epoch_in_which_the_loss_rose(data: Data) -> None:
    _, seen = epochs_until_stop([3.0, 2.0, 2.5, 2.4, 2.6, 2.0], data, rate="rise", max_epochs=6, patience=10)
    assert [e.rates["defender"] for e in seen] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_an_adversarys_rate_is_halved_when_its_loss_falls(data: Data) -> None:
    _, seen = epochs_until_stop([1.0, 2.0, 1.5, 1.6], data, who=0, rate="rise", max_epochs=4, patience=10)
    assert [e.rates["adversary"] for e in seen] == [1.0, 1.0, 1.0, 0.5]


def test_a_training_that_has_stopped_does_not_go_on(data: Data) -> None:
    def move(x: Tensor, y: Tensor) -> Metrics:
        raise AssertionError

    one = players()[1]
    progress = Progress(epoch=3, stopped="3 epochs")
    assert train(move, data, [one], Training(), seed=0, progress=progress) is progress


def run(data: Data, seed: int, epochs: int = 3, noise_seed: int = 0) -> tuple[list[Epoch], list[Tensor]]:
    adversary, defender = players()
    stream = Stream(noise_seed, "attack")
    game = duel(defender, adversary, THREAT, alternating())
    noisy = against(defender, PGD(THREAT, steps=2, stream=stream))
    seen: list[Epoch] = []

    def move(x: Tensor, y: Tensor) -> Metrics:
        return noisy(x, y) | game(x, y)

    settings = Training(batch_size=16, max_epochs=epochs, patience=99, min_lr=0.0)
    train(
        move,
        data,
        (adversary, defender),
        settings,
        seed=seed,
        streams=[stream],
        on_epoch=lambda epoch, progress: seen.append(epoch),
    )
    return seen, [p.detach().clone() for n in (adversary, defender) for p in n.network.state_dict().values()]


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone(data: Data) -> None:
    first, weights = run(data, 3)
    state = torch.get_rng_state()
    again, same = run(data, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(9)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert [e.means for e in first] == [e.means for e in again]
    for other in (run(data, 4), run(data, 3, noise_seed=1)):
        assert not all(torch.equal(a, b) for a, b in zip(weights, other[1], strict=True))


def test_each_epoch_meets_every_example_once_in_an_order_of_its_own(data: Data) -> None:
    numbered = Data(torch.arange(50.0).view(50, 1) / 50, torch.arange(50) % 2, 2, "numbered")
    one = players()[1]
    met: list[list[int]] = []

    def move(x: Tensor, y: Tensor) -> Metrics:
        met.append((x[:, 0] * 50).round().long().tolist())
        return {"defender_loss": torch.tensor(1.0 / len(met))}

    train(move, numbered, [one], Training(batch_size=10, max_epochs=2, min_lr=0.0), seed=5)
    assert len(met) == 10
    first, second = ([n for batch in part for n in batch] for part in (met[:5], met[5:]))
    assert sorted(first) == sorted(second) == list(range(50)) and first != second


def test_streams_stand_at_the_position_of_each_step_whatever_was_drawn_before(data: Data) -> None:
    stream = Stream(0, "attack")
    drawn: list[list[float]] = []

    def move(x: Tensor, y: Tensor) -> Metrics:
        drawn.append(torch.rand(2, generator=stream.generator()).tolist())
        torch.rand(len(drawn), generator=stream.generator())
        return {"defender_loss": torch.tensor(0.5 ** len(drawn))}

    train(move, data, [players()[1]], Training(batch_size=25, max_epochs=2, min_lr=0.0), seed=0, streams=[stream])
    for number, values in enumerate(drawn):
        stream.seek(number // 2, number % 2)
        assert torch.rand(2, generator=stream.generator()).tolist() == values
    assert len({tuple(values) for values in drawn}) == 4


def test_an_epoch_reports_the_means_of_its_steps(data: Data) -> None:
    adversary, defender = players()
    each: list[Metrics] = []
    inner = duel(defender, adversary, THREAT, alternating())

    def move(x: Tensor, y: Tensor) -> Metrics:
        each.append(inner(x, y))
        return each[-1]

    seen: list[Epoch] = []
    positions: list[tuple[int, int]] = []
    train(
        move,
        data,
        (adversary, defender),
        Training(batch_size=16, max_epochs=1),
        seed=0,
        on_step=lambda progress: positions.append((progress.epoch, progress.step)),
        on_epoch=lambda epoch, progress: seen.append(epoch),
    )
    assert seen[0].steps == 3 == len(each) and positions == [(0, 1), (0, 2), (0, 3)]
    for name in ("defender_loss", "adversary_loss", "clean_accuracy", "perturbed_accuracy", "clipped"):
        assert seen[0].means[name] == pytest.approx(sum(float(m[name]) for m in each) / 3, abs=1e-6)
    assert all(value > 0 for value in seen[0].grad_norms.values()) and set(seen[0].rates) == {"adversary", "defender"}


@pytest.mark.parametrize("who", ["defender", "adversary"])
def test_a_training_that_diverges_says_who_and_where_and_has_not_taken_the_step(who: str, data: Data) -> None:
    adversary, defender = players()
    learner = defender if who == "defender" else adversary
    count = 0

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        value = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        return value * float("nan") if count == 5 else value

    move = (
        against(defender, Noise(THREAT), loss=loss)
        if who == "defender"
        else best_response(adversary, defender.network, THREAT, loss=loss)
    )
    at_step: list[list[Tensor]] = []
    with pytest.raises(Diverged, match=rf"epoch 2, step 2: the {who}'s .* is not finite") as error:
        train(
            move,
            data,
            [learner],
            Training(batch_size=16, max_epochs=9),
            seed=0,
            on_step=lambda progress: at_step.append([p.detach().clone() for p in learner.network.parameters()]),
        )
    assert "learning rate" in str(error.value)
    assert len(at_step) == 4
    assert all(torch.equal(a, b) for a, b in zip(at_step[-1], learner.network.parameters(), strict=True))


def test_training_lowers_the_defenders_loss(data: Data) -> None:
    seen, _ = run(data, 0, epochs=8)
    assert seen[-1].means["defender_loss"] < seen[0].means["defender_loss"] - 0.05
