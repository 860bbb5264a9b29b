"""What the recurrent game keeps and draws for each example: where its attack starts, and a radius."""

import pytest
import torch
from pursuits import SHAPE, THREAT, B, N, S, eps_of, seeded
from torch import Tensor

from sparring.game.radii import Radii
from sparring.game.warm import WarmStart
from sparring.randomness import Stream


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


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 4), (1, 3, 5), (7,)])
def test_rows_of_any_number_of_bytes_are_kept(shape: tuple[int, ...]) -> None:
    warm = WarmStart(N, shape, [1, 2])
    before, u = warm.table.clone(), 2 * torch.rand(2, B, *shape, generator=seeded(1)) - 1
    index = torch.stack([torch.randperm(N, generator=seeded(s))[:B] for s in range(2)])
    warm.seek(index)
    warm.write(u[:, 2:])  # not all: in memory these do not lie side by side
    expected = before.clone()
    for s in range(2):
        expected[s, index[s, 2:]] = (u[s, 2:].flatten(1) * 127).round().to(torch.int8)
    assert torch.equal(warm.table, expected)


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


def test_with_a_power_more_radii_are_small_and_queries_keep_to_the_same_radii() -> None:
    stream, y, n = Stream(1, "radii"), torch.zeros(4000), 4000
    stream.seek(0, 0)
    radii = Radii(0.3, 0.1, stream, power=2.0)
    eps = eps_of(radii.aim(THREAT, y))
    assert bool((eps[1:] >= eps[:-1] - 1e-7).all()) and float(eps.max()) == pytest.approx(0.3, abs=1e-3)
    assert float((eps < 0.15).float().mean()) == pytest.approx(
        0.5, abs=2e-3
    )  # a quarter of the way, to the power 1 / 2
    for first, least in zip(radii.first(n, 3), (0.075, 0.15, 0.225), strict=True):
        assert first == pytest.approx(float((eps < least).sum()), abs=2)


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
