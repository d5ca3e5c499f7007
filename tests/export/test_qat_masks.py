"""Segmenters on the grids of their int8 file: trained by their logits, written with the class map behind them."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecv_export.calibrate import sample
from edgecv_export.classmap import ClassMap
from edgecv_export.dialects import DIALECTS
from edgecv_export.graph import Deployed, references, to_onnx
from edgecv_export.plan import Plan, Workshop
from edgecv_export.qat import norms
from edgecv_export.qat.network import FakeQuantized, write
from tests.conftest import NORMALIZATION


class Segmenter(nn.Module):
    """What segmenters are made of: batch norms, both ways to enlarge in steps, and a last one to the input's size."""

    def __init__(self, classes=3, width=12):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.near = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, width, 3, padding=1))
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x):
        deep = self.deep(self.down(x))
        logits = self.head(torch.cat([self.up(deep), self.near(deep)], 1))
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("dialect", ["int8-u8s8", "int8-s8s8"])
def test_the_file_gives_the_classes_of_the_trained_logits(dialect):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    targets = torch.from_numpy(frames.argmax(3))  # the channel that is largest
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Segmenter().eval()
        deployed = ClassMap(network)
        model = to_onnx(Deployed(deployed, NORMALIZATION, ("mask",)), (32, 32), 3, {})
        assert [node.op_type for node in model.graph.node][-2:] == ["ArgMax", "Cast"]
        setting = Workshop(model, sample(frames[:32])).setting(Plan(placement="all", passes=()), DIALECTS[dialect])
        normed = norms.find(deployed, setting.wiring, torch.zeros(2, 3, 32, 32))
        assert len(normed) == 2
        quantized = FakeQuantized(setting, DIALECTS[dialect], normed, live=6)
        optimizer = torch.optim.AdamW(quantized.parameters(), 1e-2)
        normalized = Deployed(nn.Identity(), NORMALIZATION, ("x",))
        losses = []
        for step in range(30):
            pick = slice(step % 2 * 32, step % 2 * 32 + 32)
            logits = quantized.train()(normalized(torch.from_numpy(frames[pick]))[0])
            assert logits.shape == (32, 3, 32, 32)
            loss = F.cross_entropy(logits, targets[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    content = write(quantized.eval(), setting, DIALECTS[dialect])
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (mask,) = onnxruntime.InferenceSession(content, settings).run(None, {"image": frames})
    assert mask.dtype == np.uint8
    wanted = references(Deployed(quantized, NORMALIZATION, ("logits",)), frames)["logits"].argmax(1)
    assert (mask == wanted).mean() > 0.999  # up to rounding
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": frames})[0]
    assert (mask == targets.numpy()).mean() > (before == targets.numpy()).mean() + 0.2
