"""The X-ray: what a network computes, layer by layer - shapes, parameters, MACs, memory, receptive field.

>>> from edgecv import xray
>>> table = xray.table(xray.read("resnet18"))
>>> table.total.parameters
11689512
"""

from edgecv.xray.graph import Graph, Layer, Tensor
from edgecv.xray.source import Cost, cost, read, zoo
from edgecv.xray.table import Field, Row, Table, Total, peak_memory, receptive_fields, table

__all__ = [
    "Cost",
    "Field",
    "Graph",
    "Layer",
    "Row",
    "Table",
    "Tensor",
    "Total",
    "cost",
    "peak_memory",
    "read",
    "receptive_fields",
    "table",
    "zoo",
]
