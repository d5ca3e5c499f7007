"""Networks of one's own that give a tuple, a dict, (N, C, 1, 1) or (N,); what they give is exported or named."""

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import edgecv_runtime as rt
from edgecv_export import merge
from edgecv_export.export import export
from edgecv_runtime import backends, bundle, tasks, verify
from edgecv_runtime.backends import Executed
from edgecv_runtime.budget import weigh
from edgecv_runtime.errors import BadInput, ComputationError, ParityError
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.offers import is_float32s
from edgecv_runtime.target import targets
from edgecv_runtime.verify import Outputs, compare, faults, trace
from edgecv_runtime.verify.blame import Case

LABELS = ("cat", "dog", "owl")
NORMALIZATION = rt.Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FRAMES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)


class Own(nn.Module):
    """A small network whose outputs go through `change`."""

    def __init__(self, change, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.change = nn.Conv2d(3, 4, 3), nn.Conv2d(4, classes, 1), change

    def forward(self, x):
        pooled = torch.relu(self.stem(x)).mean((2, 3), keepdim=True)  # (N, 4, 1, 1)
        return self.change(4 * self.head(pooled))  # (N, C, 1, 1)


def exported(change, path, classes=3, **given):
    given = {"labels": LABELS, "name": "own", "normalization": NORMALIZATION, "images": FRAMES, **given}
    export(Own(change, classes), path, preprocess=rt.Preprocess((8, 8), mode="stretch"), **given)
    return path


def plain(change, classes=3):
    """Oracle: the module itself, on pixels normalized by hand."""
    x = torch.from_numpy(((FRAMES / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        return Own(change, classes)(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.flatten(1),
        lambda x: (x.flatten(1),),
        lambda x: {"logits": x},
        lambda x: [{"out": x.flatten(1)}],
    ],
)
def test_one_tensor_is_found_however_it_is_wrapped(change, tmp_path):
    exported(change, tmp_path / "bundle")
    wanted = torch.softmax(plain(lambda x: x.flatten(1)), 1).numpy()
    for backend in ("onnxruntime", "openvino"):
        with rt.load(tmp_path / "bundle", backend=backend) as model:
            found = np.stack([result.scores for result in model([frame[..., ::-1] for frame in FRAMES])])
        assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda x: (x.flatten(1), x),
            BadInput,
            r"2 tensors in a tuple \(\[0\]: \(2, 3\), \[1\]: .*network\(x\)\[0\] say",
        ),
        (lambda x: {"out": x, "aux": x}, BadInput, r"2 tensors in a dict \(\['out'\]: .*network\(x\)\['out'\] say"),
        (lambda x: None, BadInput, "0 tensors in a NoneType"),
        (lambda x: x.expand(-1, -1, 2, 2), BadInput, r"wants an output of shape \(N, classes\)"),
        (lambda x: x[:, :2], BadInput, "2 classes, but 3 labels"),
        (
            lambda x: nn.Linear(8, 3)(x),
            ComputationError,
            r"cannot export .*floats of \(N, 3, 8, 8\); one that wants ch",
        ),
    ],
)
def test_what_is_no_classifier_is_one_line_with_the_cure(change, error, said, tmp_path):
    with pytest.raises(error, match=said) as caught:
        exported(change, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def heads(path):
    with rt.Bundle(path) as opened:
        return opened.manifest.head


def test_a_network_that_ends_in_a_softmax_gets_no_second_one(tmp_path):
    exported(lambda x: x.flatten(1).softmax(1), tmp_path / "bundle")
    assert heads(tmp_path / "bundle").scores == "probabilities"
    wanted = plain(lambda x: x.flatten(1).softmax(1)).numpy()
    for backend in ("onnxruntime", "openvino"):
        with rt.load(tmp_path / "bundle", backend=backend) as model:
            found = np.stack([result.scores for result in model([frame[..., ::-1] for frame in FRAMES])])
        assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        (lambda x: x.flatten(1).softmax(1), {"scores": "logits"}, "ends in a Softmax: say scores='probabilities'"),
        (lambda x: 100 * x.flatten(1).softmax(1), {}, "a Softmax with Mul behind it.*say scores='percent'"),
        (lambda x: (x.flatten(1).softmax(1) + x.flatten(1).sigmoid()) / 2, {}, "say scores= one of 'logits'"),
        (lambda x: x, {"scores": "logit"}, "no scores 'logit'; did you mean 'logits'"),
        (lambda x: x, {"scores": "probabilities"}, r"lie in 0\.\.1, but the network gave"),
        (lambda x: x, {"thresholds": [0.5]}, "excludes that"),
    ],
)
def test_what_the_network_gives_is_said_or_refused(change, given, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        exported(change, tmp_path / "bundle", **given)
    assert list(tmp_path.iterdir()) == []


def test_several_labels_with_thresholds_travel_in_the_bundle(tmp_path):
    wanted = torch.sigmoid(plain(lambda x: x.flatten(1))).numpy()
    limits = tuple(float(limit) for limit in np.float32(np.median(wanted, axis=0)))
    exported(lambda x: x, tmp_path / "bundle", scores="sigmoid-logits", thresholds=limits)
    assert heads(tmp_path / "bundle").thresholds == limits
    with rt.load(tmp_path / "bundle", backend="onnxruntime") as model:
        results = model([frame[..., ::-1] for frame in FRAMES])
    for result, row in zip(results, wanted, strict=True):
        assert result.scores == pytest.approx(row, abs=1e-5)
        clear = np.abs(row - limits) > 1e-4
        present = {guess.label for guess in result.present}
        assert {label for label, own, sure in zip(LABELS, row >= limits, clear, strict=True) if own and sure} <= present
        assert len(present) <= int((row >= np.array(limits) - 1e-4).sum())


@pytest.mark.parametrize("change", [lambda x: x.flatten(1), lambda x: x.flatten()])
def test_one_output_and_two_labels_are_a_class_and_its_opposite(change, tmp_path):
    exported(change, tmp_path / "bundle", classes=1, labels=("bad", "good"))
    good = torch.sigmoid(plain(lambda x: x.flatten(1), 1)).numpy()
    with rt.load(tmp_path / "bundle", backend="openvino", self_test=True) as model:
        results = model([frame[..., ::-1] for frame in FRAMES])
    assert np.abs(np.stack([each.scores for each in results]) - np.hstack([1 - good, good])).max() < 1e-5


def divergence(wanted, got):
    """Oracle: Kullback-Leibler, written out in float64."""
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    return float((wanted * np.log(wanted / got)).sum(1).mean())


def test_verify_compares_the_scores_that_the_head_gives(tmp_path):
    """A second softmax over probabilities would make a divergence of 0.1 one of 0.01."""
    exported(lambda x: x.flatten(1).softmax(1), tmp_path / "bundle")
    given = plain(lambda x: x.flatten(1).softmax(1)).numpy()
    other = (0.5 * given + 0.5 * given[:, [1, 2, 0]]).astype(np.float32)
    with rt.Bundle(tmp_path / "bundle") as opened:
        done = verify.verify(opened, FRAMES, other, only=lambda target: target.hint == "float32")
    for each in done:
        assert each.entry.agreement.divergence == pytest.approx(divergence(other, given), rel=1e-3)
        assert each.entry.agreement.share.value == pytest.approx((given.argmax(1) == other.argmax(1)).mean())


def test_verify_sees_that_one_output_changed_its_answer(tmp_path):
    """The best of one column is always the first: agreement is of the answers."""
    exported(lambda x: x.flatten(1), tmp_path / "bundle", classes=1, labels=("bad", "good"))
    given = plain(lambda x: x.flatten(1), 1).numpy()
    other = given.copy()
    other[::2] *= -1
    share = torch.sigmoid(torch.from_numpy(np.stack([given, other]))).numpy()
    truth = (given[:, 0] > 0).astype(np.int64)
    with rt.Bundle(tmp_path / "bundle") as opened:
        done = verify.verify(opened, FRAMES, other, labels=truth, only=lambda target: target.hint == "float32")
    for each in done:
        assert each.entry.agreement.share.value == 0.5
        assert each.entry.score.value == 1
        assert each.entry.score.reference == 0.5
        both = [np.hstack([1 - each, each]) for each in share]
        assert each.entry.agreement.divergence == pytest.approx(divergence(both[1], both[0]), rel=1e-3)


def test_labelled_frames_do_not_hide_that_other_labels_are_lost(tmp_path):
    """The best label of every frame stays; two of three do not hold any more."""
    exported(lambda x: x, tmp_path / "bundle", scores="sigmoid-logits", thresholds=[0.01])
    given = plain(lambda x: x.flatten(1)).numpy()
    best = given.argmax(1)
    other = np.full_like(given, -9)
    other[np.arange(8), best] = given.max(1)
    frames = np.concatenate([FRAMES] * 5)
    with rt.Bundle(tmp_path / "bundle") as opened:
        done = verify.verify(opened, frames, np.concatenate([other] * 5), labels=np.concatenate([best] * 5))
        budget = opened.manifest.budget
    for each in done:
        assert each.entry.score is None
        assert "agrees with golden on 0.0% of 40" in weigh(budget, each.entry.agreement, each.entry.score).broken


def test_small_scores_do_not_hide_that_they_are_wrong(tmp_path, monkeypatch):
    """Of 2000 classes each has a share of about 0.0005: zeros in their place are off by less than a thousandth."""
    real = merge.merge_branches

    def zeroed(model):
        model, merged = real(model)
        model.graph.node[-1].output[0] = "shares"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["shares", "zero"], [model.graph.output[0].name]))
        return model, merged

    monkeypatch.setattr(merge, "merge_branches", zeroed)
    given = {"classes": 2000, "labels": tuple(map(str, range(2000))), "scores": "probabilities"}
    with pytest.raises(ParityError, match="differs from PyTorch"):
        exported(lambda x: (0.01 * x.flatten(1)).softmax(1), tmp_path / "bundle", **given)


