"""The training loop on lightning-fabric: everything that happens in a step follows from (seed, epoch, step)."""

from __future__ import annotations

import copy
import hashlib
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecv.models import Supervised
from edgecv.recipe_train import TrainConfig
from edgecv.tasks import Prepared, Training
from edgecv.train import checkpoint, curves, mosaic
from edgecv.train.averaging import estimate_statistics, follow
from edgecv.train.curves import Epoch
from edgecv.train.display import Display
from edgecv.train.evaluate import batches, standardize
from edgecv.train.optimizer import learning_rate, make_optimizer, steps_per_epoch
from edgecv.train.signals import Interrupted, Stop
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.preprocess import Normalization

CHECKPOINT = "checkpoint.edgecv"


@dataclass(frozen=True, eq=False)
class Arrays:
    """Decoded images, (N, H, W, C) uint8, and what is right of each, as the task prepared it; of those that a
    validation takes, too. `statistics` are for batch norm, None for none.
    """

    train: NDArray[np.uint8]
    train_targets: Prepared
    val: NDArray[np.uint8]
    val_targets: Prepared
    statistics: NDArray[np.uint8] | None


@dataclass
class Sums:
    """An epoch so far: loss and right answers summed over the images seen, and the seconds spent."""

    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    seconds: float = 0.0


