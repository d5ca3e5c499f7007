"""The X-ray: what a network computes, layer by layer - shapes, parameters, MACs, memory, receptive field.

>>> from edgecv import xray
>>> table = xray.table(xray.read("resnet18"))
>>> table.total.parameters
11689512
"""

from edgecv.xray.costs import Cost, cost
from edgecv.xray.fields import Field, extents, receptive_fields
from edgecv.xray.fold import fold
from edgecv.xray.graph import Graph, Layer, Tensor
from edgecv.xray.memory import peak_memory
from edgecv.xray.rows import Row, Table, Total, table
from edgecv.xray.source import read, zoo
from edgecv.xray.whatif import Change, what_if

__all__ = [
    "Change",
    "Cost",
    "Field",
    "Graph",
    "Layer",
    "Row",
    "Table",
    "Tensor",
    "Total",
    "cost",
    "extents",
    "fold",
    "peak_memory",
    "read",
    "receptive_fields",
    "table",
    "what_if",
    "zoo",
]
