"""The recurrent game's move: warm starts, drawn radii, and who learns when and from what."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pursuits import SHAPE, THREAT, B, C, N, S, Table, adversary_of, defender_of, eps_of, equal, parameters, seeded
from torch import Tensor, nn

from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.game import Metrics, player, pursuit
from sparring.game.moves import SAMPLED
from sparring.game.radii import Radii
from sparring.game.warm import WarmStart
from sparring.losses import cross_entropy, margin
from sparring.models import copy_to, mlp, stack
from sparring.randomness import Stream


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Images of which many pixels stand at an end of the pixel range."""
    x = 1.6 * torch.rand(B, *SHAPE, generator=seeded(3), dtype=torch.float64) - 0.3
    return x.clamp(0, 1), torch.arange(B) % C


@pytest.mark.parametrize(("every", "turns"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (4, [0, 4]), (0, [])])
def test_the_adversary_learns_on_one_minibatch_in_so_many_by_the_streams_position(
    every: int, turns: list[int], batch: tuple[Tensor, Tensor]
) -> None:
    table, learned = Table(every=every), []
    for step in range(6):
        before, defender = parameters(table.adversary), parameters(table.defender)
        table.play(*batch, 3, step)
        if not equal(before, parameters(table.adversary)):
            learned.append(step)
        assert not equal(defender, parameters(table.defender))
    assert learned == turns
    assert all(p.requires_grad for p in table.adversary.network.parameters())


@pytest.mark.parametrize("warm", [False, True])
def test_the_defender_trains_on_what_was_found_before_the_adversary_learned(
    warm: bool, batch: tuple[Tensor, Tensor]
) -> None:
    learning, still = Table(every=1, warm=warm), Table(every=0, warm=warm)
    metrics = [table.play(*batch, 0, 0) for table in (learning, still)]
    assert not equal(parameters(learning.adversary), parameters(still.adversary))
    assert torch.equal(learning.trained_on, still.trained_on)
    assert equal(parameters(learning.defender), parameters(still.defender))
    assert metrics[0] == metrics[1]
    for table in (learning, still):
        table.play(*batch, 0, 1)
    assert not torch.equal(learning.trained_on, still.trained_on)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("low", [0.01, None])
def test_perturbed_examples_stay_in_their_own_ball_and_the_pixel_range(
    warm: bool, low: float | None, batch: tuple[Tensor, Tensor]
) -> None:
    table, again, (x, y) = Table(low=low, warm=warm, every=1), Stream(5, "radii"), batch
    for step in range(4):
        table.play(x, y, 0, step)
        again.seek(0, step)
        radius = torch.as_tensor(Radii(0.2, low, again).aim(THREAT, y).eps).double().expand(B)
        share = THREAT.distance(table.trained_on, x) / radius
        assert float(share.max()) <= 1 + 1e-9 and float(share.min()) > 0.5
        assert float(table.trained_on.min()) >= 0 and float(table.trained_on.max()) <= 1


def test_the_clean_share_of_a_split_batch_is_met_as_it_is_and_the_rest_in_its_own_balls(
    batch: tuple[Tensor, Tensor],
) -> None:
    table, (x, y) = Table(low=0.01, warm=True, mix="split", clean_share=0.25), batch
    assert table.warm is not None
    before = table.warm.table.clone()
    table.play(x, y, 0, 0)
    assert torch.equal(table.trained_on[:4], x[:4])
    again = Stream(5, "radii")
    again.seek(0, 0)
    radius = eps_of(Radii(0.2, 0.01, again).aim(THREAT, y[4:])).double()
    distance = THREAT.distance(table.trained_on[4:], x[4:])
    assert bool((distance <= radius + 1e-9).all()) and bool((distance > radius / 2).all())
    changed = (table.warm.table != before).any(-1)
    assert changed.tolist() == [False] * 8 + [True] * 8  # 4 are clean, and 4 have radii too small for a query


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("every", [0, 1])
def test_the_defender_is_asked_in_evaluation_mode_and_trained_once(
    every: int, queries: int, batch: tuple[Tensor, Tensor]
) -> None:
    table, (x, y) = Table(adversary=adversary_of(queries), every=every, warm=True), batch
    other = copy.deepcopy(table.defender.network).train()
    table.play(x, y, 0, 0)
    asked = queries + every  # where the adversary learns, once more at the end
    assert [(training, len(x)) for training, x in table.shown] == [(False, B)] * asked + [(True, 2 * B)]
    other(torch.cat((x, table.trained_on)))
    assert equal(list(table.defender.network.buffers()), list(other.buffers()))


