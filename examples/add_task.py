"""Another meaning for a network's outputs: a classifier that says "unsure" where no class reaches 99 %.

    python examples/add_task.py BUNDLE

A task decodes tensors into results and knows nothing of backends; a bundle's head names its task. Inside edgecv the
same is a file in `edgecv_runtime/tasks/` and a row in the table `TASKS`; in a package of its own, an entry point of the
group "edgecv.tasks" whose class has a `head` record of its own.
"""

import sys
from collections.abc import Sequence

import numpy as np

import edgecv_runtime as rt
from edgecv_runtime import stream, task_table
from edgecv_runtime.backends import Tensors
from edgecv_runtime.geometry import View
from edgecv_runtime.tasks.classification import ClassificationTask

SURE = 0.99


# --- the task
class OrUnsure(ClassificationTask):
    """As a classification, with one class more: "unsure"."""

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[rt.Classification]:
        """One result per frame of the batch."""
        return [self._judged(result) for result in super().decode(outputs, views)]

    def _judged(self, result: rt.Classification) -> rt.Classification:
        if result.score >= SURE:
            return result
        scores = np.append(result.scores * 0, np.float32(1))
        return rt.Classification(scores, (*result.labels, "unsure"))


task_table.TASKS["classification"] = f"{__name__}:OrUnsure"
# --- that is all


def main(bundle: str) -> None:
    with rt.load(bundle) as model, stream.open_source("fake:size=320x240,20") as camera:
        labels = [model(frame.image).label for frame in camera]
    print(f"{labels.count('unsure')} of {len(labels)} frames of a test picture are nothing that the network knows")


if __name__ == "__main__":
    main(*sys.argv[1:])