@pytest.mark.parametrize(
    ("scores", "off", "kept"),
    [
        ("logits", 0.0099, True),
        ("probabilities", 0.0099, False),
        ("sigmoid", 0.0099, False),
        ("sigmoid-logits", 0.0099, True),
        ("percent", 0.0099, True),
        ("percent", 0.99, False),
        ("probabilities", 1e-5, True),
    ],
)
def test_rounding_is_a_share_of_scores_that_have_bounds(scores, off, kept):
    right = np.float32([[0.9, 0.1]]) * (100 if scores == "percent" else 1)
    found = verify.agreement(right, right + np.float32([[-off, off]]), "PyTorch")
    assert is_float32s(found, ClassificationHead(("a", "b"), scores)) is kept


@pytest.mark.parametrize("rows", [1, 3])
def test_a_fault_of_a_graph_with_a_fixed_batch_is_named(rows, tmp_path):
    """The reference of another network; what runs is the bundle's own file on every backend, however it is opened."""
    exported(lambda x: x, tmp_path / "bundle")
    with rt.Bundle(tmp_path / "bundle") as opened:
        model = onnx.load(opened.variant_file("float32"))
        for each in (*model.graph.input, *model.graph.output):
            each.type.tensor_type.shape.dim[0].dim_value = rows
        del model.graph.value_info[:]
        spec, outputs = opened.manifest.input, opened.manifest.outputs
        manifest = msgspec.structs.replace(
            opened.manifest,
            input=msgspec.structs.replace(spec, shape=(rows, *spec.shape[1:])),
            outputs=tuple(msgspec.structs.replace(each, shape=(rows, *each.shape[1:])) for each in outputs),
        )
        bundle.update(opened, manifest=manifest, content={"model.onnx": model.SerializeToString()})
    wrong = plain(lambda x: x.flatten(1)).numpy()[:, ::-1]
    with rt.Bundle(tmp_path / "bundle") as opened:
        done = verify.verify(opened, FRAMES, wrong, only=lambda target: target.hint == "float32")
    assert [each.entry.finding.name for each in done] == [faults.OTHER_FILE.name] * 2