@pytest.mark.parametrize("every", [0, 1])
def test_sparing_the_defender_is_asked_about_the_larger_radii_only(every: int, batch: tuple[Tensor, Tensor]) -> None:
    table, (x, y) = Table(low=0.0, every=every, warm=True), batch
    table.play(x, y, 0, 0)
    sizes = [len(x) for training, x in table.shown if not training]
    assert sizes == [B - 5, B - 11] + [B] * every  # a third without a query, a third with one
    full = Table(low=0.0, every=every, warm=True, sparing=False)
    full.play(x, y, 0, 0)
    assert torch.allclose(full.trained_on[11:], table.trained_on[11:], atol=1e-9)
    assert float((full.trained_on - table.trained_on)[:11].abs().amax((1, 2, 3)).min()) > 0


@pytest.mark.parametrize("training", [False, True])
def test_a_move_leaves_modes_and_flags_as_they_were(training: bool, batch: tuple[Tensor, Tensor]) -> None:
    table = Table(every=1)
    networks = (table.defender.network.train(training), table.adversary.network.train(training))
    table.play(*batch, 0, 0)
    for network in networks:
        assert all(m.training is training for m in network.modules())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_an_adversary_that_would_help_the_defender_is_refused() -> None:
    helper = player("adversary", RecurrentAdversary(SHAPE), maximize=False)
    with pytest.raises(ValueError, match="must maximise"):
        Table(adversary=helper)


def test_a_moves_metrics_are_those_of_a_game(batch: tuple[Tensor, Tensor]) -> None:
    names = {"adversary_loss", "defender_loss", "perturbed_accuracy", "clipped"}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {"clean_accuracy"}),
        ({"mix": "split", "clean_share": 0.0}, set()),
    ]
    for settings, more in cases:
        metrics = Table(every=1, **settings).play(*batch, 0, 0)
        assert set(metrics) == names | more
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_the_metrics_are_of_what_the_defender_trained_on(batch: tuple[Tensor, Tensor]) -> None:
    table, (x, y) = Table(every=1, loss=margin, adversary_loss=cross_entropy), batch
    other = copy.deepcopy(table.defender.network).train()
    metrics = table.play(x, y, 0, 0)
    x_adv = table.trained_on
    logits = other(torch.cat((x, x_adv))).detach()
    right = (logits.argmax(-1) == y.repeat(2)).double()
    expected = {
        "adversary_loss": cross_entropy(logits[B:], y).mean(),
        "defender_loss": margin(logits, y.repeat(2)).mean(),
        "clean_accuracy": right[:B].mean(),
        "perturbed_accuracy": right[B:].mean(),
        "clipped": ((x_adv == 0) | (x_adv == 1)).double()[::SAMPLED].mean(),
    }
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), abs=1e-6), name
    assert 0 < float(metrics["clipped"]) < 1 and B > SAMPLED


def test_with_a_warm_start_the_second_visit_starts_where_the_first_ended(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), table = batch, Table(warm=True, every=0)
    first = Table(warm=False, every=0)
    starts, ends = [], []
    for step in range(3):
        table.play(x, y, 0, step)
        starts.append(table.shown[0][1])
        ends.append(table.trained_on)
    for k in (1, 2):
        assert float((starts[k] - ends[k - 1]).abs().max()) <= 0.2 / 254 + 1e-6
        assert float((ends[k] - starts[k]).abs().max()) > 0.1  # and it goes on
    first.play(x, y, 0, 1)
    assert float((first.shown[0][1] - ends[0]).abs().max()) > 0.1


def test_without_a_warm_start_each_step_starts_at_a_point_that_its_position_draws(batch: tuple[Tensor, Tensor]) -> None:
    table, starts = Table(every=0, low=0.01, sparing=False), []
    for step in (0, 1, 0):
        table.play(*batch, 0, step)
        starts.append(table.shown[0][1])
    assert torch.equal(starts[0], starts[2]) and not torch.equal(starts[0], starts[1])
    other = Stream(5, "attack")
    other.seek(0, 0)
    radius = Stream(5, "radii")
    radius.seek(0, 0)
    aimed = Radii(0.2, 0.01, radius).aim(THREAT, batch[1])
    assert torch.equal(starts[0], aimed.moved(batch[0], other.uniform(batch[0])))


@pytest.mark.parametrize("hidden", [0, 4])
def test_an_adversary_that_learns_comes_to_find_more_against_a_defender_that_stands(
    hidden: int, batch: tuple[Tensor, Tensor]
) -> None:
    losses = {}
    for every in (0, 1):
        linear = mlp(SHAPE, [C], generator=seeded(1)).double()
        stands = player("defender", linear, maximize=False, lr=1e-9)
        table = Table(defender=stands, adversary=adversary_of(hidden=hidden, step=0.1), low=0.05, every=every)
        losses[every] = [float(table.play(*batch, 0, 0)["adversary_loss"]) for _ in range(40)]
    assert losses[1][0] == losses[0][0]
    assert losses[1][-1] > losses[1][0] + 0.05 and losses[0][-1] == pytest.approx(losses[0][0], abs=1e-5)


