"""What the outputs of a foreign classifier mean; oracle: ONNX Runtime used directly, and formulas in NumPy."""

import numpy as np
import pytest
from onnx import helper

from edgecv_runtime.errors import BadInput
from edgecv_runtime.tasks import scores as meaning
from tests.runtime.foreign import constant, frames, load, node, save, sigmoid, softmax, truth

REAL = ["onnxruntime", "openvino"]
FRAME = frames()[0]
SHIFT = constant("shift", [3.0, 0.5, 2.0])


def times(factor, source="s", target="y"):
    return [node("Constant", [], "by", value_float=float(factor)), node("Mul", [source, "by"], target)]


SOFTMAX = node("Softmax", "l", "s", axis=1)
SIGMOID = node("Sigmoid", "l", "s")

# Nobody says what these are, because the graph does: nodes behind the logits -> scores, from what the graph gives.
PROVEN = {
    "logits": ([], softmax),
    "a bias behind": ([node("Add", ["l", "shift"], "y")], softmax),
    "a scale behind": (times(20, "l"), softmax),
    "softmax": ([node("Softmax", "l", "y", axis=1)], np.array),
    "softmax, last axis": ([node("Softmax", "l", "y", axis=-1)], np.array),
    "softmax, passed on": ([SOFTMAX, node("Identity", "s", "t"), node("Flatten", "t", "y")], np.array),
    "softmax, quantized": (
        [
            SOFTMAX,
            node("QuantizeLinear", ["s", "step"], "q"),
            node("DequantizeLinear", ["q", "step"], "y"),
        ],
        np.array,
    ),
    "log-softmax": ([node("LogSoftmax", "l", "y", axis=1)], np.exp),
    "logits, negated": ([node("Neg", "l", "y")], softmax),
    "logits, bounded from below": ([node("Abs", "l", "s"), node("Neg", "s", "y")], softmax),
    "logarithm of a softmax": ([SOFTMAX, node("Log", "s", "y")], np.exp),
    "sigmoid": ([node("Sigmoid", "l", "y")], np.array),
    "hard sigmoid": ([node("HardSigmoid", "l", "y")], np.array),
}


@pytest.mark.parametrize("kind", PROVEN)
@pytest.mark.parametrize("backend", REAL)
def test_what_the_graph_proves_needs_no_word(kind, backend, tmp_path):
    tail, right = PROVEN[kind]
    path = save(tmp_path / "m.onnx", tail, constants=[SHIFT, constant("step", 1 / 255)])
    wanted = right(truth(path, FRAME))
    with load(path, backend) as model:
        assert model(FRAME).scores == pytest.approx(wanted, abs=1e-5)
        assert [result.scores for result in model([FRAME, FRAME])][1] == pytest.approx(wanted, abs=1e-5)


# These are refused until it is said what they are: nodes -> what has to be said, and scores from what the graph gives.
UNPROVEN = {
    "softmax in percent": ([SOFTMAX, *times(100)], "percent", lambda given: given / 100, "sum to 100"),
    "sigmoid with one behind": ([SIGMOID, *times(1)], "sigmoid", np.array, "a Sigmoid with Mul behind it"),
    "sigmoid of its own making": (
        [
            node("Neg", "l", "a"),
            node("Exp", "a", "b"),
            node("Constant", [], "one", value_float=1.0),
            node("Add", ["b", "one"], "c1"),
            node("Reciprocal", "c1", "y"),
        ],
        "sigmoid",
        np.array,
        r"lie in 0\.\.1",
    ),
    "softmax of its own making": (
        [
            node("Exp", "l", "e"),
            node("ReduceSum", ["e", "axis"], "t", keepdims=1),
            node("Div", ["e", "t"], "y"),
        ],
        "probabilities",
        np.array,
        "sum to 1 .*say scores='probabilities'",
    ),
    "mean of two softmaxes": (
        [SOFTMAX, node("Mean", ["s", "s"], "y")],
        "probabilities",
        np.array,
        "say scores='probabilities'",
    ),
    "softmax, negated": ([SOFTMAX, node("Neg", "s", "y")], "logits", softmax, "a Softmax with Neg behind it"),
    "sigmoid, clipped and negated": (
        [SIGMOID, node("Clip", "s", "t"), node("Neg", "t", "y")],
        "sigmoid-logits",
        sigmoid,
        "a Sigmoid with Clip, Neg behind it",
    ),
    "logarithm of a sigmoid": ([SIGMOID, node("Log", "s", "y")], "logits", softmax, "a Sigmoid with Log behind it"),
    "hyperbolic tangent": ([node("Tanh", "l", "y")], "logits", softmax, "ends in a Tanh"),
    "hyperbolic tangent, scaled": ([node("Tanh", "l", "s"), *times(10)], "logits", softmax, "a Tanh with Mul behind"),
    "error function": ([node("Erf", "l", "y")], "logits", softmax, "ends in an Erf"),
    "rectified logits": ([node("Abs", "l", "y")], "logits", softmax, "no output is negative"),
}


