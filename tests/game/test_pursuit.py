"""The recurrent game: warm starts, drawn radii, who learns when and from what, and a rate that falls as a cosine."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.adversaries import RecurrentAdversary, stack_recurrent
from sparring.attacks import PGD, Attack, LearnedAttack, Noise, fgsm
from sparring.config import Training
from sparring.evaluation import attacked
from sparring.game import Metrics, Player, against, player, train
from sparring.game.radii import Radii
from sparring.game.unrolled import pursuit, recurrent_response
from sparring.game.warm import WarmStart
from sparring.losses import cross_entropy, margin
from sparring.models import copy_to, mlp, stack
from sparring.randomness import Stream
from sparring.threat import ThreatModel

SHAPE, C, B, S, N = (1, 4, 4), 5, 16, 3, 40
THREAT = ThreatModel(0.2, SHAPE)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(*lead: int, seed: int) -> Tensor:
    return 2 * torch.rand(*lead, *SHAPE, generator=seeded(seed)) - 1


# Warm starts


def test_a_warm_start_gives_back_what_was_written_to_half_a_level() -> None:
    warm, u = WarmStart(N, SHAPE, 1), directions(B, seed=1)
    u[0, 0, 0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    warm.seek(torch.arange(N - B, N))
    warm.write(u)
    found = warm.read(B)
    assert found.shape == u.shape and found.dtype == torch.float32
    assert float((found - u).abs().max()) <= 1 / 254 + 1e-6
    assert found[0, 0, 0, :3].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("n", [B, B // 2, 1])
def test_a_warm_start_changes_only_the_rows_of_the_minibatchs_last_examples(n: int) -> None:
    warm, u = WarmStart(N, SHAPE, 1), directions(n, seed=1)
    before = warm.table.clone()
    index = torch.randperm(N, generator=seeded(2))[:B]
    warm.seek(index)
    warm.write(u)
    changed = (warm.table != before).any(-1).nonzero().flatten()
    assert set(changed.tolist()) == set(index[B - n :].tolist())
    warm.seek(index.flip(0))
    assert torch.allclose(warm.read(B)[:n], u.flip(0), atol=1 / 254 + 1e-6)


def test_in_a_stack_each_copy_has_a_table_and_a_minibatch_of_its_own() -> None:
    seeds = [1, 2, 3]
    together, alone = WarmStart(N, SHAPE, seeds), [WarmStart(N, SHAPE, seed) for seed in seeds]
    index = torch.stack([torch.randperm(N, generator=seeded(s))[:B] for s in range(S)])
    u = directions(S, 5, seed=1)
    together.seek(index)
    for s, warm in enumerate(alone):
        warm.seek(index[s])
        assert torch.equal(together.read(B)[s], warm.read(B))
        warm.write(u[s])
    together.write(u)
    assert together.read(5).shape == (S, 5, *SHAPE)
    assert torch.equal(together.table, torch.stack([warm.table for warm in alone]))


def test_a_narrowed_warm_start_is_that_of_the_copies_that_are_left() -> None:
    warm = WarmStart(N, SHAPE, [1, 2, 3])
    warm.keep(torch.tensor([2, 0]))
    assert torch.equal(warm.table, WarmStart(N, SHAPE, [3, 1]).table)
    warm.seek(torch.arange(2 * B).view(2, B))
    warm.write(directions(2, B, seed=1))
    assert warm.read(B).shape == (2, B, *SHAPE)


def test_a_loaded_warm_start_goes_on_from_where_the_saved_one_stands() -> None:
    one, other = WarmStart(N, SHAPE, 1), WarmStart(N, SHAPE, 2)
    for warm in (one, other):
        warm.seek(torch.arange(B))
    one.write(directions(B, seed=1))
    kept = {name: value.clone() for name, value in one.state().items()}
    other.load(kept)
    assert torch.equal(other.read(B), one.read(B)) and torch.equal(other.table, one.table)
    other.write(directions(B, seed=2))
    assert torch.equal(one.table, kept["table"])
    assert torch.equal(other.state()["table"], other.table)


def test_a_warm_start_begins_at_points_that_the_seed_draws_from_the_whole_ball() -> None:
    one = WarmStart(N, SHAPE, 1)
    assert torch.equal(one.table, WarmStart(N, SHAPE, 1).table)
    assert not torch.equal(one.table, WarmStart(N, SHAPE, 2).table)
    one.seek(torch.arange(N))
    u = one.read(N)
    assert float(u.min()) < -0.98 and float(u.max()) > 0.98 and abs(float(u.mean())) < 0.1
    assert float(u.var()) == pytest.approx(1 / 3, rel=0.1)


# Radii


def test_without_a_lowest_radius_nothing_is_drawn_and_the_threat_stays() -> None:
    stream = Stream(1, "radii")
    stream.seek(0, 0)
    assert Radii(0.2, None, stream).aim(THREAT, torch.zeros(B)) is THREAT
    fresh = Stream(1, "radii")
    fresh.seek(0, 0)
    assert torch.equal(stream.uniform(torch.empty(4)), fresh.uniform(torch.empty(4)))


def eps_of(threat: ThreatModel) -> Tensor:
    assert isinstance(threat.eps, Tensor)
    return threat.eps


def test_every_example_has_a_radius_of_its_own_between_the_lowest_and_the_highest() -> None:
    stream = Stream(1, "radii")
    stream.seek(0, 0)
    aimed = Radii(0.3, 0.1, stream).aim(THREAT, torch.zeros(4000, dtype=torch.long))
    eps = eps_of(aimed)
    assert eps.shape == (4000,) and aimed.shape == SHAPE and len(eps.unique()) > 3900
    assert 0.1 <= float(eps.min()) < 0.101 and 0.299 < float(eps.max()) <= 0.3 + 1e-7
    assert float(eps.mean()) == pytest.approx(0.2, abs=0.003)


def test_a_minibatchs_radii_are_spread_over_the_range_and_ascend() -> None:
    stream = Stream(1, "radii")
    stream.seek(0, 0)
    eps = eps_of(Radii(0.3, 0.1, stream).aim(THREAT, torch.zeros(S, B, dtype=torch.long)))
    edges = 0.1 + 0.2 * torch.arange(B + 1) / B
    assert bool((eps >= edges[:-1] - 1e-7).all()) and bool((eps <= edges[1:] + 1e-7).all())


@pytest.mark.parametrize(
    ("high", "low", "queries", "expected"),
    [
        (0.3, 0.0, 2, (4, 8)),  # thirds of 12
        (0.3, 0.0, 3, (3, 6, 9)),
        (0.3, 0.1, 2, (0, 6)),  # the first query is for all above 0.1
        (0.3, 0.2, 2, (0, 0)),
        (0.3, None, 2, (0, 0)),
        (0.3, 0.3, 2, (0, 0)),
        (0.3, 0.0, 20, (1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7, 7, 8, 9, 9, 10, 10, 11, 11)),  # the last one has all
    ],
)
def test_the_larger_a_radius_the_more_queries_it_is_worth(
    high: float, low: float | None, queries: int, expected: tuple[int, ...]
) -> None:
    assert Radii(high, low, Stream(1, "radii")).first(12, queries) == expected


def test_radii_are_the_same_at_the_same_position_and_others_at_the_next() -> None:
    stream, y = Stream(1, "radii"), torch.zeros(B)
    radii, found = Radii(0.3, 0.1, stream), []
    for position in ((0, 0), (0, 1), (1, 0), (0, 0)):
        stream.seek(*position)
        found.append(eps_of(radii.aim(THREAT, y)))
    assert torch.equal(found[0], found[3])
    assert not any(torch.equal(found[0], other) for other in found[1:3])


def test_in_a_stack_each_copy_draws_the_radii_that_it_would_alone() -> None:
    streams = [Stream(seed, "radii") for seed in (1, 2, 3)]
    together = Stream([1, 2, 3], "radii")
    for stream in (together, *streams):
        stream.seek(2, 7)
    eps = eps_of(Radii(0.3, 0.1, together).aim(THREAT, torch.zeros(S, B)))
    assert eps.shape == (S, B)
    for s, stream in enumerate(streams):
        assert torch.equal(eps[s], eps_of(Radii(0.3, 0.1, stream).aim(THREAT, torch.zeros(B))))


# The move


def defender_of(lr: float = 0.05, **settings: Any) -> Player:
    return player("defender", mlp(SHAPE, [12, 8, C], generator=seeded(1)).double(), maximize=False, lr=lr, **settings)


def adversary_of(queries: int = 2, hidden: int = 0, step: float = 0.5, lr: float = 0.05, **settings: Any) -> Player:
    network = RecurrentAdversary(SHAPE, queries=queries, hidden=hidden, step=step).double()
    return player("adversary", network, maximize=True, kind="adam", lr=lr, weight_decay=0.0, **settings)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Images of which many pixels stand at an end of the pixel range."""
    x = 1.6 * torch.rand(B, *SHAPE, generator=seeded(3), dtype=torch.float64) - 0.3
    return x.clamp(0, 1), torch.arange(B) % C