def test_the_adversary_climbs_the_loss_it_is_given_at_its_end(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network = RecurrentAdversary(SHAPE, queries=1, step=0.3).double()
    climber = player("adversary", network, maximize=True, lr=0.1, momentum=0.0, weight_decay=0.0)
    defender = defender_of()
    table = Table(defender=defender, adversary=climber, adversary_loss=margin, every=1)
    model, before = copy.deepcopy(defender.network).eval(), parameters(climber)
    start = Stream(5, "attack")
    start.seek(0, 0)
    u = start.uniform(x)
    point = (x + 0.2 * u).clamp(0, 1).requires_grad_()
    p = model(point).softmax(-1)[torch.arange(B), y]
    (g,) = torch.autograd.grad(((1 - p) / p).log().sum(), point)
    g = (g / g.abs().mean((1, 2, 3), keepdim=True)).clamp(-4, 4)
    table.play(x, y, 0, 0)
    # by hand, for the gradient's weight and the step size
    weight, log_step = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, float(before[2])))
    end = (u + log_step.exp() * (weight * g).clamp(-1, 1)).clamp(-1, 1)
    value = margin(model((x + 0.2 * end).clamp(0, 1)), y).mean()
    slopes = torch.autograd.grad(value, (weight, log_step))
    after = {name: p.detach() for name, p in network.named_parameters()}
    assert float(after["weight"][0]) == pytest.approx(2 + 0.1 * float(slopes[0]), abs=1e-9)
    assert float(after["log_step"][0]) == pytest.approx(float(log_step.detach()) + 0.1 * float(slopes[1]), abs=1e-9)
    assert all(abs(float(slope)) > 1e-4 for slope in slopes)


@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("warm", [False, True])
def test_a_stack_of_three_games_equals_the_three_games(warm: bool, hidden: int) -> None:
    seeds = [1, 2, 3]
    x = torch.rand(6, S, B, *SHAPE, generator=seeded(4), dtype=torch.float64)
    y = torch.randint(C, (6, S, B), generator=seeded(5))
    index = torch.stack([torch.randperm(N, generator=seeded(s))[: 2 * B].view(2, B) for s in seeds], 1)  # (2, S, B)

    def game(
        defender: nn.Module, adversary: nn.Module, seed: int | list[int]
    ) -> tuple[Callable[[int, int | None], Metrics], WarmStart | None]:
        n_copies = None if isinstance(seed, int) else S
        table = WarmStart(N, SHAPE, seed) if warm else None
        streams = Stream(seed, "attack"), Stream(seed, "radii")
        rates: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.0, "n_copies": n_copies}
        move = pursuit(
            player("defender", defender, maximize=False, **rates),
            player("adversary", adversary, maximize=True, **rates),
            THREAT,
            Radii(0.2, 0.05, streams[1]),
            streams[0],
            warm=table,
            every=2,
        )

        def play(step: int, s: int | None) -> Metrics:
            for stream in streams:
                stream.seek(0, step)
            at: Any = slice(None) if s is None else s
            if table:
                table.seek(index[step % 2][at])
            return move(x[step][at], y[step][at])

        return play, table

    defenders: list[nn.Module] = [mlp(SHAPE, [8, C], generator=seeded(s)).double() for s in seeds]
    adversaries = []
    for s in seeds:
        network = RecurrentAdversary(SHAPE, hidden=hidden, step=0.2 * s, generator=seeded(s)).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=seeded(s), dtype=parameter.dtype))
        adversaries.append(network)
    before = [p.detach().clone() for p in adversaries[0].parameters()]
    both = stack(defenders), stack_recurrent(adversaries)
    play, table = game(*both, seeds)
    together = [play(step, None) for step in range(6)]
    for s, seed in enumerate(seeds):
        play, own = game(defenders[s], adversaries[s], seed)
        for step in range(6):
            for name, value in play(step, s).items():
                assert together[step][name].shape == (S,)
                assert float(together[step][name][s]) == pytest.approx(float(value), abs=1e-9), name
        if table and own:
            assert torch.equal(table.table[s], own.table)
        fresh = mlp(SHAPE, [8, C]).double(), RecurrentAdversary(SHAPE, hidden=hidden).double()
        for stacked, written, alone in zip(both, fresh, (defenders[s], adversaries[s]), strict=True):
            copy_to(stacked, s, written)
            for a, b in zip(written.state_dict().values(), alone.state_dict().values(), strict=True):
                assert torch.allclose(a, b, atol=1e-9)
    assert not equal(before, list(adversaries[0].parameters()))
