"""Seeds of one regime trained together, from configs to saved weights: the order of events, checkpoints, logs.

Each seed has a folder of its own, written as if it trained alone, so that running again continues it, bit for bit, or says
that it is done; and so that any seeds may train together next time.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import nn

from sparring import data, locks
from sparring.adversaries import Adversary, RecurrentAdversary, stack_any
from sparring.adversaries.adversary import n_parameters
from sparring.config import Run, Training
from sparring.copies import Copy, Notice, claim, clear, epoch_record, make_folder, standing_together
from sparring.environment import environment
from sparring.errors import Diverged, InputError, Interrupted
from sparring.evaluation import memory
from sparring.experiment import Streams, move_of, new_adversary, new_defender, new_player
from sparring.game.checkpoint import (
    prune,
    restore_checkpoint,
    restore_copies,
    save_checkpoint,
    save_weights,
)
from sparring.game.closing import close, closing_turns
from sparring.game.moves import Move, best_response, in_precision
from sparring.game.player import Player
from sparring.game.train import ADVICE, Epoch, Progress, Standing, train
from sparring.game.unrolled import learns_at
from sparring.game.warm import WarmStart
from sparring.losses import LOSSES
from sparring.models import copy_to, stack, stack_sizes
from sparring.records import EpochRecord, RunPaths, RunRecord, append, read_json, restore
from sparring.settings import to_dict
from sparring.threat import ThreatModel

Phase = Literal["adversary", "main"]
ALONE = 2**32  # added to the seed where the adversary trains alone, so that its order of the data is another


def train_run(
    run: Run, paths: RunPaths, train_on: data.Data, *, vanilla: Callable[[], nn.Module] | None = None, **options: Any
) -> RunRecord:
    """Train one run to its end: `train_runs` for a single seed, without an axis of copies."""
    return train_runs([run], [paths], train_on, vanilla=None if vanilla is None else [vanilla], **options)[0]


def train_runs(
    runs: Sequence[Run],
    paths: Sequence[RunPaths],
    train_on: data.Data,
    *,
    vanilla: Sequence[Callable[[], nn.Module]] | None = None,
    device: torch.device | str = "cpu",
    notice: Notice = lambda text: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    interrupted: Callable[[], int] = lambda: 0,
    restart: bool = False,
    anew: str = "--restart",
) -> list[RunRecord]:
    """Train seeds of one regime to their ends, as one stack or a few, or go on where an earlier call stopped.

    The runs differ in their seeds only. A finished one is only read; one that diverges is recorded as such, and the others
    go on. `vanilla` gives each seed's trained vanilla model, which an initialised game's adversary first trains against.
    `interrupted` is asked after every step for the number of a signal that has come; the state is then saved and Interrupted
    raised. `anew` is what errors advise for a training from the beginning. Raises InputError for a folder made by another
    config or data, CorruptCheckpoint where no checkpoint is sound, Busy where another process holds a folder.
    """
    device = torch.device(device)
    for one in paths:
        make_folder(one.folder)
    with ExitStack() as held:
        for one in paths:
            held.enter_context(locks.held(one.lock))
        parts = _in_stacks(runs, train_on, device)
        for part in parts:
            for number in part:
                if restart:
                    clear(paths[number])
                claim(runs[number], paths[number], train_on, device, len(part), notice, anew)
        left = [
            [Copy(runs[i], paths[i], i, train_on, anew) for i in part if not paths[i].done.is_file()] for part in parts
        ]
        if any(left) and runs[0].alone is not None and vanilla is None:
            raise InputError(
                f"{runs[0].recipe} needs the trained vanilla model of the same seed: train `vanilla` first"
            )
        on = train_on.to(device)
        for part, copies in zip(parts, left, strict=True):
            for group in standing_together(copies, notice):
                models = [vanilla[copy.number] for copy in group] if vanilla else None
                _Session(group, on, device, len(part) > 1, notice, on_epoch, interrupted).play(models)
        return [restore(RunRecord, read_json(one.done)) for one in paths]


def _in_stacks(runs: Sequence[Run], train_on: data.Data, device: torch.device) -> list[range]:
    """Which of the runs train as one stack: as many at once as train fastest."""
    parameters = n_parameters(new_defender(runs[0], train_on.shape, train_on.n_classes))
    if runs[0].learner:
        parameters += n_parameters(new_adversary(runs[0], train_on.shape))
    ends = list(accumulate(stack_sizes(len(runs), parameters, device)))
    return [range(start, end) for start, end in pairwise([0, *ends])]


class _Session:
    """One process's work on some seeds that stand at the same step: their phases, checkpoints and logs."""

    def __init__(
        self,
        copies: list[Copy],
        train_on: data.Data,
        device: torch.device,
        stacked: bool,
        notice: Notice,
        on_epoch: Callable[[EpochRecord], None],
        interrupted: Callable[[], int],
    ) -> None:
        self.copies, self.data, self.device, self.stacked = copies, train_on, device, stacked
        self.notice, self.report_epoch, self.interrupted = notice, on_epoch, interrupted
        self.run = copies[0].run  # but for the seed, the run of all
        self.threat = ThreatModel(self.run.eps, train_on.shape)
        self.last_save = time.monotonic()

    def play(self, vanilla: Sequence[Callable[[], nn.Module]] | None) -> None:
        """All phases; every copy's weights and record are written as it ends."""
        everyone = list(self.copies)
        if self.run.alone is not None:
            assert vanilla is not None
            self._alone(self.run.alone, everyone, vanilla)
        self.copies = [copy for copy in everyone if not copy.paths.done.is_file()]
        if not self.copies:
            return
        run = self.run
        networks: list[nn.Module] = [copy.defender for copy in self.copies]
        defender = self._player("defender", networks, run.defender.optimizer, maximize=False)
        players = [defender]
        if run.learner is not None:
            adversaries: list[nn.Module] = [copy.adversary for copy in self.copies if copy.adversary is not None]
            players.insert(0, self._player("adversary", adversaries, run.learner.optimizer, maximize=True))
        streams, warm = Streams.of(self._seeds()), None
        if run.recurrent is not None and run.recurrent.warm:
            warm = WarmStart(len(self.data), self.data.shape, self._seeds(), self.device)
        move = move_of(run, defender, players[0] if len(players) > 1 else None, self.threat, streams, warm)
        defender.network.train()
        self._phase("main", move, players, run.training, streams, warm, [], self._finish)

    def _finish(self, copy: Copy, reason: str) -> None:
        """Close a recurrent adversary's game, then write the weights and the record."""
        run, adversary = copy.run, copy.adversary
        if (r := run.recurrent) is not None and isinstance(adversary, RecurrentAdversary):
            started, defender = time.perf_counter(), copy.defender.to(self.device)
            close(
                adversary.to(self.device),
                defender,
                self.data,
                self.threat,
                turns=closing_turns(r.closing, copy.epochs, self._steps(run.training), r.every),
                seed=run.seed,
                low=run.eps_low,
                power=run.eps_power,
                loss=LOSSES[r.loss],
            )
            copy.seconds += time.perf_counter() - started
        copy.finish(reason)

    def _alone(self, settings: Training, everyone: list[Copy], vanilla: Sequence[Callable[[], nn.Module]]) -> None:
        """The adversaries train alone against the trained vanilla models (paper, section 4.5)."""
        run = self.run
        assert run.adversary is not None
        self.copies = [copy for copy in everyone if copy.first_alone]
        if not self.copies:
            return
        targets = [model().eval() for copy, model in zip(everyone, vanilla, strict=True) if copy.first_alone]
        adversaries: list[nn.Module] = [copy.adversary for copy in self.copies if copy.adversary is not None]
        learner = self._player("adversary", adversaries, run.alone_optimizer, maximize=True)
        model = self._whole(targets).eval()
        move = best_response(learner, model, self.threat, loss=LOSSES[run.adversary.loss], clip=run.play.clip)
        move = in_precision(move, run.precision)

        def finish(copy: Copy, reason: str) -> None:
            assert copy.adversary is not None
            copy.offset = settings.max_epochs * self._steps(settings)  # the same for all seeds, whenever they stop
            copy.log_bytes = copy.log_length()
            header = {"seconds": copy.seconds, "steps": copy.offset, "log_bytes": copy.log_bytes}
            save_weights(copy.paths.trained_alone, copy.adversary, header | {"config": to_dict(copy.run)})
            copy.first_alone = False

        bystanders = [model] if self.stacked else []
        streams = Streams.of(self._seeds())
        self._phase("adversary", move, [learner], settings, streams, None, bystanders, finish)

    def _phase(
        self,
        phase: Phase,
        move: Move,
        players: list[Player],
        settings: Training,
        streams: Streams,
        warm: WarmStart | None,
        bystanders: Sequence[nn.Module],
        finish: Callable[[Copy, str], None],
    ) -> None:
        """One training of the runs, from their newest checkpoint if they have one; `finish` is told who has ended."""
        seeds, progress = self._seeds(), self._restored(phase, players, warm)
        for copy in self.copies:
            copy.epochs = progress.epoch if progress else 0
            memory.forget_after(copy.paths.folder, copy.epochs if phase == "main" else 0)

        def on_step(progress: Progress) -> None:
            if signal_number := self.interrupted():
                self._save(phase, players, warm, settings, progress)
                where = self.copies[0].paths.folder
                others = len(self.copies) - 1
                more = f" and {others} other{'s' * (others > 1)}" if others else ""
                raise Interrupted(
                    signal_number, f"stopped and saved in {where}{more}; the same command goes on from here"
                )

        def on_epoch(epoch: Epoch, progress: Progress) -> None:
            copy = self.copies[epoch.copy]
            copy.seconds += epoch.seconds
            copy.epochs = epoch.epoch
            record = epoch_record(copy.run, phase, epoch)
            append(copy.paths.epochs, record)
            if phase == "main":
                self._remember(copy, players, epoch, progress)
            self.report_epoch(record)

        def part(progress: Progress) -> None:
            """With those who have ended."""
            standings: Sequence[Standing | Progress] = progress.copies or [progress]
            for copy, standing in zip(self.copies, standings, strict=True):
                if isinstance(standing, Standing) and standing.diverged:
                    copy.fail(f"diverged in epoch {progress.epoch}: a loss or gradient is not finite; {ADVICE}")
                elif standing.stopped:
                    self._take(copy, players)
                    finish(copy, standing.stopped)
            self.copies = [copy for copy, one in zip(self.copies, standings, strict=True) if not _ended(one)]

        def after_epoch(progress: Progress) -> None:
            standings: Sequence[Standing | Progress] = progress.copies or [progress]
            narrows = any(_ended(one) for one in standings)  # what follows is then of another stack
            if narrows or time.monotonic() - self.last_save >= settings.checkpoint_seconds:
                self._save(phase, players, warm, settings, progress)
            part(progress)

        if progress is not None:
            part(progress)  # killed before the weights of all who had stopped were written
        if not self.copies:
            return
        try:
            train(
                move,
                self.data,
                players,
                settings,
                seed=_offset(seeds, 0 if phase == "main" else ALONE),
                progress=progress,
                streams=list(streams),
                warm=[warm] if warm else [],
                bystanders=bystanders,
                capture=self.stacked,  # a single network asks after every step whether it is finite
                course=self._course if phase == "main" else lambda step: None,
                on_step=on_step,
                on_epoch=on_epoch,
                after_epoch=after_epoch,
            )
        except Diverged as error:
            for copy in self.copies:
                copy.fail(str(error))

    def _seeds(self) -> int | list[int]:
        return [copy.run.seed for copy in self.copies] if self.stacked else self.copies[0].run.seed

    def _whole(self, networks: Sequence[nn.Module]) -> nn.Module:
        """The networks as the move sees them: one stack, or the only one itself; on the device."""
        if not self.stacked:
            return networks[0].to(self.device)
        if isinstance(networks[0], Adversary | RecurrentAdversary):
            return stack_any(networks).to(self.device)  # type: ignore[arg-type]
        return stack(networks).to(self.device)

    def _player(self, name: str, networks: Sequence[nn.Module], optimizer: Any, *, maximize: bool) -> Player:
        n_copies = len(networks) if self.stacked else None
        return new_player(name, self._whole(networks), optimizer, maximize=maximize, n_copies=n_copies)

    def _take(self, copy: Copy, players: Sequence[Player]) -> None:
        """Write a copy's share of the players into its own networks."""
        if self.stacked:
            for player in players:
                own = copy.defender if player.name == "defender" else copy.adversary
                assert own is not None
                copy_to(player.network, self.copies.index(copy), own)

    def _course(self, step: int) -> bool:
        """Which of its two courses a move takes at a step: a recurrent adversary sits most of them out."""
        return self.run.recurrent is not None and learns_at(step, self.run.recurrent.every)

    def _steps(self, settings: Training) -> int:
        """Steps of an epoch."""
        return max(1, len(self.data) // min(settings.batch_size, len(self.data)))

    def _restored(self, phase: Phase, players: Sequence[Player], warm: WarmStart | None) -> Progress | None:
        """The players as their checkpoints of this phase have them, the logs cut to their length; None without any."""
        saved = [copy.saved for copy in self.copies if copy.saved and copy.saved[2].get("phase") == phase]
        if len(saved) < len(self.copies):
            for copy in self.copies:
                copy.cut_log(copy.log_bytes, copy.paths.trained_alone.name)
            return None
        read = [(tensors, header) for _, tensors, header in saved]
        progress = restore_copies(read, players, warm) if self.stacked else restore_checkpoint(*read[0], players, warm)
        for copy, (path, _, header) in zip(self.copies, saved, strict=True):
            copy.seconds = float(header["seconds"])
            copy.cut_log(int(header["log_bytes"]), path.name)
        n = len(self.copies)
        more = f" of {n} seed{'s' * (n > 1)}" if self.stacked else ""
        self.notice(f"going on from {saved[0][0].name}{more}: epoch {progress.epoch + 1}, step {progress.step}")
        return progress

    def _remember(self, copy: Copy, players: Sequence[Player], epoch: Epoch, progress: Progress) -> None:
        """Keep the snapshot and the watch that the run asks for; the training is not touched."""
        run, folder = copy.run, copy.paths.folder
        standing = progress.copies[epoch.copy] if progress.copies else progress
        keeps = run.history and (epoch.epoch % run.history == 0 or standing.stopped)
        if not keeps and not run.watch:
            return
        self._take(copy, players)
        if keeps:
            memory.save_snapshot(folder, memory.Snapshot(epoch.epoch, copy.defender, copy.adversary), self.data)
        if run.watch:
            fixed = data.stratified(self.data, 512)
            defender = copy.defender.to(self.device)
            fgsm, pgd = memory.overfitting(defender, fixed, self.threat.at(run.judged), seed=run.seed)
            step = epoch.epoch * epoch.steps
            record = memory.WatchRecord(run.recipe, run.seed, epoch.epoch, step, run.judged, len(fixed), fgsm, pgd)
            if record.overfitted and memory.first_overfitted(memory.read_watch(folder)) is None:
                self.notice(
                    f"epoch {record.epoch}, step {step}: {100 * fgsm:.1f} % under FGSM, {100 * pgd:.1f} % under PGD-10; "
                    "the defender may withstand the single step only"
                )
            memory.append_watch(folder, record)

    def _save(
        self, phase: Phase, players: list[Player], warm: WarmStart | None, settings: Training, progress: Progress
    ) -> None:
        """A checkpoint of every copy that is sound, each in its own folder."""
        diverged = torch.stack([player.diverged for player in players]).any(0).reshape(-1).tolist()
        for s, copy in enumerate(self.copies):
            if diverged[s]:
                continue
            header = {
                "phase": phase,
                "seconds": copy.seconds,
                "log_bytes": copy.log_length(),
                "digest": copy.run.digest,
                "data": self.data.fingerprint,
                "environment": environment(self.device),
            }
            if copy.paths.epochs.exists():
                with copy.paths.epochs.open("rb") as log:
                    os.fsync(log.fileno())  # the checkpoint will refer to it
            step = copy.offset + progress.epoch * self._steps(settings) + progress.step
            try:
                save_checkpoint(
                    copy.paths.checkpoint(step), players, progress, header, copy=s if self.stacked else None, warm=warm
                )
            except Diverged:
                if not self.stacked:
                    raise
                continue  # its epoch's end will find it
            prune(copy.paths.folder)
        self.last_save = time.monotonic()


def _ended(standing: Standing | Progress) -> bool:
    return standing.ended if isinstance(standing, Standing) else bool(standing.stopped)


def _offset(seed: int | list[int], by: int) -> int | list[int]:
    return seed + by if isinstance(seed, int) else [one + by for one in seed]