class Table:
    """A game on one minibatch, its streams beside it, and all that the defender is shown: (training, input)."""

    def __init__(
        self,
        *,
        defender: Player | None = None,
        adversary: Player | None = None,
        low: float | None = None,
        warm: bool = False,
        **settings: Any,
    ) -> None:
        self.defender, self.adversary = defender or defender_of(), adversary or adversary_of()
        self.attack, self.drawn = Stream(5, "attack"), Stream(5, "radii")
        self.warm = WarmStart(B, SHAPE, 5) if warm else None
        radii = Radii(0.2, low, self.drawn)
        self.move = pursuit(
            self.defender, self.adversary, THREAT, radii, self.attack, warm=self.warm, **{"mix": "both"} | settings
        )
        self.shown: list[tuple[bool, Tensor]] = []
        self.defender.network.register_forward_pre_hook(
            lambda module, arguments: self.shown.append((module.training, arguments[0].detach().clone()))
        )

    def play(self, x: Tensor, y: Tensor, *position: int) -> Metrics:
        self.shown.clear()
        for stream in (self.attack, self.drawn):
            stream.seek(*position)
        if self.warm:
            self.warm.seek(torch.arange(len(y)))
        return self.move(x, y)

    @property
    def trained_on(self) -> Tensor:
        """The perturbed examples that the defender last trained on."""
        (found,) = [x for training, x in self.shown if training]
        return found[-B:]


