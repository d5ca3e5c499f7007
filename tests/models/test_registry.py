"""Every promise of the zoo, for every model of the registry and none left out.

The networks are the real ones, with few classes and at small inputs. A network is trained and exported once, and its
file is gone before the next model begins.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F
from zoo_reference import on_meta

from edgecv import models
from edgecv_export import graph
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.backends.tensorrt.build import Plan
from edgecv_runtime.backends.tensorrt.builder import build_engine

CLASSES, BATCH, STEPS = 3, 4, 3
TOLERANCE = 1e-3  # relative to the largest logit
CONTROL_FLOW = {"If", "Loop", "Scan", "NonZero", "ScatterND"}  # an exporter writes them where Python computed shapes


def small_size(name):
    """A small input that is no square: (height, width), or (samples,)."""
    spec = models.spec(name)
    network = on_meta(name)
    if spec.task == "sequence":
        return (64,)
    if name == "mlp":
        return spec.size
    side = -(-max(32, network.smallest) // network.multiple) * network.multiple
    return (side, side + max(16, network.multiple))


@dataclass(frozen=True)
class Trained:
    """losses: before each step and after the last, on one batch. unreached: parameters that never had a gradient."""

    losses: tuple[float, ...]
    unreached: list[str]


class Subject:
    """A model of the zoo; what takes time is done once, when a test first asks for it."""

    def __init__(self, name, folder):
        self.name, self.spec, self.size = name, models.spec(name), small_size(name)
        self.network = models.create(name, classes=CLASSES, seed=0)
        self.path = folder / f"{name}.onnx"

    @cached_property
    def trained(self):
        """A few steps on the same pictures with the same dropout."""
        network = self.network.train()
        x = torch.randn(BATCH, self.spec.channels, *self.size, generator=torch.Generator().manual_seed(0))
        places = () if self.spec.task in ("classification", "detection") else self.size
        labels = torch.arange(BATCH).reshape(-1, *[1] * len(places)).expand(-1, *places) % CLASSES
        rate = 1e-3 if self.spec.task == "detection" else 2e-4  # its heads begin with weights near zero
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
        unreached = {name for name, _ in network.named_parameters()}

        def loss(seed):
            torch.manual_seed(seed)
            outputs = network(x)
            heads = outputs if isinstance(outputs, models.Supervised) else models.Supervised(outputs, (), 0.0)
            first, *others = (_loss(each, labels) for each in (heads.logits, *heads.auxiliary))
            return first + heads.weight * sum(others)

        def backward(seed):
            optimizer.zero_grad()
            value = loss(seed)
            value.backward()
            for name in sorted(unreached):
                gradient = network.get_parameter(name).grad
                if gradient is not None and gradient.any():
                    unreached.remove(name)
            return value.item()

        losses = []
        for _ in range(STEPS):
            losses.append(backward(seed=0))
            optimizer.step()
        with torch.no_grad():
            losses.append(loss(seed=0).item())
        for seed in (1, 2):  # stochastic depth may have dropped a branch of all samples
            if unreached:
                backward(seed)
        network.zero_grad()
        return Trained(tuple(losses), sorted(unreached))

    @cached_property
    def exported(self):
        """What the trained network computes: its ONNX file, the inputs, PyTorch's outputs for them."""
        assert self.trained
        network = self.network.eval()
        if self.spec.task == "sequence":
            model = graph.trace(network, torch.zeros(2, self.spec.channels, *self.size), "signal", ["logits"])
            inputs = {"signal": np.random.default_rng(0).standard_normal((BATCH, 1, *self.size), np.float32)}
            with torch.inference_mode():
                expected = {"logits": network(torch.from_numpy(inputs["signal"])).numpy()}
        else:
            names = ("boxes", "scores") if self.spec.task == "detection" else ("logits",)
            deployed = graph.Deployed(network, self.spec.normalization, names)
            model = graph.to_onnx(deployed, self.size, 3, {})
            inputs = {"image": np.random.default_rng(0).integers(0, 256, (BATCH, *self.size, 3), np.uint8)}
            expected = graph.references(deployed, inputs["image"])
        onnx.save(model, self.path)
        operators = {node.op_type for node in model.graph.node}
        return operators, inputs, expected

    def check_parity(self, backend):
        """Run the file at two batch sizes on a backend."""
        _, inputs, expected = self.exported
        opened = backends.get(backend)(self.path, Options(precision="float32"))
        try:
            for batch in (1, BATCH):
                got = opened.run({name: value[:batch] for name, value in inputs.items()})
                assert set(got) == set(expected)
                for name, right in expected.items():
                    assert got[name].shape == right[:batch].shape
                    assert np.abs(got[name] - right[:batch]).max() <= TOLERANCE * np.abs(right).max()
        finally:
            opened.close()


def _loss(outputs, labels):
    """Cross-entropy; of a detector, of its scores' mean, and something that moves its boxes."""
    if not isinstance(outputs, models.Dense):
        return F.cross_entropy(outputs, labels)
    return F.cross_entropy(outputs.scores.mean(1), labels) + 1e-3 * outputs.boxes.abs().mean()


# Of two rows with one network, which differ in the size of their pictures, the first.
@pytest.fixture(scope="module", params=[name for name in models.names() if not name.endswith("_416")])
def subject(request, tmp_path_factory):
    """One model after the other: pytest runs all tests of a model before it makes the next."""
    made = Subject(request.param, tmp_path_factory.mktemp("zoo"))
    yield made
    made.path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", models.names())
def test_shapes_follow_from_size_classes_and_channels(name):
    spec = models.spec(name)
    sizes = {spec.size, small_size(name)}
    assert len(sizes) == (1 if name == "mlp" else 2)
    for channels, size in zip((1, 4), sorted(sizes), strict=False):
        network = on_meta(name, classes=7, in_channels=channels).eval()
        logits = network(torch.empty(2, channels, *size, device="meta"))
        if spec.task == "detection":
            count = sum(size[0] * size[1] // stride**2 for stride in (8, 16, 32))
            assert (logits.boxes.shape, logits.scores.shape) == ((2, count, 4), (2, count, 7))
            continue
        assert logits.shape == ((2, 7) if spec.task == "classification" else (2, 7, *size))


def test_fresh_weights_prefer_no_class(subject):
    """A head that starts with large logits spends its first epochs on unlearning them."""
    assert subject.trained.losses[0] < 2 * np.log(CLASSES)


def test_learns(subject):
    assert subject.trained.losses[-1] < 0.99 * subject.trained.losses[0]


def test_gradient_reaches_every_parameter(subject):
    assert subject.trained.unreached == []


def test_exports_to_plain_onnx(subject):
    operators, _, expected = subject.exported
    assert operators.isdisjoint(CONTROL_FLOW)
    for right in expected.values():
        assert np.isfinite(right).all()
        assert right.std() > 1e-3 * np.abs(right).max()  # parity of nothing with nothing would prove nothing


def test_onnx_runtime_computes_the_same(subject):
    subject.check_parity("onnxruntime")


def test_openvino_computes_the_same(subject):
    subject.check_parity("openvino")


def test_tensorrt_builds_an_engine_without_a_gpu(subject):
    assert subject.exported
    assert build_engine(subject.path, Plan(max_batch=BATCH), compute_capabilities=[(8, 6)])
