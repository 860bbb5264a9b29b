"""What a reproduction does: a plan, and the independent tasks it falls into."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sparring import recipes
from sparring.config import Adversary, Data, Network, Optimizer, Run
from sparring.errors import InputError
from sparring.measure import Measurement
from sparring.records import OutPaths

Kind = Literal["train", "measure", "sweep", "alone", "reading", "transfer"]


@dataclass(frozen=True)
class Plan:
    """What a reproduction does."""

    out: Path
    data: Data
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]
    measurement: Measurement = field(default_factory=Measurement)
    sweeps: bool = True
    sweep_epochs: int = 4
    workers: int = 1
    device: str = "cpu"
    measure_on: str | None = None  # the device of the measurements, where it is another one
    command: str = "sparring reproduce"
    title: str = "Generative Adversarial Networks for Adversarial Training, reproduced"
    max_epochs: int | None = None  # a cap on every training
    batch_size: int | None = None  # of every training, where not the recipe's (reading d)
    precision: Literal["fp32", "bf16"] = "fp32"  # of every run's training

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds must be different numbers, at least one; got {self.seeds}")
        for name in self.recipes:
            recipes.recipe(name)

    @property
    def paths(self) -> OutPaths:
        """The output folder's files."""
        return OutPaths(self.out)


@dataclass(frozen=True)
class Task:
    """One piece of work on some seeds at once, and what must be done before it."""

    kind: Kind
    name: str
    seeds: tuple[int, ...]
    run: Run | None  # of each seed, with that seed in it
    cost: float  # expected seconds on one core, for the order and the ETA
    needs: tuple[str, ...] = ()
    restart: bool = False
    anew: str = "delete that folder"  # how its command is told to train again; `train` has an option

    @property
    def key(self) -> str:
        return key_of(self.name, self.seeds) + (", measured" if self.kind == "measure" else "")

    @property
    def runs(self) -> list[Run]:
        """One run a seed."""
        assert self.run is not None
        return [replace(self.run, seed=seed) for seed in self.seeds]


def key_of(name: str, seeds: tuple[int, ...]) -> str:
    """`gan_tanh seed 3`, or `gan_tanh seeds 0 1 2`."""
    return f"{name} seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}"


COSTS: dict[str, tuple[float, float]] = {  # seconds of a seed on MNIST, and on the digits, of one core of one machine
    "vanilla": (20, 1),
    "noise": (25, 1),
    "fgsm": (35, 1),
    "pgd": (110, 2),
    "gan_tanh": (280, 3),
    "gan_scaled": (290, 3),
    "before an initialised game": (50, 1),
    "measure": (40, 1),
    "transfer": (20, 0.3),
    "sweep": (40, 3),
    "sweep of 3 steps": (80, 5),
    "reading": (60, 1),
    "alone": (40, 2),
}


def plan_tasks(plan: Plan) -> list[Task]:
    """Every task in the order in which it should start: what others wait for, then the runs, longest first, then the rest.

    All seeds of a regime are one training, in one stack or a few. Each is then measured by itself.
    """
    tasks: list[Task] = []
    seeds, n = plan.seeds, len(plan.seeds)
    costs = {name: n * both[plan.data.name == "digits"] for name, both in COSTS.items()}
    vanilla = (key_of("vanilla", seeds),)
    for name in plan.recipes:
        run = _configured(plan, recipes.recipe(name))
        cost = costs.get(name.removesuffix("_init"), costs["pgd"])
        cost += costs["before an initialised game"] if run.alone else 0
        tasks.append(Task("train", name, seeds, run, cost, vanilla if run.alone else ()))
        trained, each = tasks[-1].key, costs["measure"] / n
        tasks += [Task("measure", name, (seed,), run, each, (trained,)) for seed in seeds]
    everyone = tuple(key_of(name, seeds) for name in plan.recipes)
    for seed in seeds:
        tasks.append(Task("transfer", "transfer", (seed,), None, costs["transfer"] / n, everyone))
    if plan.sweeps:
        for variant, run in sweep_runs(plan.sweep_epochs).items():
            cost = costs["sweep of 3 steps" if run.play.adversary_steps > 1 else "sweep"]
            tasks.append(Task("sweep", variant, seeds, _configured(plan, run), cost))
        run = _configured(plan, torch_init())
        tasks.append(Task("reading", "vanilla, PyTorch's initial weights", seeds, run, costs["reading"]))
        tasks += [Task("alone", bound, seeds, None, costs["alone"], vanilla) for bound in ("tanh", "scaled")]
    order = {"train": 0, "sweep": 1, "reading": 1, "alone": 2, "measure": 3, "transfer": 3}
    return sorted(tasks, key=lambda task: (order[task.kind], task.name != "vanilla", -task.cost))


def sweep_runs(epochs: int) -> dict[str, Run]:
    """The paper's own conjectures as variants of the tanh game (claims D1 and D3), on a schedule compressed to `epochs`.

    Each changes one thing against "base": a player's rate, the adversary's steps, a player's width.
    """
    every = max(1, epochs // 10)
    rate = Optimizer(rate="every", every=every)
    slow = replace(rate, lr=0.1)
    base = replace(
        recipes.gan_tanh(),
        recipe="sweep-base",
        defender=Network(optimizer=rate),
        adversary=Adversary(optimizer=rate),
        training=replace(recipes.gan_tanh().training, max_epochs=epochs, patience=epochs + 1, min_lr=1e-6),
    )
    assert base.adversary is not None
    changes = {
        "adversary's rate a tenth": {"adversary": replace(base.adversary, optimizer=slow)},
        "defender's rate a tenth": {"defender": replace(base.defender, optimizer=slow)},
        "3 adversary steps per defender step": {"play": replace(base.play, adversary_steps=3)},
        "small adversary (64-64)": {"adversary": replace(base.adversary, hidden=(64, 64))},
        "wide defender (512-512)": {"defender": replace(base.defender, hidden=(512, 512))},
    }
    runs = {"base": base}
    for number, (variant, change) in enumerate(changes.items(), start=1):
        runs[variant] = replace(base, recipe=f"sweep-{number}", **change)  # type: ignore[arg-type]
    return runs


def torch_init() -> Run:
    """The vanilla model with PyTorch's initial weights instead of He's: ambiguity j, for claim N8."""
    return replace(recipes.vanilla(), recipe="vanilla-torch-init", defender=Network(initialisation="torch"))


CAPACITY = ("small adversary (64-64)", "wide defender (512-512)")  # the variants of D3; the others are D1's


def _configured(plan: Plan, run: Run) -> Run:
    """A recipe with the plan's data, precision, batch size and cap on epochs."""
    return recipes.configured(
        run, plan.data, precision=plan.precision, max_epochs=plan.max_epochs, batch_size=plan.batch_size
    )
