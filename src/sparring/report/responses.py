"""The best responses' table: what adversaries as long in training as the game's own leave of each defender."""

from sparring.records import BestResponseRecord
from sparring.report import words
from sparring.report.headline import cell
from sparring.report.sections import Rows
from sparring.report.source import Source

SEEING = {
    "x": "x alone",
    "xy": "x and the label",
    "xg": "x and the gradient",
    "xyg": "x, label and gradient",
    "recurrent": "the gradient, again and again",
}


def kinds(source: Source) -> list[dict[str, str]]:
    """The kinds of adversary that were trained, in the records' order."""
    return [{"kind": kind, "sees": SEEING[kind]} for kind in dict.fromkeys(r.kind for r in source.responses)]


def rows(source: Source) -> Rows:
    """A row a recipe: in the game, then left and gap for each kind over seeds, and every run's own numbers."""
    made = []
    for recipe in source.recipes:
        found = [r for r in source.responses if r.recipe == recipe]
        if not found:
            continue
        cells = []
        for kind in dict.fromkeys(r.kind for r in source.responses):
            cells += [
                cell(source.one(metric, recipe, attack=kind)) for metric in ("best_response", "best_response_gap")
            ]
        made.append(
            {
                "label": words.label(recipe),
                "cells": cells,
                "gain": max(r.gain for r in found),
                "n_seeds": len({r.seed for r in found}),
                "seen": _millions(found),
                "runs": sorted(found, key=lambda r: r.seed),
            }
        )
    return made


def fresh_seeds(source: Source) -> str:
    """How many adversaries of a kind each run met."""
    return _span([len(r.left) for r in source.responses])


def precision(responses: list[BestResponseRecord]) -> str:
    """The precisions of their training."""
    return " and ".join(sorted({r.precision for r in responses}))


def _millions(found: list[BestResponseRecord]) -> str:
    """Examples that each saw in training and, in a game, that its own adversary saw; in millions."""
    own = [r.co_trained_examples for r in found if r.co_trained_examples]
    seen = f"{max(r.examples for r in found) / 1e6:.2f}"
    return seen + (f"; {max(own) / 1e6:.2f}" if own else "")


def _span(values: list[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return str(low) if low == high else f"{low} to {high}"
