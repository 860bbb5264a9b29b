"""Opponents that learn: best responses, the co-trained adversary, other models to transfer from. Each is trained once."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial

from torch import nn

from sparring.adversaries import AnyAdversary, RecurrentAdversary
from sparring.attacks import Attack, LearnedAttack
from sparring.attacks.contract import aimed
from sparring.auditing.ground import Ground
from sparring.auditing.responses import Response, longer, respond, surrogate
from sparring.auditing.runs import AttackRun
from sparring.auditing.subject import Fresh
from sparring.evaluation.responses import KINDS
from sparring.threat import ThreatModel


class Opponents(Ground):
    """What a subject's training data, its adversary and its neighbours give."""

    @cached_property
    def sources(self) -> dict[str, nn.Module]:
        """Other models to transfer from: given ones, the twin, else a surrogate trained here."""
        found = dict(self.subject.sources)
        if self.subject.twin is not None:
            found.setdefault("the twin", self.subject.twin)
        if not found and self.training_data is not None and self.level.surrogate_steps:
            self.notice("training a surrogate")
            steps = self.level.surrogate_steps
            found["a surrogate"] = surrogate(self.training_data, steps=steps, seed=self.seed, seconds=15.0)
        return found

    @cached_property
    def responses(self) -> list[Response]:
        """Best responses that see x only: those at hand, then as many trained here as the level's number of seeds still lacks."""
        return self._enough(self.given)

    @cached_property
    def equal_responses(self) -> list[Response]:
        """Best responses that see what the co-trained adversary sees, where that is more than x: at hand, then trained here."""
        if self.network is None or self.network.sees == ("x",):
            return []
        return self._enough(longest(self.at_hand, self.equal_kind), self.network)

    def _enough(self, at_hand: Sequence[Fresh], like: AnyAdversary | None = None) -> list[Response]:
        """Those at hand, then as many trained here, that see as much as `like`, as the level's number of seeds still lacks."""
        found = [Response(r.adversary.to(self.device), r.steps, r.examples) for r in at_hand]
        taken = {r.seed for r in at_hand}
        unused = (seed for seed in itertools.count(self.seed) if seed not in taken)
        return found + self._trained(itertools.islice(unused, max(0, self.level.fresh - len(found))), len(found), like)

    def _trained(self, seeds: Iterable[int], before: int, like: AnyAdversary | None) -> list[Response]:
        """Best responses of these seeds, that see as much as `like`; none where there is nothing to train on."""
        if self.training_data is None:
            return []
        found = list[Response]()
        for seed in seeds:
            self.notice(
                f"training fresh adversary {before + len(found) + 1}{'' if like is None else ', seeing as much'}"
            )
            found.append(
                respond(
                    self.base,
                    self.training_data,
                    self.threat(),
                    seed=seed,
                    steps=self.level.fresh_steps,
                    seconds=self.level.fresh_seconds,
                    like=like,
                )
            )
        return found

    @cached_property
    def equals(self) -> list[AttackRun]:
        """These as attacks, raw."""
        return [
            self.run(f"fresh adversary {i + 1}, seeing as much", "learned", self.as_own(r.adversary))
            for i, r in enumerate(self.equal_responses)
        ]

    @cached_property
    def fresh(self) -> list[AttackRun]:
        """The best responses as attacks, raw."""
        return [
            self.run(f"fresh adversary {i + 1}", "learned", LearnedAttack(r.adversary, self.threat()))
            for i, r in enumerate(self.responses)
        ]

    @cached_property
    def at_hand(self) -> list[Fresh]:
        """The best responses that were trained at the claimed eps, the shortest first."""
        return sorted((r for r in self.subject.fresh if math.isclose(r.eps, self.eps)), key=lambda r: r.steps)

    @cached_property
    def given(self) -> list[Fresh]:
        """Those at hand that see x only, the longest training of each seed."""
        return longest(self.at_hand, "x")

    @property
    def equal_kind(self) -> str:
        """The kind of the best responses that see as much as the co-trained adversary, and as often; "" without one."""
        network = self.network
        if isinstance(network, RecurrentAdversary):
            return "recurrent"
        return "" if network is None else next((kind for kind, seen in KINDS.items() if seen == network.sees), "")

    @cached_property
    def informed_adversaries(self) -> list[tuple[AttackRun, AnyAdversary]]:
        """The best responses at hand that see more than x, each with its run; those like the game's own are in `equals`."""
        kinds = dict.fromkeys(r.kind for r in self.at_hand if r.kind not in ("x", self.equal_kind))
        known = [(f"best response {r.kind} {r.seed}", r) for kind in kinds for r in longest(self.at_hand, kind)]
        return [
            (self.run(name, "learned", LearnedAttack(network, self.threat())), network)
            for name, r in known
            for network in [r.adversary.to(self.device)]
        ]

    @cached_property
    def informed(self) -> dict[str, list[AttackRun]]:
        """The runs of best responses that see more than x, by kind."""
        found: dict[str, list[AttackRun]] = {}
        for run, _ in self.informed_adversaries:
            found.setdefault(run.name.split()[2], []).append(run)
        return found

    @cached_property
    def doubling(self) -> tuple[AttackRun, AttackRun] | None:
        """A best response and the same one after twice the training; None where there is neither at hand, nor one to train on.

        One that sees what the co-trained adversary sees, since by these a game is judged. The first seed at hand in both lengths,
        else the first that was trained here.
        """
        attack: Callable[[AnyAdversary], Attack]
        if self.equal_responses:
            kind, responses, runs, attack = self.equal_kind, self.equal_responses, self.equals, self.as_own
        else:
            kind, responses, runs = "x", self.responses, self.fresh
            attack = partial(LearnedAttack, threat=self.threat())
        given = longest(self.at_hand, kind)
        for whole, run in zip(given, runs, strict=False):
            for r in self.at_hand:
                if (r.kind, r.seed, 2 * r.steps) == (kind, whole.seed, whole.steps):
                    half = attack(r.adversary.to(self.device))
                    return self.run(f"{run.name}, half as long", "learned", half, again=True), run
        first = len(given)
        if self.training_data is None or len(responses) == first:
            return None
        self.notice("training a fresh adversary for as many steps again")
        more = longer(
            responses[first],
            self.base,
            self.training_data,
            self.threat(),
            seed=self.seed,
            seconds=self.level.fresh_seconds,
        )
        return runs[first], self.run(f"{runs[first].name}, twice as long", "learned", attack(more.adversary))

    @property
    def network(self) -> AnyAdversary | None:
        """The co-trained adversary."""
        given = self.subject.adversary
        return given.adversary if isinstance(given, LearnedAttack) else given

    @cached_property
    def own(self) -> AttackRun | None:
        """The co-trained adversary as an attack: the in-game number, never a robust one."""
        if self.network is None:
            return None
        return self.run("its own adversary", "in-game", self.as_own(self.network))

    def as_own(self, adversary: AnyAdversary, threat: ThreatModel | None = None) -> Attack:
        """The attack that was given as the co-trained one, with this adversary: its start, what it asks, its mode."""
        given, threat = self.subject.adversary, threat or self.threat()
        if isinstance(given, LearnedAttack):
            return aimed(replace(given, adversary=adversary), threat)
        return LearnedAttack(adversary, threat)

    @cached_property
    def learned(self) -> list[AttackRun]:
        """Every adversary that is shown no gradient of the model."""
        return [*self.fresh, *self._others(guided=False)]

    @cached_property
    def guided(self) -> list[AttackRun]:
        """Every adversary that is, and so no attack without the gradient."""
        informed = [run for run, network in self.informed_adversaries if "gradient" in network.sees]
        return [*self.equals, *informed, *self._others(guided=True)]

    def _others(self, *, guided: bool) -> list[AttackRun]:
        """Adversaries of other runs, and the co-trained one, that are shown the model's gradient or are not."""
        found = [
            self.run(f"adversary of {name}", "learned", aimed(attack, self.threat()))
            for name, attack in self.subject.learned.items()
            if ("gradient" in attack.adversary.sees) == guided
        ]
        if self.network is not None and self.own is not None and ("gradient" in self.network.sees) == guided:
            found.append(self.own)
        return found


def longest(fresh: Sequence[Fresh], kind: str) -> list[Fresh]:
    """The longest training of each seed of a kind."""
    found: dict[int, Fresh] = {}
    for response in fresh:
        if response.kind == kind and response.steps > (found[response.seed].steps if response.seed in found else 0):
            found[response.seed] = response
    return list(found.values())
