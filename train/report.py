"""What a run says of itself: a line every so many steps, `log.txt`, and TensorBoard where it is installed."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.train.device import Lap
    from codec.train.trainer import StepReport, Trainer


class Report:
    """The log of one run folder; without a folder, as on all ranks but the first, it goes nowhere."""

    def __init__(self, folder: Path | None, step: int) -> None:
        path = Path(os.devnull) if folder is None else folder / "log.txt"
        self.file = path.open("a", buffering=1)
        self._hook = threading.excepthook
        self.board = None if folder is None else _open_board(folder / "tensorboard", step)
        if self.board is not None:
            threading.excepthook = self._thread_ended

    def write(self, line: str) -> None:
        """One line with the time before it."""
        self.file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")

    def step(self, trainer: Trainer, result: StepReport, lap: Lap) -> str:
        """The line of a training step.

        Args:
            trainer: after the step.
            result: of the step.
            lap: speed since the last line.
        """
        recipe = trainer.recipe
        values = {name: float(value) for name, value in result.values.items()}
        grad_norm = float(result.grad_norm)
        rows = trainer.learner.usage()[: _started(trainer)]
        usage = min((row["usage"] for row in rows), default=0.0)
        heard = lap.speed * recipe.data.batch * recipe.data.crop
        idle = {} if lap.idle is None else {"idle": lap.idle}
        run = {"grad_norm": grad_norm, "rate": result.rate, "steps_per_s": lap.speed, "waiting": lap.waiting}
        self._scalars("train", values | run | idle, trainer)
        for i, row in enumerate(rows):
            self._scalars(f"codebook_{i}", row, trainer)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        busy = "" if lap.idle is None else f"  device idle {lap.idle:.1%}"
        skipped = f"  skipped {trainer.skipped}" if trainer.skipped else ""
        return (
            f"step {trainer.step}/{recipe.optim.steps}  {terms}  grad {grad_norm:.2f}  rate {result.rate:.1e}  "
            f"usage {usage:.2f} of {len(rows)}  {lap.speed:.2f} steps/s  {heard:.0f} s of audio/s  "
            f"waiting {lap.waiting:.1%}{busy}{skipped}"
        )

    def measure(self, trainer: Trainer, values: dict[str, float]) -> str:
        """The line of a measure on held-out speech."""
        self._scalars("held_out", values, trainer)
        return f"step {trainer.step}  held out:  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items())

    def audio(self, name: str, samples: Any, step: int, sample_rate: int) -> None:
        """Audio (T,) for TensorBoard."""
        if self.board is not None:
            self.board.add_audio(name, samples, step, sample_rate)

    def close(self) -> None:
        """Flush and close. Raises: OSError where the disk is full, also one that TensorBoard's thread met."""
        try:
            self.file.close()
            if self.board is not None:
                self.board.close()
        finally:
            threading.excepthook = self._hook

    def _thread_ended(self, args: threading.ExceptHookArgs) -> None:
        """Say nothing of a full disk: TensorBoard raises its thread's error again at the next value, in ours."""
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            self._hook(args)

    def _scalars(self, group: str, values: dict[str, float], trainer: Trainer) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, trainer.step)


def _started(trainer: Trainer) -> int:
    return sum(stage < trainer.learner.n_started for stage in trainer.network.bottleneck.stages)


def _open_board(folder: Path, step: int) -> Any:
    with warnings.catch_warnings():
        # tensorboard and the protobuf code it brings warn of their own inner calls while they are imported.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from torch.utils.tensorboard.writer import SummaryWriter  # an extra, and slow to import
        except ImportError:
            return None
        return SummaryWriter(str(folder), purge_step=step)
