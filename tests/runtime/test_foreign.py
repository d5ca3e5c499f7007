"""Foreign ONNX files of every habit run, on every backend alike, and give what ONNX Runtime used directly gives."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper

import edgecv_runtime as rt
from edgecv_runtime import choose, onnxinline, tuning
from edgecv_runtime.errors import BadInput, ModelFileError, ShapeError
from tests.runtime.foreign import NORMALIZATION, PREPROCESS, frames, load, node, save, softmax, truth

REAL = ["onnxruntime", "openvino"]
FLOAT, HALF, BYTE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8

STANDARD = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
# A function with an attribute of its own, a default for it, a call of another one, and a branch that sees its values.
SCALED = helper.make_function(
    "local", "Scaled", ["a"], ["b"],
    [helper.make_node("LeakyRelu", ["a"], ["t"]), node("Identity", "t", "b")], STANDARD, ["alpha"],
)  # fmt: skip
SCALED.node[0].attribute.append(
    onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
)
BRANCH = helper.make_graph(
    [node("Add", ["u", "u"], "v")], "branch", [], [helper.make_tensor_value_info("v", FLOAT, None)]
)
OUTER = helper.make_function(
    "local", "Outer", ["a"], ["b"],
    [
        helper.make_node("Scaled", ["a"], ["u"], domain="local", alpha=0.3),
        node("Constant", [], "yes", value=helper.make_tensor("yes", TensorProto.BOOL, [], [True])),
        node("If", "yes", "b", then_branch=BRANCH, else_branch=BRANCH),
    ],
    STANDARD,
)  # fmt: skip
CALLS = [
    helper.make_node("Outer", ["l"], ["m"], domain="local"),
    helper.make_node("Outer", ["m"], ["y"], domain="local"),
]

FILES = {
    "dynamic": {},
    "batch of 1": {"batch": 1, "output": (1, 3)},
    "batch of 4": {"batch": 4, "output": (4, 3)},
    "half precision": {"dtype": HALF},
    "channels last": {"layout": "NHWC"},
    "channels last, half, batch of 2": {"layout": "NHWC", "dtype": HALF, "batch": 2, "output": (2, 3)},
    "pixels, channels first": {"dtype": BYTE, "layout": "NCHW"},
    "pixels, channels last": {"dtype": BYTE, "layout": "NHWC"},
    "(N, C, 1, 1)": {
        "tail": [node("Unsqueeze", ["l", "behind"], "y")],
        "output": ("n", 3, 1, 1),
        "constants": [onnx.numpy_helper.from_array(np.array([2, 3]), "behind")],
    },
    "(N, 1, 1, C)": {
        "tail": [node("Unsqueeze", ["l", "behind"], "y")],
        "output": ("n", 1, 1, 3),
        "constants": [onnx.numpy_helper.from_array(np.array([1, 2]), "behind")],
    },
    "no shapes": {"shape": False, "output": None},
    "imports of no use": {"imports": ["ai.onnx.training", "org.pytorch.aten", "com.acme"]},
    "functions": {"tail": CALLS, "functions": [SCALED, OUTER], "imports": ["local"]},
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("backend", REAL)
def test_every_habit_runs_and_gives_what_onnx_runtime_gives(kind, backend, tmp_path):
    given = dict(FILES[kind])
    path = save(tmp_path / "m.onnx", **given)
    dtype = {FLOAT: np.float32, HALF: np.float16, BYTE: np.uint8}[given.get("dtype", FLOAT)]
    batch = given.get("batch", 1)
    many = frames(7)
    wanted = [
        softmax(truth(path, frame, dtype, given.get("layout", "NCHW"), batch if batch != "n" else 1)) for frame in many
    ]
    near = {"abs": 2e-3 if dtype == np.float16 else 1e-5}
    with load(path, backend, normalization=None if dtype == np.uint8 else NORMALIZATION) as model:
        for results in (
            model(many),
            [model(frame) for frame in many],
            list(model.map(many)),
            [model.submit(frame).result(20) for frame in many],
        ):
            assert len(results) == len(many)
            for result, scores in zip(results, wanted, strict=True):
                assert result.scores == pytest.approx(scores, **near)
        size = (3, 8, 8) if given.get("layout", "NCHW") == "NCHW" else (8, 8, 3)
        raw = model.run({"x": np.zeros((5, *size), dtype)})["y"]
        assert len(raw) == 5
        assert "x" in model.input.name
        with pytest.raises(ShapeError, match=r"'x' wants \(N, "):
            model.run({"x": np.zeros((5, 1, 1, 1), dtype)})


@pytest.mark.parametrize("backend", REAL)
def test_a_squeezed_frame_is_a_row_too(backend, tmp_path):
    """The batch axis of a single frame goes with the others; OpenVINO's CPU plugin has no Squeeze for any batch."""
    path = save(tmp_path / "m.onnx", [node("Squeeze", "l", "y")], output=None)
    many = frames(3)
    with load(path, backend) as model:
        found = [model(frame) for frame in many]
        if backend == "onnxruntime":
            found += model(many)
    wanted = [softmax(truth(path, frame)) for frame in many]
    for result, scores in zip(found, wanted * 2, strict=False):
        assert result.scores == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("shape", "output"), [([3], (3,)), ([3, 1], (3, 1))])