class Loop:
    """One run: where it stands is (epoch, step), both counted from 0 and meaning the next one to do."""

    def __init__(
        self,
        model: nn.Module,
        task: Training,
        arrays: Arrays,
        normalization: Normalization,
        color: str,
        config: TrainConfig,
        folder: Path,
        run: Mapping[str, str],
        stop: Stop,
        checkpoint_s: float,
    ) -> None:
        self.config = config
        self.steps = steps_per_epoch(len(arrays.train), config.batch)
        self.epoch = self.step = 0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self._sums = Sums()
        self._task, self._names = task, curves.Names(task.progress, task.metric)
        self._arrays, self._normalization, self._color = arrays, normalization, color
        self._folder, self._run, self._stop = folder, dict(run), stop
        self._checkpoint_s, self._saved_at = checkpoint_s, -math.inf

        if _channels_last(model, config):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._fabric = Fabric(accelerator="auto", devices=1, precision=_precision(config))
        optimizer = make_optimizer(model.to(self._fabric.device), config, self._fabric.device)
        self._model = model
        self._optimizer = optimizer
        self._forward, self._update = self._fabric.setup(model, optimizer)
        self._average = copy.deepcopy(model) if config.ema else model
        self._layout = torch.channels_last if _channels_last(model, config) else torch.contiguous_format

    def run(self, display: Display) -> None:
        """Train to the end, or to the point where validation no longer gets better."""
        self._save_when_due()  # what would keep a checkpoint from being written is known before hours are spent
        while self.epoch < self.config.epochs and not self._stale():
            self._train_epoch(display)
            row = self._validate()
            self.history.append(row)
            display.epoch(row)
            curves.write_csv(self._folder / "curves.csv", self.history, self._names)
            self.epoch, self.step, self._sums = self.epoch + 1, 0, Sums()
            self._save_when_due()
        self._save()
        self._end_if_asked()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was made."""
        self.epoch, self.step, self.best_epoch = state["epoch"], state["step"], state["best_epoch"]
        self.history = [Epoch(*row) for row in state["history"]]
        self._sums = Sums(*state["sums"])
        self.best = state["best"]
        self._model.load_state_dict(state["model"])
        if self._average is not self._model:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._saved_at = time.monotonic()

    def _train_epoch(self, display: Display) -> None:
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(len(self._arrays.train))
        batches = np.array_split(order, self.steps)
        self._model.train()
        while self.step < self.steps:
            started = time.monotonic()
            self._train_step(batches[self.step])
            self.step += 1
            sums = self._sums
            sums.seconds += time.monotonic() - started
            display.step(self.epoch + 1, sums.loss / sums.seen, sums.right / sums.seen, sums.seen / sums.seconds)
            self._save_when_due()

    def _train_step(self, chosen: NDArray[np.int64]) -> None:
        config, device = self.config, self._fabric.device
        done = self.epoch * self.steps + self.step
        rate = learning_rate(config, done, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(_seed(config.seed, self.epoch, self.step))

        images = torch.from_numpy(self._arrays.train[chosen]).to(device)
        targets = self._task.collate(self._arrays.train_targets, chosen, device)
        with torch.no_grad():
            pixels, targets = self._task.augment(images.permute(0, 3, 1, 2).float() / 255, targets)
            pixels = standardize(pixels, self._normalization).contiguous(memory_format=self._layout)

        if done < mosaic.BATCHES:
            mosaic.keep(self._folder, done, pixels, self._normalization, self._color)
        outputs = self._forward(pixels)
        heads = outputs if isinstance(outputs, Supervised) else Supervised(outputs, (), 0.0)
        loss, total = self._losses(heads, targets)
        if not math.isfinite(total.item()):
            raise ComputationError(
                f"the training loss is {total.item()} in epoch {self.epoch + 1}, step {self.step + 1} of {self.steps}; "
                f"lower train.lr (it is {config.lr:g}) or lengthen train.warmup_epochs"
            )
        self._fabric.backward(total)
        self._update.step()
        self._update.zero_grad()
        if self._average is not self._model:
            follow(self._average, self._model, config.ema, done)
        self._sums.loss += loss.item() * len(chosen)
        self._sums.right += self._task.right(heads.logits, targets)
        self._sums.seen += len(chosen)

    def _losses(self, heads: Supervised, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss of the main head, and what is minimized: with the weighted ones of the auxiliary heads."""
        loss, *others = (self._task.loss(outputs, targets) for outputs in (heads.logits, *heads.auxiliary))
        return loss, loss + heads.weight * sum(others)

    def _validate(self) -> Epoch:
        """Evaluate the average and keep it when it is the best so far; after an interruption this is done anew."""
        started = time.monotonic()
        kept = copy.deepcopy(self._average)
        if self._arrays.statistics is not None:
            estimate_statistics(kept, self._arrays.statistics, self._normalization, between=self._end_if_asked)
        loss, score = self._judge(kept)
        if not math.isfinite(loss):
            raise ComputationError(
                f"the validation loss is {loss} after epoch {self.epoch + 1}; lower train.lr (it is {self.config.lr:g})"
            )
        sums = self._sums
        row = Epoch(
            epoch=self.epoch + 1,
            lr=learning_rate(self.config, (self.epoch + 1) * self.steps - 1, self.steps),
            train_loss=sums.loss / sums.seen,
            train_right=sums.right / sums.seen,
            val_loss=loss,
            val_score=score,
            images_per_s=sums.seen / sums.seconds,
            seconds=sums.seconds + time.monotonic() - started,
        )
        best = self.history[self.best_epoch - 1] if self.best_epoch else None
        if best is None or (row.val_score, -row.val_loss) > (best.val_score, -best.val_loss):
            self.best_epoch = row.epoch
            self.best = {name: tensor.cpu() for name, tensor in kept.state_dict().items()}
        return row

    def _judge(self, kept: nn.Module) -> tuple[float, float]:
        """Loss and score of weights on the validation images."""
        task, arrays, device = self._task, self._arrays, self._fabric.device
        loss, tallies = 0.0, list[Any]()
        found = batches(kept, arrays.val, self._normalization, between=self._end_if_asked)
        for positions, outputs in found:
            judged = task.judge(outputs, task.collate(arrays.val_targets, positions, device))
            loss += judged.loss
            tallies += judged.tallies
        return loss / len(arrays.val), task.score(tallies)

    def _stale(self) -> bool:
        return 0 < self.config.patience <= self.epoch - self.best_epoch

    def _end_if_asked(self) -> None:
        if self._stop.signum is not None:
            self._save()
            name = signal.Signals(self._stop.signum).name
            raise Interrupted(
                f"{name} in epoch {self.epoch + 1}, step {self.step} of {self.steps}: saved in {self._folder}; "
                "run again to go on",
                self._stop.signum,
            )

    def _save_when_due(self) -> None:
        self._end_if_asked()
        if time.monotonic() - self._saved_at >= self._checkpoint_s:
            self._save()

    def _save(self) -> None:
        state = {
            "run": self._run,
            "epoch": self.epoch,
            "step": self.step,
            "history": [list(astuple(row)) for row in self.history],
            "sums": list(astuple(self._sums)),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "model": self._model.state_dict(),
            "average": self._average.state_dict() if self._average is not self._model else None,
            "optimizer": self._optimizer.state_dict(),
        }
        checkpoint.save(self._folder / CHECKPOINT, state)
        self._saved_at = time.monotonic()


def _seed(seed: int, epoch: int, step: int) -> int:
    """A seed of 63 bits for one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{step}".encode()).digest()[:8], "big") >> 1


def _channels_last(model: nn.Module, config: TrainConfig) -> bool:
    if config.channels_last != "auto":
        return config.channels_last
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _precision(config: TrainConfig) -> Any:
    wanted = config.precision
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    return {"bf16": "bf16-mixed", "float32": "32-true"}[wanted]