@pytest.mark.parametrize("kind", UNPROVEN)
@pytest.mark.parametrize("backend", REAL)
def test_what_nothing_proves_is_refused_with_the_choice(kind, backend, tmp_path):
    tail, said, right, why = UNPROVEN[kind]
    path = save(tmp_path / "m.onnx", tail, constants=[constant("axis", [1], np.int64)])
    with load(path, backend) as model, pytest.raises(BadInput, match=why) as caught:
        model(FRAME)
    assert "\n" not in str(caught.value)
    assert all(f"'{name}'" in str(caught.value) for name in meaning.MEANINGS)
    with load(path, backend, scores=said) as model:
        assert model(FRAME).scores == pytest.approx(right(truth(path, FRAME)), abs=1e-5)


def test_a_softmax_over_the_wrong_axis_is_refused(tmp_path):
    """Over the batch, each single frame gets 1 for every class."""
    path = save(tmp_path / "m.onnx", [node("Softmax", "l", "y", axis=0)])
    with load(path) as model, pytest.raises(BadInput, match="a Softmax, but the classes of a frame do not sum to 1"):
        model(FRAME)


@pytest.mark.parametrize(
    ("tail", "said", "why"),
    [
        ([node("Softmax", "l", "y", axis=1)], "logits", "ends in a Softmax: say scores='probabilities'"),
        ([node("Sigmoid", "l", "y")], "sigmoid-logits", "ends in a Sigmoid: say scores='sigmoid'"),
        ([], "probability", "no scores 'probability'; did you mean 'probabilities'"),
    ],
)
def test_what_the_graph_contradicts_is_refused_at_once(tail, said, why, tmp_path):
    with pytest.raises(BadInput, match=why):
        load(save(tmp_path / "m.onnx", tail), scores=said)


@pytest.mark.parametrize(
    ("tail", "said", "why"),
    [
        ([], "probabilities", r"lie in 0\.\.1, but the network gave"),
        ([SIGMOID, *times(1)], "probabilities", "sum to 1, but the network gave .* say scores='sigmoid'"),
        ([SIGMOID, *times(100)], "percent", "sum to 100, but the network gave .* give thresholds="),
    ],
)
def test_what_the_frames_contradict_is_refused(tail, said, why, tmp_path):
    with load(save(tmp_path / "m.onnx", tail), scores=said) as model, pytest.raises(BadInput, match=why):
        model(FRAME)


@pytest.mark.parametrize(
    ("tail", "said", "share"),
    [
        ([], "sigmoid-logits", sigmoid),
        ([node("Sigmoid", "l", "y")], None, np.array),
        ([SIGMOID, *times(100)], "percent", lambda given: given / 100),
    ],
)
def test_several_labels_hold_by_their_thresholds(tail, said, share, tmp_path):
    path = save(tmp_path / "m.onnx", tail)
    wanted = share(truth(path, FRAME))
    thresholds = [wanted[0] - 0.01, wanted[1] + 0.01, wanted[2] - 0.01]
    with load(path, scores=said, thresholds=thresholds) as model:
        result = model(FRAME)
    assert result.scores == pytest.approx(wanted, abs=1e-5)
    best = sorted((0, 2), key=lambda index: -wanted[index])
    assert [guess.index for guess in result.present] == best
    assert result.as_dict()["present"] == [["cat", "dog", "owl"][index] for index in best]


