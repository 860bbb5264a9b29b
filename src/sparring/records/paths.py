"""The name of every file of a run and of an output folder."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run, OUT/runs/RECIPE/seedK/, named once."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def epochs(self) -> Path:
        return self.folder / "epochs.jsonl"

    @property
    def defender(self) -> Path:
        return self.folder / "defender.safetensors"

    @property
    def adversary(self) -> Path:
        return self.folder / "adversary.safetensors"

    @property
    def trained_alone(self) -> Path:
        """The initialised games' adversary, as it was before the game."""
        return self.folder / "adversary-alone.safetensors"

    @property
    def done(self) -> Path:
        """A RunRecord; written last, so that its presence says the training is complete."""
        return self.folder / "run.json"

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.jsonl"

    @property
    def readings(self) -> Path:
        return self.folder / "readings.jsonl"

    @property
    def sweep(self) -> Path:
        return self.folder / "sweep.jsonl"

    @property
    def evaluated(self) -> Path:
        """What the evaluation used and took; written last, so that its presence says the evaluation is complete."""
        return self.folder / "evaluation.json"

    @property
    def exploitability(self) -> Path:
        return self.folder / "exploitability.jsonl"

    @property
    def outcomes(self) -> Path:
        """Which test images survived which attack: one boolean row per attack and eps, for paired tests."""
        return self.folder / "outcomes.safetensors"

    @property
    def audit(self) -> Path:
        """What the audit found, whole."""
        return self.folder / "audit.json"

    @property
    def payoffs(self) -> Path:
        """Past adversaries against past defenders; the audit writes it where a run kept its history."""
        return self.folder / "payoffs.jsonl"

    @property
    def responses(self) -> Path:
        """What best responses leave of the defender, a record a kind."""
        return self.folder / "responses.jsonl"

    @property
    def best_responses(self) -> Path:
        """A folder: the adversaries trained against the frozen defender, those at another radius in folders of it."""
        return self.folder / "best-responses"

    @property
    def history(self) -> Path:
        """A folder: both players as they were along the training."""
        return self.folder / "history"

    @property
    def watch(self) -> Path:
        """FGSM and PGD-10 after every epoch."""
        return self.folder / "watch.jsonl"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.safetensors"


@dataclass(frozen=True)
class OutPaths:
    """Every file of an output folder, named once."""

    folder: Path

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def reproduction(self) -> Path:
        return self.folder / "reproduction.json"

    @property
    def claims(self) -> Path:
        return self.folder / "claims.json"

    @property
    def calls(self) -> Path:
        """A CallRecord for every call that trained or measured, interrupted ones too."""
        return self.folder / "runs" / "calls.jsonl"

    @property
    def runs_done(self) -> Path:
        return self.folder / "runs.jsonl"

    def transfer(self, seed: int) -> Path:
        return self.folder / "runs" / "transfer" / f"seed{seed}.jsonl"

    def alone(self, bound: str, seed: int) -> Path:
        """The adversary trained alone with Adam, measured (claims N9 and N10, ambiguity r)."""
        return self.folder / "runs" / f"alone-adam-{bound}" / f"seed{seed}.jsonl"

    def records(self, name: str) -> Path:
        """results, epochs, calibration, transfer, exploitability, readings, sweeps, summary, comparisons, examples, audits,
        robust, worst, attack, payoffs, responses, gaps."""
        return self.folder / f"{name}.jsonl"

    def runs(self, recipe: str) -> list[Path]:
        """The folders of a recipe's runs that are there, by seed."""
        return seed_folders(self.folder / "runs" / recipe)

    def run(self, recipe: str, seed: int) -> RunPaths:
        return RunPaths(self.folder / "runs" / recipe / f"seed{seed}")


def seed_folders(recipe: Path) -> list[Path]:
    """The folders of runs in a recipe's folder, by seed; a copy under another name is none of them."""
    found = [path for path in recipe.glob("seed*") if re.fullmatch(r"seed\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed")))
