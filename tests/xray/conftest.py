"""Networks exported once and shared by the tests of the X-ray."""

import onnx
import pytest
import torch
from xray_lab import different

from edgecv import models
from edgecv_export import graph
from edgecv_runtime import Normalization


@pytest.fixture(scope="session")
def exported_onnx(tmp_path_factory):
    """Name of a zoo model -> its ONNX file, as `edgecv export` writes it, at its own size or another."""
    folder = tmp_path_factory.mktemp("xray")

    def make(name, size=None):
        size = size or models.spec(name).size
        path = folder / f"{name}-{size[0]}.onnx"
        if not path.exists():
            network = models.create(name, seed=0)
            different(network)
            deployed = graph.Deployed(network, Normalization())
            with torch.no_grad():
                onnx.save(graph.to_onnx(deployed, size, 3, {}), path)
        return path

    return make