def parameters(of: Player) -> list[Tensor]:
    return [p.detach().clone() for p in of.network.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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
        "clipped": ((x_adv == 0) | (x_adv == 1)).double().mean(),
    }
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), abs=1e-6), name
    assert 0 < float(metrics["clipped"]) < 1


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


# Drawn radii against a fixed attack, and the rate


class Dealt(Stream):
    """Deals shares from nothing to all of the span of radii, in the examples' order."""

    def uniform(self, like: Tensor) -> Tensor:
        return torch.linspace(-1, 1, like.shape[-1]).to(like)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "noise"])
def test_a_fixed_attack_is_aimed_at_a_radius_for_each_example(name: str, batch: tuple[Tensor, Tensor]) -> None:
    x, y = 0.4 + 0.2 * batch[0], batch[1]  # no pixel is clipped
    makes: dict[str, Attack] = {
        "fgsm": fgsm(THREAT),
        "pgd": PGD(THREAT, steps=3, keep="last", stream=Stream(1, "attack")),
        "noise": Noise(THREAT, "sign", Stream(1, "attack")),
    }
    defender, seen = defender_of(), []
    defender.network.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0]) if module.training else None
    )
    against(defender, makes[name], mix="both", radii=Radii(0.3, 0.0, Dealt(1, "radii")))(x, y)
    distance = THREAT.distance(seen[0][B:], x)
    radius = torch.linspace(0, 0.3, B, dtype=torch.float64)
    assert torch.equal(seen[0][:B], x) and torch.equal(seen[0][B], x[0])
    assert torch.allclose(distance, radius, atol=1e-7)