def test_thresholds_are_checked(tmp_path):
    path = save(tmp_path / "m.onnx", [node("Sigmoid", "l", "y")])
    with load(path) as model:
        result = model(FRAME)
        assert [guess.index in {each.index for each in result.present} for guess in result.top()] == [
            guess.score >= 0.5 for guess in result.top()
        ]
    for thresholds, why in (([0.5, 0.5], "2 thresholds for 3 labels"), ([1.5], "lie in 0..1")):
        with pytest.raises(BadInput, match=why):
            load(path, thresholds=thresholds)
    with pytest.raises(BadInput, match="scores='logits' excludes that"):
        load(save(tmp_path / "logits.onnx"), thresholds=[0.5])


@pytest.mark.parametrize("tail", [[], [node("Sigmoid", "l", "y")]])
@pytest.mark.parametrize("output", [("n", 1), ("n",), ("n", 1, 1, 1)])
@pytest.mark.parametrize("backend", REAL)
def test_one_output_is_one_label_or_a_class_and_its_opposite(tail, output, backend, tmp_path):
    shaped = [node("Reshape", ["l", "as"], "r"), *(tail or [node("Identity", "r", "y")])]
    shaped = [*shaped[:1], *(node(each.op_type, "r", "y") for each in shaped[1:])]
    sizes = [-1, *(1 for _ in output[1:])]
    path = save(tmp_path / "m.onnx", shaped, classes=1, output=output, constants=[constant("as", sizes, np.int64)])
    many = frames(3)
    shares = [float((np.array if tail else sigmoid)(truth(path, frame))[0]) for frame in many]
    with load(path, backend, labels=["bad", "good"]) as model:
        results = model(many)
        assert [result.scores for result in results] == [pytest.approx([1 - s, s], abs=1e-5) for s in shares]
        assert [result.label for result in results] == ["good" if share > 0.5 else "bad" for share in shares]
    with load(path, backend, labels=["good"]) as model:
        results = model(many)
        assert [result.scores for result in results] == [pytest.approx([s], abs=1e-5) for s in shares]
        assert [len(result.present) for result in results] == [int(share >= 0.5) for share in shares]
    with pytest.raises(BadInput, match="the model has 1 classes, but 3 labels"):
        load(path, backend)
    with pytest.raises(BadInput, match="two labels of one output do not"):
        load(path, backend, labels=["bad", "good"], thresholds=[0.3])


def test_a_function_that_ends_in_a_softmax_is_no_proof(tmp_path):
    """Its name says nothing; the frames do."""
    inside = helper.make_function(
        "local", "Softmax", ["a"], ["b"], [node("Identity", "a", "b")], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Softmax", ["l"], ["y"], domain="local")
    path = save(tmp_path / "m.onnx", [call], functions=[inside], imports=["local"])
    with load(path) as model:
        assert model(FRAME).scores == pytest.approx(softmax(truth(path, FRAME)), abs=1e-5)


def test_divergence_is_the_textbook_one():
    """Oracle: the definition in float64, term by term."""
    wanted, got = np.array([[0.7, 0.2, 0.1]]), np.array([[0.5, 0.25, 0.25]])
    terms = [p * np.log(p / q) for p, q in zip(wanted[0], got[0], strict=True)]
    opposite = [(1 - p) * np.log((1 - p) / (1 - q)) for p, q in zip(wanted[0], got[0], strict=True)]
    rows = wanted.astype(np.float32), got.astype(np.float32)
    assert meaning.divergence(*rows, exclusive=True) == pytest.approx(sum(terms), rel=1e-5)
    assert meaning.divergence(*rows, exclusive=False) == pytest.approx(sum(terms) + sum(opposite), rel=1e-5)


def test_a_sigmoid_neither_overflows_nor_loses_small_ones():
    found = meaning.sigmoid(np.array([-1000.0, -20.0, 0.0, 1000.0], np.float32))
    assert found == pytest.approx([0, 2.0611536e-09, 0.5, 1], rel=1e-5)
