"""Training: from a data set and a network to weights, resumable at any moment."""

from edgecv.recipe_train import Augment, QuantizedTraining, TrainConfig
from edgecv.train.checkpoint import CheckpointError
from edgecv.train.evaluate import evaluate, normalize
from edgecv.train.fit import TrainResult, fit
from edgecv.train.signals import Interrupted

__all__ = [
    "Augment",
    "CheckpointError",
    "Interrupted",
    "QuantizedTraining",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "fit",
    "normalize",
]
