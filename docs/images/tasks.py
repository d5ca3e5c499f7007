"""README's picture of masks and boxes: what the bundles of `make demo` find in pictures that were held out.

    python docs/images/tasks.py [RUNS]

Run it after `make demo`, whose runs lie in `runs` unless another folder is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import edgecv_runtime as rt
from edgecv import recipe
from edgecv.data import load

RUNS = ("ink", "digit-boxes")
SHOWN, HEIGHT, GAP = 4, 240, 8  # pictures of a run; pixels


def row(run: Path) -> NDArray[Any]:
    """Held-out pictures of a run with what its bundle finds in them, side by side."""
    data = load(recipe.read(run / "recipe.yaml").data)
    drawn = []
    with rt.load(run / "bundle") as model:
        for index in range(SHOWN):
            frame = data.val[index]
            scale = HEIGHT / frame.shape[0]
            large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            drawn += [model(large).draw(large), np.full((HEIGHT, GAP, 3), 255, np.uint8)]
    return np.concatenate(drawn[:-1], axis=1)


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    rows = [row(runs / name) for name in RUNS]
    width = max(each.shape[1] for each in rows)
    whole = [np.pad(each, ((0, GAP), (0, width - each.shape[1]), (0, 0)), constant_values=255) for each in rows]
    cv2.imwrite(str(Path(__file__).with_suffix(".png")), np.concatenate(whole)[:-GAP])


if __name__ == "__main__":
    main()