def test_a_graph_for_one_frame_may_leave_out_its_axis(shape, output, tmp_path):
    tail = [node("Reshape", ["l", "as"], "y")]
    whole = onnx.numpy_helper.from_array(np.array(shape), "as")
    path = save(tmp_path / "m.onnx", tail, batch=1, output=output, constants=[whole])
    plain = save(tmp_path / "plain.onnx")
    many = frames(3)
    with load(path) as model:
        found = [*model(many), model(many[0])]
    for result, frame in zip(found, [*many, many[0]], strict=True):
        assert result.scores == pytest.approx(softmax(truth(plain, frame)), abs=1e-5)
    with pytest.raises(BadInput, match="the model has 3 classes, but 2 labels"):
        load(path, labels=["cat", "dog"])


def test_map_fills_a_fixed_batch(tmp_path, monkeypatch):
    """A graph that takes four frames computes four, however few it is given."""
    from edgecv_runtime.backends.onnxruntime import OnnxRuntimeBackend

    path = save(tmp_path / "m.onnx", batch=4, output=(4, 3))
    many = frames(9)
    real, calls = OnnxRuntimeBackend.run, []

    def run(self, feeds):
        calls.append(len(feeds["x"]))
        return real(self, feeds)

    with load(path) as model:
        wanted = [model(frame).scores for frame in many]
        monkeypatch.setattr(OnnxRuntimeBackend, "run", run)
        found = list(model.map(many))
        assert calls == [4, 4, 4]
        assert all((each.scores == scores).all() for each, scores in zip(found, wanted, strict=True))
        many[5] = np.zeros((4, 4), np.uint8)
        failed = list(model.map(many, errors=True))
        assert [type(each).__name__ == "ShapeError" for each in failed] == [index == 5 for index in range(9)]


def test_a_fixed_batch_is_measured_tuned_and_verified(tmp_path):
    """Whatever opens a target feeds it one frame, or eight: the graph takes four."""
    path = save(tmp_path / "m.onnx", batch=4, output=(4, 3))
    with load(path, backend="auto") as model:
        assert "measured" in model.explain()
        target = model._target
    assert target.rows == 4
    (trial,) = tuning.measure([target], model.input)
    assert trial.failed == ""
    opened = target.open()
    for rows in (1, 4, 9):
        assert opened.run({"x": np.zeros((rows, 3, 8, 8), np.float32)})["y"].shape == (rows, 3)
    assert opened.executed().layers
    opened.close()


