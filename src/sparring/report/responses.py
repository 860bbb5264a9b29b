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
    """A row a recipe and radius: left and gap for each kind over seeds, and every run's own numbers."""
    made = []
    several = len({r.eps for r in source.responses}) > 1
    of_each = [(name, eps) for name in source.recipes for eps in sorted({r.eps for r in source.responses})]
    for recipe, eps in of_each:
        found = [r for r in source.responses if (r.recipe, r.eps) == (recipe, eps)]
        if not found:
            continue
        cells = []
        for kind in dict.fromkeys(r.kind for r in source.responses):
            cells += [
                cell(source.one(metric, recipe, attack=kind, eps=eps))
                for metric in ("best_response", "best_response_gap")
            ]
        made.append(
            {
                "label": f"{words.label(recipe)}, eps {words.eps(eps)}" if several else words.label(recipe),
                "cells": cells,
                "gain": max(r.gain for r in found),
                "n_seeds": len({r.seed for r in found}),
                "seen": _millions(found),
                "runs": sorted(found, key=lambda r: r.seed),
            }
        )
    return made


def radii(source: Source) -> str:
    """The radii at which they play."""
    return " and ".join(words.eps(eps) for eps in sorted({r.eps for r in source.responses}))


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
