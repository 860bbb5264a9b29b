"""The headline over the whole test set: the attacks of the audit as one suite, without the checks' raw runs."""

import torch

from sparring.attacks import Attack, LearnedAttack, fgsm
from sparring.attacks.contract import aimed
from sparring.auditing import suite
from sparring.auditing.evidence import BATCH, Evidence
from sparring.auditing.verdict import Headline
from sparring.errors import InputError
from sparring.evaluation.worst_case import worst_case
from sparring.threat import ThreatModel

NOT_RANDOM = "the headline over the whole test set is for models that repeat; leave out full"


def over_all(e: Evidence) -> Headline:
    """What survives at the claimed eps of all test examples: FGSM, every adversary at hand, and the headline's suite with Square.

    The audited examples must also survive every run of the checks, so that more examples never make a laxer judge.
    Finished pieces are kept in the evidence's store. Raises InputError for a model that is random on purpose, which the engine
    does not average.
    """
    if e.subject.declared_random:
        raise InputError(NOT_RANDOM)
    e.notice(f"worst case over all {len(e.subject.data)} examples")

    def attacks(threat: ThreatModel) -> list[tuple[str, Attack]]:
        learned: list[tuple[str, Attack]] = [
            (f"adversary of {k}", aimed(a, threat)) for k, a in e.subject.learned.items()
        ]
        fresh: list[tuple[str, Attack]] = [
            (f"fresh adversary {i + 1}", LearnedAttack(r.adversary, threat)) for i, r in enumerate(e.responses)
        ]
        fresh += [(run.name, LearnedAttack(a, threat)) for run, a in e.informed_adversaries]
        told = zip(e.equals, e.equal_responses, strict=True)
        fresh += [(run.name, e.as_own(r.adversary, threat)) for run, r in told]
        gradient = suite.headline(e.level, e.data.n_classes, claimed=-1.0)(threat)
        own: list[tuple[str, Attack]] = (
            [] if e.network is None else [("its own adversary", e.as_own(e.network, threat))]
        )
        return [("FGSM", fgsm(threat)), *own, *fresh, *learned, *gradient]

    data = e.subject.data.to(e.device)
    store = e.store / "whole" if e.store is not None else None
    worst = worst_case(e.target, data, (e.eps,), attacks, batch_size=BATCH, store=store, seed=e.seed)
    survived = worst.robust[0].float()
    survived[e.indices] = torch.minimum(survived[e.indices], e.standing(e.eps).cpu())
    stages = [stage.attack for stage in worst.stages if stage.eps == e.eps]
    names = suite.distinct(e.runs.values(), e.eps) | {suite.attack_of(name) for name in stages}
    return Headline(e.eps, len(data), float(survived.sum()), len(names))