def test_radii_are_drawn_for_the_perturbed_share_only(batch: tuple[Tensor, Tensor]) -> None:
    (x, y), defender, seen = batch, defender_of(), []
    defender.network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    noise = Noise(THREAT, "sign", Stream(1, "attack"))
    against(defender, noise, clean_share=0.25, radii=Radii(0.3, 0.0, Dealt(1, "radii")))(0.4 + 0.2 * x, y)
    expected = torch.cat((torch.zeros(4), torch.linspace(0, 0.3, 12)))
    assert torch.allclose(THREAT.distance(seen[0], 0.4 + 0.2 * x), expected.double(), atol=1e-7)


def test_a_rate_can_fall_as_half_a_cosine_to_nothing() -> None:
    falling = defender_of(lr=0.4, rate="cosine", every=12)
    rates = [float(falling.optimizer.lr)]
    for epochs in range(1, 15):
        falling.end_epoch(epochs, torch.tensor(1.0))
        rates.append(float(falling.optimizer.lr))
    assert rates[0] == 0.4
    assert [rates[e] for e in (4, 6, 8)] == pytest.approx([0.3, 0.2, 0.1])
    assert all(a > b > 0 for a, b in pairwise(rates[:12])) and rates[12:] == [0, 0, 0]


def test_the_cosine_takes_every_copys_own_rate_down() -> None:
    network = stack([mlp(SHAPE, [C], generator=seeded(s)) for s in range(S)])
    falling = player("defender", network, maximize=False, lr=0.4, rate="cosine", every=4, n_copies=S)
    falling.optimizer.lr.copy_(torch.tensor([0.4, 0.0, 0.8]))
    for epochs in (1, 2):
        falling.end_epoch(epochs, torch.tensor([1.0, 2.0, 3.0]))
    assert falling.optimizer.lr.tolist() == pytest.approx([0.2, 0.0, 0.4])


# The learned attack by itself


def test_a_response_faces_the_models_in_turn_and_leaves_them_as_they_are() -> None:
    models = [mlp(SHAPE, [8, 10], generator=torch.Generator().manual_seed(seed)).eval() for seed in range(3)]
    before = [{name: t.clone() for name, t in model.state_dict().items()} for model in models]
    asked: list[int] = []
    for number, model in enumerate(models):
        model.register_forward_pre_hook(lambda module, given, number=number: asked.append(number))
    learner = player("adversary", RecurrentAdversary(SHAPE), maximize=True, kind="adam", lr=0.01, weight_decay=0.0)
    stream = Stream(0, "attack")
    move = recurrent_response(learner, models, ThreatModel(0.1, SHAPE), Radii(0.1, None, Stream(0, "radii")), stream)
    x, y = torch.rand(6, *SHAPE), torch.arange(6)
    for step in range(4):
        stream.seek(0, step)
        metrics = move(x, y)
    assert asked == [*[0] * 3, *[1] * 3, *[2] * 3, *[0] * 3]  # two queries, and the loss at the end
    assert set(metrics) == {"adversary_loss", "perturbed_accuracy"}
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(t, was[name]) for name, t in model.state_dict().items())
        assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_learning_makes_the_attack_stronger_on_a_defender_it_has_not_seen() -> None:
    train_on, test = sparring.data.load("digits")
    defenders = []
    for seed in range(2):
        network = mlp(train_on.shape, [32, 10], generator=torch.Generator().manual_seed(seed))
        defenders.append(sparring.Game(network, eps=0.2, seed=seed).fit(train_on, epochs=5).defender)
    threat, streams = ThreatModel(0.2, train_on.shape), [Stream(0, "attack"), Stream(0, "radii")]
    adversary = RecurrentAdversary(train_on.shape, queries=3, step=0.2)
    untrained = copy.deepcopy(adversary)
    learner = player("adversary", adversary, maximize=True, kind="adam", lr=0.02, weight_decay=0.0, rate="constant")
    move = recurrent_response(learner, defenders[:1], threat, Radii(0.2, None, streams[1]), streams[0])
    train(move, train_on, [learner], Training(max_epochs=4), seed=0, streams=streams)
    left = [attacked(defenders[1], test, LearnedAttack(one, threat), threat).accuracy for one in (untrained, adversary)]
    assert left[1] < left[0] - 0.02
