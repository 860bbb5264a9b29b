"""`sparring train RECIPE`: the recipe's own settings are the defaults, a TOML file goes over them, flags over both."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring import recipes, records
from sparring.cli import flags, terminal
from sparring.config import Run
from sparring.errors import InputError
from sparring.settings import read_toml, to_dict, updated


@dataclass(frozen=True)
class Train(terminal.Common):
    """What `train` takes beside the settings of its recipe."""

    restart: bool = False
    """forget an earlier training in this folder"""


def train(words: list[str]) -> int:
    """Train one recipe: `sparring train gan_tanh --seeds 3`. Run again to go on."""
    name, rest = _recipe(words)
    if name is None and {"-h", "--help"} & set(words):
        print(f"usage: sparring train RECIPE [options]\n\nrecipes: {', '.join(recipes.RECIPES)}")
        print("`sparring train RECIPE --help` shows every setting with the recipe's value.")
        return 0
    if name is None:
        raise InputError(f"train needs a recipe: {', '.join(recipes.RECIPES)}")
    run = recipes.recipe(name)
    rest, values = _config_file(rest)
    usual, values = _split(values)
    run = updated(run, values)
    about = f"{recipes.describe(name)} `--config FILE` takes settings from a TOML file; the flags below go over it."
    options, run = flags.read(rest, f"train {name}", about, usual, run, without=("recipe", "seed"))
    workers = terminal.n_workers(options.workers)
    if options.dry_run:
        terminal.check_devices(options.device)
        text = f"train {name} with seeds {terminal.spaced(options.seeds)} into {options.out}; the resolved config:\n"
        return terminal.would(text + json.dumps(to_dict(run), indent=1), options.json)
    from sparring.reproduction import train_seeds

    with terminal.progress() as (notice, live):
        done = train_seeds(
            run,
            options.seeds,
            options.out,
            workers=workers,
            device=options.device,
            restart=options.restart,
            notice=notice,
            live=live,
        )
    if options.json:
        terminal.result(done)
    else:
        for record in done:
            folder = records.OutPaths(options.out).run(name, record.seed).folder
            epochs = f"{record.epochs} epochs"
            why = "" if record.stopped == epochs else f" ({record.stopped})"
            what = record.message or f"{epochs}{why}, {record.seconds:.0f} s"
            print(f"{name} seed {record.seed}: {record.status}, {what}  ({folder})")
        print(f"next: sparring evaluate {options.out}")
    return 3 if any(record.status == "diverged" for record in done) else 0


def _recipe(words: list[str]) -> tuple[str | None, list[str]]:
    """The recipe's name, None where there is none, and the other words; flags with their values may stand before it.

    After several values, as of `--seeds 0 1 RECIPE`, it is told from one more by being known.
    """
    taking = {"--config", *flags.taking_a_value(Train, Run)}
    before = ["", *map(flags.spelled, words)]
    free = [i for i, word in enumerate(words) if not word.startswith("-") and before[i] not in taking]
    at = next((i for i in free if words[i] in recipes.RECIPES), free[0] if free else None)
    return (None, words) if at is None else (words[at], words[:at] + words[at + 1 :])


def _config_file(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without `--config FILE`, and what stands in the file."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return words, {}
    at = words.index("--config")
    if at + 1 >= len(words):
        raise InputError("--config needs a TOML file")
    values = read_toml(Path(words[at + 1]))
    for key in ("recipe", "seed"):
        if key in values:
            raise InputError(f"{key!r} cannot stand in a config file; give it on the command line")
    return words[:at] + words[at + 2 :], values


def _split(values: dict[str, Any]) -> tuple[Train, dict[str, Any]]:
    """A config file's values: those of the command, and those of the run."""
    kinds: dict[str, type[Any]] = {"out": str, "seeds": list, "device": str, "workers": int}
    given = {key: value for key, value in values.items() if key in kinds}
    for key, value in given.items():
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise InputError(f"{key} must be {kinds[key].__name__}, got {value!r}")
    if not all(type(seed) is int and seed >= 0 for seed in given.get("seeds", [])):
        raise InputError(f"seeds must be a list of whole numbers >= 0, got {given['seeds']!r}")
    made = {"out": Path, "seeds": tuple}
    usual = dataclasses.replace(Train(), **{key: made.get(key, kinds[key])(value) for key, value in given.items()})
    return usual, {key: value for key, value in values.items() if key not in kinds}
