"""Settings check themselves; TOML goes in; what is unknown or contradicts itself is refused in words."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.config import (
    Adversary,
    Data,
    Network,
    Opponent,
    Optimizer,
    Play,
    Recurrent,
    Run,
    Training,
)
from sparring.errors import InputError
from sparring.recipes import PAPER, RECIPES, describe, recipe
from sparring.settings import differences, from_dict, read_toml, to_dict, updated


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_its_own_dictionary(name: str) -> None:
    run = recipe(name)
    assert run.recipe == name
    again = from_dict(Run, to_dict(run))
    assert again == run and again.digest == run.digest
    assert describe(name).endswith((".", ")")) and len(describe(name)) > 20


def test_the_recipes_are_the_papers_seven_and_more_and_all_different() -> None:
    assert len(PAPER) == 7 and set(PAPER) < set(RECIPES)
    assert len({recipe(name).digest for name in RECIPES}) == len(RECIPES)


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'gan_tanh'"):
        recipe("gan_than")


def test_a_toml_file_changes_only_the_keys_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "eps = 0.25\n[training]\nmax_epochs = 3\n[defender]\nhidden = [32]\n"
        "[defender.optimizer]\nlr = 1\n[adversary]\nbound = 'scaled'\n"
    )
    run = updated(recipe("gan_tanh"), read_toml(path))
    base = recipe("gan_tanh")
    assert base.adversary is not None
    assert run == replace(
        base,
        eps=0.25,
        training=replace(base.training, max_epochs=3),
        defender=replace(base.defender, hidden=(32,), optimizer=replace(base.defender.optimizer, lr=1.0)),
        adversary=replace(base.adversary, bound="scaled"),
    )
    assert isinstance(run.defender.optimizer.lr, float) and isinstance(run.defender.hidden, tuple)
    assert differences(base, run) == [
        "adversary.bound: tanh -> scaled",
        "defender.hidden: [128, 64] -> [32]",
        "eps: 0.1 -> 0.25",
        f"training.max_epochs: {base.training.max_epochs} -> 3",
    ]


def test_a_section_that_a_recipe_lacks_can_be_added() -> None:
    run = updated(recipe("fgsm"), {"opponent": {"kind": "adversary"}, "adversary": {"hidden": [8]}})
    assert run.adversary == Adversary(hidden=(8,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epps": 0.1}, "unknown key 'epps'; did you mean 'eps'"),
        ({"training": {"max_epoch": 3}}, r"unknown key 'max_epoch' in \[training\]; did you mean 'max_epochs'"),
        ({"defender": {"optimizer": {"learning": 1}}}, r"unknown key 'learning' in \[defender.optimizer\].* known: "),
        ({"training": {"max_epochs": "3"}}, "training.max_epochs must be int, got '3'"),
        ({"training": {"max_epochs": 3.0}}, "training.max_epochs must be int, got 3.0"),
        ({"training": {"max_epochs": True}}, "training.max_epochs must be int, got True"),
        ({"training": 3}, "training must be a table of settings, got 3"),
        ({"defender": {"hidden": 32}}, "defender.hidden must be a list, got 32"),
        ({"defender": {"hidden": ["a"]}}, "defender.hidden must be int, got 'a'"),
        ({"defender": {"hidden": [8, 0]}}, "hidden must be positive widths"),
        ({"data": {"name": "minst"}}, "did you mean 'mnist'"),
        ({"data": {"allow_unknown": 1}}, "data.allow_unknown must be bool, got 1"),
        ({"data": {"limit": 1}}, "data.limit must be >= 2"),
        ({"defender": {"optimizer": {"name": "adamw"}}}, "did you mean 'adam'"),
        ({"defender": {"optimizer": {"lr": 0}}}, "lr must be > 0"),
        ({"defender": {"optimizer": {"lr": float("inf")}}}, "lr must be > 0 and finite"),
        ({"defender": {"optimizer": {"weight_decay": -1.0}}}, "weight_decay must be >= 0"),
        ({"training": {"clean_share": 1.5}}, r"clean_share must be in \[0, 1\]; got 1.5"),
        ({"training": {"clean_share": float("nan")}}, r"clean_share must be in \[0, 1\]"),
        ({"training": {"batch_size": 1}}, "batch_size must be >= 2"),
        (
            {"training": {"clean_share": 0.999}},
            "clean_share 0.999 leaves the adversary none of a minibatch's 128 examples",
        ),
        ({"training": {"clean_share": 0.95, "batch_size": 8}}, "none of a minibatch's 8 examples; lower it, or make"),
        ({"training": {"clean_share": 0.95}, "data": {"limit": 8}}, "none of a minibatch's 8 examples"),
        ({"eps": 8}, r"did you mean 8/255"),
        ({"eps": -0.1}, r"eps must be in \[0, 1\]"),
        ({"eps": float("nan")}, r"eps must be in \[0, 1\]"),
        ({"seed": 0.5}, "seed must be int"),
        ({"seed": -1}, "seed must be >= 0; got -1"),
        ({"defender": {"optimizer": {"weight_decay": float("inf")}}}, "weight_decay must be >= 0 and finite; got inf"),
        ({"defender": {"slope": float("nan")}}, "slope must be finite; got nan"),
        ({"adversary": {"slope": float("inf")}}, "slope must be finite; got inf"),
        ({"defender": {"bn_eps": -1.0}}, "bn_eps must be >= 0 and finite; got -1.0"),
        ({"defender": {"bn_eps": float("inf")}}, "bn_eps must be >= 0 and finite; got inf"),
        ({"defender": {"bn_momentum": float("nan")}}, r"bn_momentum must be in \[0, 1\]; got nan"),
        ({"training": {"min_lr": float("inf")}}, "training.min_lr must be >= 0 and finite; got inf"),
        ({"training": {"min_lr": -0.1}}, "training.min_lr must be >= 0 and finite; got -0.1"),
        ({"training": {"checkpoint_seconds": float("nan")}}, "training.checkpoint_seconds must be >= 0 and finite"),
        ({"training": {"checkpoint_seconds": float("inf")}}, "training.checkpoint_seconds must be >= 0 and finite"),
        ({"training": {"checkpoint_seconds": -1.0}}, "training.checkpoint_seconds must be >= 0 and finite"),
        ({"play": {"dynamic": "simultaneous", "adversary_steps": 2}}, "steps both players once"),
        ({"play": {"first": "nobody"}}, "first cannot be 'nobody'"),
        ({"play": {"clip": "hard"}}, "clip cannot be 'hard'"),
        ({"opponent": {"reach": 0.5}}, "cannot reach the boundary"),
        ({"eps_low": 0.2}, r"eps_low must be in \[0, eps\] = \[0, 0.1\]; got 0.2"),
        ({"eps_low": -0.01}, r"eps_low must be in \[0, eps\]"),
        ({"eps_low": float("nan")}, r"eps_low must be in \[0, eps\]"),
        ({"eps_low": "none"}, "eps_low must be float, got 'none'"),
        ({"recurrent": {"queries": 0}}, "recurrent.queries must be >= 1; got 0"),
        ({"recurrent": {"step": 0.0}}, "recurrent.step must be > 0 and finite; got 0.0"),
        ({"recurrent": {"step": float("inf")}}, "recurrent.step must be > 0 and finite"),
        ({"recurrent": {"every": -1}}, "recurrent.every must be >= 0; got -1"),
        ({"recurrent": {"hidden": -1}}, "recurrent.hidden must be >= 0; got -1"),
        ({"recurrent": {"loss": "log_odd"}}, "did you mean 'log_odds'"),
        ({"recurrent": {"query": 1}}, r"unknown key 'query' in \[recurrent\]; did you mean 'queries'"),
        ({"recurrent": {}}, "opponent.kind='adversary' contradicts recurrent=settings"),
        ({"opponent": {"kind": "recurrent"}}, "opponent.kind='recurrent' contradicts adversary=settings"),
        ({"defender": {"optimizer": {"rate": "cosinus"}}}, "did you mean 'cosine'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        updated(recipe("gan_tanh"), values)


def test_a_clean_share_that_leaves_one_example_or_has_no_adversary_to_leave_it_to_is_taken() -> None:
    for training in (Training(clean_share=0.9, batch_size=8), Training(clean_share=0.999, mix="both")):
        assert replace(recipe("gan_tanh"), training=training).training == training
    assert Run("x", training=Training(clean_share=0.999)).learner is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Run("x", opponent=Opponent("adversary")), "contradicts adversary=None"),
        (lambda: Run("x", adversary=Adversary()), "a game needs both"),
        (lambda: Run("x", opponent=Opponent("recurrent")), "contradicts recurrent=None: a game needs both"),
        (lambda: Run("x", recurrent=Recurrent()), "opponent.kind='none' contradicts recurrent=settings"),
        (
            lambda: Run("x", opponent=Opponent("recurrent"), recurrent=Recurrent(), training=Training(clean_share=1.0)),
            "a game needs perturbed examples",
        ),
        (lambda: Run("x", opponent=Opponent("recurrent"), recurrent=Recurrent(), alone=Training()), "alone needs"),
        (lambda: Run("x", alone=Training()), "alone needs an adversary"),
        (lambda: Run("x", eps=True), "eps must be in"),
        (lambda: Play(dynamic="extragradient", defender_steps=3), "several steps need 'alternating'"),
        (lambda: Play(first="nobody"), "first"),  # type: ignore[arg-type]
        (lambda: Play(modes="evaluation"), "modes"),  # type: ignore[arg-type]
        (lambda: Play(clip="hard"), "clip"),  # type: ignore[arg-type]
        (lambda: Training(mix="all"), "mix"),  # type: ignore[arg-type]
        (lambda: Training(min_lr=float("nan")), "min_lr"),
        (lambda: Network(loss="hinge"), "loss"),  # type: ignore[arg-type]
        (lambda: Optimizer(momentum=1.5), "momentum"),
        (lambda: Data(name="imagenet"), "data.name"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_construction(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("low", [0.0, 0.1, 0.3])
def test_radii_may_be_drawn_from_anywhere_between_nothing_and_the_largest(low: float) -> None:
    run = Run("x", eps=0.3, eps_low=low, opponent=Opponent("pgd"))
    assert run.eps_low == low and run.digest != replace(run, eps_low=None).digest


def test_a_power_is_for_radii_that_are_drawn_and_positive() -> None:
    run = Run("x", eps=0.3, eps_low=0.0, eps_power=2.0, opponent=Opponent("pgd"))
    assert run.digest != replace(run, eps_power=1.0).digest
    with pytest.raises(InputError, match=r"eps_power is for radii that are drawn.*got 2"):
        replace(run, eps_low=None)
    with pytest.raises(InputError, match="eps_power must be > 0"):
        replace(run, eps_power=0.0)


def test_a_run_of_before_radii_had_a_power_and_games_an_end_keeps_its_digest() -> None:
    closed = recipe("gan_recurrent")
    before = replace(closed, recurrent=Recurrent())
    assert before.digest.startswith("8f1b62e333b8") and closed.digest != before.digest


def test_the_learner_is_the_learned_opponent_of_either_kind() -> None:
    learned, asks = Adversary(hidden=(8,)), Recurrent(queries=3)
    assert Run("x", opponent=Opponent("adversary"), adversary=learned).learner is learned
    assert Run("x", opponent=Opponent("recurrent"), recurrent=asks).learner is asks
    assert Run("x", opponent=Opponent("pgd")).learner is None


@pytest.mark.parametrize(
    ("name", "changes", "passes"),
    [
        ("pgd_drawn", {}, 9.0),  # 7 queries, then clean and perturbed
        ("fgsm", {}, 1.5),  # half of the batch is perturbed
        ("gan_recurrent", {"eps_low": 0.0}, 2 + 2 / 3 + 1 / 3 + 1 / 16),
        ("gan_recurrent", {"eps_low": 0.15}, 2 + 1 + 2 / 3 + 1 / 16),
        ("gan_recurrent", {"eps_low": 0.3}, 4 + 1 / 16),
        ("gan_recurrent", {"eps_low": 0.0, "eps_power": 2.0}, 2 + (1 - (1 / 3) ** 0.5) + (1 - (2 / 3) ** 0.5) + 1 / 16),
        ("gan_recurrent_all", {}, 4 + 1 / 16),
        ("gan_recurrent_tenth", {}, 4 + 1 / 16),
        ("gan_recurrent_fixed", {"eps_low": 0.0}, 3.0),
    ],
)
def test_a_recipes_passes_are_its_queries_in_the_mean_over_radii_and_its_own(
    name: str, changes: dict[str, Any], passes: float
) -> None:
    assert replace(recipe(name), **changes).passes == pytest.approx(passes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_not_written_down(value: float) -> None:
    run = recipe("vanilla")
    object.__setattr__(run.training, "flat", value)  # as a setting that forgot to check itself
    with pytest.raises(InputError, match=rf"^training\.flat must be finite to be written down; got {value}$"):
        to_dict(run)


def test_the_digest_ignores_where_the_data_lie_and_nothing_that_decides() -> None:
    run = recipe("gan_tanh")
    same = [
        replace(run, data=replace(run.data, root="/elsewhere")),
        replace(run, training=replace(run.training, checkpoint_seconds=99.0)),
    ]
    assert all(other.digest == run.digest for other in same)
    other = [
        replace(run, seed=1),
        replace(run, eps=0.2),
        replace(run, data=replace(run.data, limit=100)),
        replace(run, training=replace(run.training, batch_size=64)),
        replace(run, play=replace(run.play, first="defender")),
        replace(run, defender=replace(run.defender, optimizer=Optimizer(lr=0.5))),
    ]
    assert len({r.digest for r in [run, *other]}) == 7


@pytest.mark.parametrize("text", ["eps = ", "[training\n", "eps = 0.1\neps = 0.2", "\x00"])
def test_a_file_that_is_not_toml_is_an_input_error_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.toml is not TOML"):
        read_toml(path)


def test_a_file_that_is_not_there_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config file .*none\.toml"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(InputError, match="is not TOML"):
        read_toml(tmp_path / "latin.toml")


def test_a_dictionary_without_a_required_key_is_an_input_error() -> None:
    with pytest.raises(InputError, match="recipe"):
        from_dict(Run, {"seed": 1})


def test_config_and_recipes_load_no_torch() -> None:
    code = "import sys, sparring.config, sparring.recipes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