def test_a_file_is_compiled_anew_as_its_target_is(tmp_path, monkeypatch):
    given = []

    class Backend:
        streams = 1

        def __init__(self, file, options):
            given.append(options)

        def run(self, feeds):
            return {"y": np.zeros(1, np.float32)}

        def close(self):
            pass

    exported(lambda x: x, tmp_path / "bundle")
    with rt.Bundle(tmp_path / "bundle") as opened:
        target = msgspec.structs.replace(targets(opened)[0], islands="bf16", device="NPU", threads=3)
    monkeypatch.setattr(backends, "get", lambda _: Backend)
    trace.compiled(target, b"", {})
    assert given == [backends.Options(device="NPU", precision="bf16", threads=3)]  # and no digest: nothing is cached


def test_what_the_verdict_keeps_is_no_fault_either(tmp_path):
    """A fifth of the answers change, as many to the right label as from it: labels say otherwise than agreement."""
    exported(lambda x: x, tmp_path / "bundle")
    count = 40_000
    reference = np.tile(np.float32([1, 0.99, -5]), (count, 1))
    outputs = reference.copy()
    outputs[: count // 5] = [0.99, 1, -5]
    labels = np.arange(count) % 2
    with rt.Bundle(tmp_path / "bundle") as opened:
        target = msgspec.structs.replace(targets(opened)[0], hint="bf16")
        expected = Outputs(np.zeros((count, 8, 8, 3), np.uint8), {"logits": reference})
        task = tasks.create(opened.manifest.head, opened.manifest.outputs)

        def case(truths):
            found, _ = compare(task, expected, {"logits": outputs}, name="", truths=truths)
            given = target, opened.manifest, Executed("bf16", {}), expected, found
            return Case(*given, opened.golden(), opened.variant_file("float32"))

        assert case(None).disagrees  # without labels agreement decides
        assert not case(labels).disagrees
        assert case(np.zeros(count, np.int64)).disagrees


def test_the_search_measures_what_the_head_gives(tmp_path):
    """Oracle: the chosen file on OpenVINO and ONNX Runtime used directly, and the definition of the divergence."""
    from edgecv_export.quantize import QuantizeConfig, quantize

    exported(lambda x: x.flatten(1).softmax(1), tmp_path / "bundle")
    coarse = np.random.default_rng(1).integers(0, 256, (40, 2, 2, 3), np.uint8)
    frames = coarse.repeat(4, 1).repeat(4, 2)  # neighbours are alike, as in photographs
    config = QuantizeConfig(
        images=16, check_images=16, placements=("layers",), ranges=("min-max",), passes=(), islands=False
    )
    done = quantize(tmp_path / "bundle", frames[:16], config, check=frames[16:], labels=None)
    with rt.Bundle(tmp_path / "bundle") as opened:
        outputs = {}
        for name in ("float32", "int8-u8s8"):
            session = onnxruntime.InferenceSession(str(opened.variant_file(name)), providers=["CPUExecutionProvider"])
            (outputs[name],) = session.run(None, {"image": frames[16:]})
    found = done.chosen.agreement.divergence
    assert found == pytest.approx(divergence(outputs["float32"], outputs["int8-u8s8"]), rel=0.2, abs=1e-7)


def test_a_device_s_own_scores_are_judged_by_the_head(tmp_path):
    """Oracle: the faults that are made here, in NumPy."""
    exported(lambda x: x.flatten(1).softmax(1), tmp_path / "bundle")
    with rt.Bundle(tmp_path / "bundle") as opened:
        right = np.stack([picture.logits for picture in opened.golden().pictures])
        assert np.abs(right.sum(1) - 1).max() < 1e-5
        assert verify.against(opened, list(right)) is None
        twice = np.exp(right) / np.exp(right).sum(1, keepdims=True)
        assert verify.against(opened, list(twice)).name == "softmax twice"
        assert verify.check(opened) == []
    exported(lambda x: x, tmp_path / "labels", scores="sigmoid-logits")
    with rt.Bundle(tmp_path / "labels") as opened:
        right = np.stack([picture.logits for picture in opened.golden().pictures])
        assert verify.against(opened, list(right)) is None
        assert verify.against(opened, list(1 / (1 + np.exp(-right)))) is None
        assert "the answers differ by" in verify.against(opened, list(right[:, ::-1])).detail


@pytest.mark.parametrize(("act", "limits"), [(lambda x: x.softmax(1), ()), (torch.sigmoid, (0.5,))])
def test_a_device_s_own_percent_are_read_as_percent(act, limits, tmp_path):
    exported(lambda x: 100 * act(x.flatten(1)), tmp_path / "bundle", scores="percent", thresholds=limits)
    with rt.Bundle(tmp_path / "bundle") as opened:
        right = np.stack([picture.logits for picture in opened.golden().pictures])
        rough = right + (0.2 if limits else 0.01) * np.sign(right - 50)  # as float16 or another decoder makes it
        for device in (right, rough, right / 100):
            assert verify.against(opened, list(device)) is None
        assert verify.against(opened, list(right[:, ::-1])) is not None