def test_a_fixed_batch_without_a_row_for_each_frame_is_refused(tmp_path):
    tail = [node("Reshape", ["l", "as"], "y")]
    whole = onnx.numpy_helper.from_array(np.array([-1]), "as")
    path = save(tmp_path / "m.onnx", tail, batch=4, output=None, constants=[whole])
    with load(path) as model, pytest.raises(ModelFileError, match=r"'y' is \(12,\) for a batch of 4"):
        model(frames()[0])


def test_inlined_functions_are_what_the_onnx_package_makes_of_them(tmp_path):
    """Oracles: the onnx package's checker and inliner, and ONNX Runtime on the original."""
    path = save(tmp_path / "m.onnx", CALLS, functions=[SCALED, OUTER], imports=["local"])
    plain = onnx.load_from_string(onnxinline.rewritten(path.read_bytes()))
    onnx.checker.check_model(plain, full_check=True)
    assert not plain.functions
    wanted = onnx.inliner.inline_local_functions(onnx.load(path))
    assert sorted(each.op_type for each in plain.graph.node) == sorted(each.op_type for each in wanted.graph.node)
    onnx.save(plain, tmp_path / "plain.onnx")
    frame = frames()[0]
    assert truth(tmp_path / "plain.onnx", frame) == pytest.approx(truth(path, frame), abs=1e-6)
    assert onnxinline.rewritten(save(tmp_path / "none.onnx").read_bytes()) is None


def with_more(path, inputs=(), outputs=()):
    model = onnx.load(path)
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)
    onnx.save(model, path)
    return path


def test_several_inputs_or_outputs_are_named_with_what_to_do(tmp_path):
    path = save(tmp_path / "m.onnx")
    with_more(path, outputs=[helper.make_tensor_value_info("f", FLOAT, ("n", 4))])
    with pytest.raises(ModelFileError, match=r"has 2: 'y' \(N, 3\) float32, 'f' \(N, 4\) float32; .*extract_model"):
        load(path)
    onnx.utils.extract_model(path, tmp_path / "cut.onnx", ["x"], ["y"])  # what the message says
    with load(tmp_path / "cut.onnx") as model:
        assert model(frames()[0]).scores == pytest.approx(softmax(truth(tmp_path / "cut.onnx", frames()[0])), abs=1e-5)
    other = with_more(save(tmp_path / "n.onnx"), inputs=[helper.make_tensor_value_info("train", TensorProto.BOOL, [])])
    with pytest.raises(ModelFileError, match=r"has 2: 'x' \(N, 3, 8, 8\) float32, 'train' \(\) bool; make constants"):
        load(other)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tail": [node("ArgMax", "l", "y", axis=1)], "output_type": TensorProto.INT64}, "without its ArgMax"),
        ({"dtype": TensorProto.BFLOAT16}, "uint8 are served"),
    ],
)
def test_what_is_no_image_or_no_scores_is_named(given, why, tmp_path):
    with pytest.raises(ModelFileError, match=why):
        load(save(tmp_path / "m.onnx", **given))


def test_a_size_that_does_not_fit_names_both_shapes(tmp_path):
    with pytest.raises(ShapeError, match=r"'x' is \(N, 3, 8, 8\) float32, but preprocessing gives \(N, 3, 9, 9\) NCHW"):
        load(save(tmp_path / "m.onnx"), preprocess=rt.Preprocess((9, 9)))


def test_choosing_for_a_fixed_file_keeps_its_batch(tmp_path):
    from edgecv_runtime.choose import Ask
    from edgecv_runtime.inputs import fitting
    from edgecv_runtime.onnxfile import read

    path = save(tmp_path / "m.onnx", batch=2, output=(2, 3))
    entry = fitting(read(path).inputs, PREPROCESS, NORMALIZATION, "m")
    assert choose.for_file(path, (), entry, Ask(backend="openvino")).rows == 2
