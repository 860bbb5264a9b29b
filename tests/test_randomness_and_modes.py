"""Random streams depend on their name and position alone; modes are undone exactly."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring import modes
from sparring.errors import InputError
from sparring.randomness import Stream, check_seed, check_seeds, derive, generator


def draw(g: torch.Generator) -> list[float]:
    drawn: list[float] = torch.rand(4, generator=g).tolist()
    return drawn


def test_a_stream_depends_on_seed_name_and_position_and_on_nothing_else() -> None:
    first = draw(generator(1, "order", 2, 3))
    torch.rand(5)
    assert draw(generator(1, "order", 2, 3)) == first
    others = [(2, "order", 2, 3), (1, "orders", 2, 3), (1, "order", 3, 2), (1, "order", 2), (1, "order", 23)]
    for seed, name, *position in others:
        assert draw(generator(seed, name, *position)) != first


def test_derived_seeds_are_63_bits_and_do_not_change_between_releases() -> None:
    seeds = [derive(seed, "order", epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62
    import hashlib

    text = hashlib.sha256(b"7/init.adversary/1/2").hexdigest()[:16]
    assert derive(7, "init.adversary", 1, 2) == int(text, 16) // 2


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_seed_may_be_any_whole_number_and_becomes_an_int(seed: object) -> None:
    assert check_seed(seed) == 3 and type(check_seed(seed)) is int
    assert check_seeds((seed, 0)) == [3, 0]


@pytest.mark.parametrize("seed", [-1, np.int64(-1), True, np.bool_(True), 1.0, np.float64(1), "1", None, (1,)])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    for refuse in (lambda: check_seed(seed), lambda: check_seeds([0, seed])):
        with pytest.raises(InputError, match=r"^seed must be a whole number >= 0; got "):
            refuse()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [((), "at least one whole number.*got \\(\\)"), (3, "a sequence of whole numbers.*got 3"), ("12", "a sequence")],
)
def test_several_seeds_are_one_or_more(seeds: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^seeds must be {message}"):
        check_seeds(seeds)
    assert check_seeds(range(2)) == check_seeds(np.arange(2)) == [0, 1]


def test_making_a_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    draw(generator(0, "attack"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_goes_on_at_one_position_and_begins_again_when_it_is_sought() -> None:
    stream = Stream(3, "attack")
    stream.seek(0, 1)
    first, second = draw(stream.generator()), draw(stream.generator())
    assert first != second
    stream.seek(0, 2)
    assert draw(stream.generator()) not in (first, second)
    stream.seek(0, 1)
    assert [draw(stream.generator()), draw(stream.generator())] == [first, second]
    assert first == draw(generator(3, "attack", 0, 1))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.back = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.back(self.front(x))
        return out


def mixed() -> Nested:
    """A network whose submodules are in different modes, one parameter frozen."""
    model = Nested()
    model.front[1].eval()
    model.back.weight.requires_grad_(False)
    return model


def flags(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("block", [modes.evaluation, modes.training, modes.frozen])
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_undoes_its_mode_module_by_module_also_when_it_raises(block: object, fails: bool) -> None:
    model = mixed()
    before = flags(model)
    try:
        with block(model):  # type: ignore[operator]
            inside = flags(model)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert flags(model) == before
    wanted = block is modes.training
    assert inside[0] == [wanted] * len(inside[0])
    assert inside[1] == ([False] * len(inside[1]) if block is modes.frozen else before[1])


@pytest.mark.parametrize("fails", [False, True])
def test_kept_statistics_are_as_before_and_others_move(fails: bool) -> None:
    model = mixed()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with modes.training(model, keep_statistics=True):
            model(torch.rand(8, 4))
            assert any(not torch.equal(b, before[n]) for n, b in model.named_buffers())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    with modes.training(model):
        model(torch.rand(8, 4))
    assert all(not torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_a_frozen_network_passes_gradient_to_its_input_but_not_to_its_parameters() -> None:
    model = mixed()
    x = torch.rand(5, 4, requires_grad=True)
    buffers = [b.clone() for b in model.buffers()]
    with modes.frozen(model):
        value = model(x).sum()
    (grad,) = torch.autograd.grad(value, x, retain_graph=True)
    assert float(grad.abs().max()) > 0
    with pytest.raises(RuntimeError):
        torch.autograd.grad(value, list(model.back.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
