"""What the models of the zoo cost: counted once and kept in the package, because counting all takes ten seconds.

After a change to the zoo or to the X-ray: `python -c "from edgecv.xray import costs; costs.write()"`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgecv.xray.fields import Field
from edgecv.xray.rows import table
from edgecv.xray.source import zoo
from edgecv_runtime import files

TABLE = Path(__file__).with_name("costs.json")


class Cost(NamedTuple):
    """What a model costs and sees, at its own size, batch 1, with its usual classes and channels."""

    macs: int
    parameters: int
    field: Field | None


def cost(name: str) -> Cost:
    """MACs, parameters and receptive field of a model of the zoo; raises BadInput for an unknown name."""
    return _kept().get(name) or counted(name)


def counted(name: str) -> Cost:
    """The same from the network itself; some tenths of a second, no weights are made."""
    total = table(zoo(name)).total
    return Cost(total.macs, total.parameters, total.field)


@cache
def _kept() -> dict[str, Cost]:
    return msgspec.json.decode(TABLE.read_bytes(), type=dict[str, Cost])


def write() -> None:
    """Count every model and write the table, a line a model."""
    from edgecv import models

    lines = [f'"{name}": {msgspec.json.encode(counted(name)).decode()}' for name in models.names()]
    files.write(TABLE, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
