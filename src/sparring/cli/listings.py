"""`sparring recipes` and `sparring info`: what there is."""

from dataclasses import dataclass
from typing import Any

from sparring import recipes
from sparring.cli import flags, terminal


@dataclass(frozen=True)
class Listing:
    """What `recipes` takes."""

    json: bool = False


@dataclass(frozen=True)
class Info:
    """What `info` takes."""

    data_root: str | None = None
    json: bool = False


def list_recipes(words: list[str]) -> int:
    """The named experiments, one line each."""
    (options,) = flags.read(words, "recipes", list_recipes.__doc__, Listing)
    if options.json:
        terminal.result({name: recipes.describe(name) for name in recipes.RECIPES})
    else:
        print("\n".join(f"{name:<16} {recipes.describe(name)}" for name in recipes.RECIPES))
    return 0


def info(words: list[str]) -> int:
    """Versions, processor, devices, and where the data are."""
    (options,) = flags.read(words, "info", info.__doc__, Info)
    import torch

    from sparring import data
    from sparring.environment import commit, environment

    facts: dict[str, Any] = environment() | {"commit": commit()}
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts["mps"] = "available" if torch.backends.mps.is_available() else "none"
    for name in data.NAMES:
        try:
            train_on, test = data.load(name, root=options.data_root, download=False)
            facts[f"data {name}"] = f"{len(train_on)} + {len(test)} images"
        except (ValueError, OSError):
            facts[f"data {name}"] = "not on this machine"
    if options.json:
        terminal.result(facts)
    else:
        print("\n".join(f"{key:<18} {value}" for key, value in facts.items()))
    return 0
