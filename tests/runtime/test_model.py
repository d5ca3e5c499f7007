import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

import edgecv_runtime as rt
from edgecv_runtime import backends
from edgecv_runtime.errors import BadInput, BundleError, Closed, InvalidOutput, ModelFileError, NoMemory, ShapeError
from edgecv_runtime.tasks.scores import softmax
from tests.conftest import LABELS, NORMALIZATION, PREPROCESS

REAL = ["onnxruntime", "openvino"]


@pytest.fixture(params=REAL)
def model(request, exported):
    with rt.load(exported, backend=request.param) as loaded:
        yield loaded


def test_both_backends_are_installed_where_tests_run():
    assert list(backends.available()) == REAL


def test_a_frame_gives_a_classification(model, photos):
    result = model(photos[0])
    assert result.label in LABELS
    assert 0 < result.score <= 1
    assert [guess.index for guess in result.top(10)] == np.argsort(-result.scores, kind="stable").tolist()
    assert result.top(1)[0].label == result.label
    assert sum(guess.score for guess in result.top(10)) == pytest.approx(1, abs=1e-5)
    assert len(result.top(99)) == 10
    with pytest.raises(BadInput, match="k must be at least 1"):
        result.top(0)


def test_a_list_is_a_batch_and_equals_single_frames(model, photos):
    batch = model([*photos, photos[0][:100]])
    for result, frame in zip(batch, [*photos, photos[0][:100]], strict=True):
        assert np.abs(result.scores - model(frame).scores).max() < 1e-5


def test_run_equals_the_golden_outputs_of_pytorch(model):
    golden = model.bundle.golden()
    outputs = model.run({"image": golden.images})
    assert np.abs(outputs["logits"] - golden.logits).max() < 1e-4


def test_outputs_belong_to_the_caller(model):
    """A backend that shares its output memory would overwrite the first answer with the second."""
    golden = model.bundle.golden().images
    first = model.run({"image": golden[:1]})["logits"]
    kept = first.copy()
    model.run({"image": golden[1:2]})
    assert (first == kept).all()


def test_submit_gives_futures_in_order(model, photos):
    futures = [model.submit(frame) for frame in photos * 3]
    labels = [future.result(timeout=20).label for future in futures]
    assert labels == [model(frame).label for frame in photos * 3]


def test_threads_may_share_a_model(model, photos):
    wanted = [model(frame).scores for frame in photos]
    wrong = []

    def work(index):
        for _ in range(20):
            if np.abs(model(photos[index]).scores - wanted[index]).max() > 1e-5:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture(params=REAL)
def busy(request, exported):
    with rt.load(exported, backend=request.param, goal="throughput") as loaded:
        yield loaded


def test_map_gives_results_in_order(busy, photos):
    wanted = [busy(frame).scores for frame in photos]
    found = list(busy.map(photos[number % 2] for number in range(21)))
    assert all(np.abs(each.scores - wanted[number % 2]).max() < 1e-5 for number, each in enumerate(found))
    assert len(found) == 21
    assert list(busy.map([])) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_keep_their_order_when_later_ones_are_ready_first(count):
    from edgecv_runtime.workers import Workers

    second = threading.Event()

    def call(number):
        if number == 0 and count > 1:
            assert second.wait(20)
        if number == 1:
            second.set()
        return number

    workers = Workers(count)
    assert list(workers.map(call, range(20))) == list(range(20))
    workers.close()


def test_map_takes_only_as_much_as_it_has_room_for(busy, photos):
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield photos[0]

    results = busy.map(source())
    for _ in range(3):
        next(results)
    assert len(taken) <= 3 + 3 * busy.streams
    results.close()
    assert len(taken) <= 3 + 3 * busy.streams


def test_map_also_takes_tensors(busy):
    golden = busy.bundle.golden()
    found = list(busy.map({"image": image[None]} for image in golden.images))
    assert np.abs(np.concatenate([each["logits"] for each in found]) - golden.logits).max() < 1e-4


@pytest.mark.parametrize("batch", [1, 3])
def test_an_error_comes_with_its_frame(exported, photos, batch):
    import msgspec

    from edgecv_runtime.choose import Ask, for_bundle
    from edgecv_runtime.loading import of_target

    bundle = rt.Bundle(exported)
    target = msgspec.structs.replace(for_bundle(bundle, Ask(backend="onnxruntime")), batch=batch)
    frames = [photos[0], np.zeros((4, 4), np.uint8), photos[1], photos[0]]
    with of_target(bundle, target) as model:
        found = list(model.map(frames, errors=True))
        assert [type(each).__name__ for each in found] == ["Classification", "ShapeError"] + ["Classification"] * 2
        assert np.abs(found[2].scores - model(photos[1]).scores).max() < 1e-5
        results = model.map(frames)
        assert next(results).label in LABELS
        with pytest.raises(ShapeError, match=r"got \(4, 4\)"):
            list(results)
        with pytest.raises(ZeroDivisionError):  # the source's own failure is its own
            list(model.map(1 / number for number in (0,)))


def test_submit_waits_for_room(exported, photos, monkeypatch):
    model = rt.load(exported, backend="echo")
    gate = threading.Event()
    real = model.run
    monkeypatch.setattr(model, "run", lambda feeds: (gate.wait(20), real(feeds))[1])
    most = 3 * model.streams
    tensors = {"image": model.preprocess.batch(photos[:1])}
    futures = [model.submit(tensors) for _ in range(most)]
    extra = threading.Thread(target=lambda: futures.append(model.submit(tensors)))
    extra.start()
    extra.join(0.2)
    assert extra.is_alive()
    assert len(futures) == most
    gate.set()
    extra.join(20)
    assert len([future.result(timeout=20) for future in futures]) == most + 1
    model.close()


def test_closing_a_model_in_use_never_gives_a_wrong_answer(exported, photos):
    """Each call of every thread ends with a result or with Closed, whenever the close comes."""
    for backend in REAL:
        for delay in (0.0, 0.002, 0.01):
            model = rt.load(exported, backend=backend)
            outcomes = []

            def work(model=model, outcomes=outcomes):
                while True:
                    try:
                        outcomes.append(model(photos[0]).label in LABELS)
                    except Closed:
                        return
                    except Exception as exc:
                        outcomes.append(exc)
                        return

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            threading.Event().wait(delay)
            model.close()
            for thread in threads:
                thread.join(20)
            assert all(outcome is True for outcome in outcomes)


def test_a_map_that_goes_on_after_close_says_so(exported, photos):
    model = rt.load(exported, backend="onnxruntime")
    results = model.map(photos * 20)
    next(results)
    model.close()
    with pytest.raises(Closed, match="closed"):
        list(results)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"image": np.zeros((1, 32, 32, 3), np.float32)}, r"'image' wants \(N, 32, 32, 3\) uint8, got .* float32"),
        ({"image": np.zeros((1, 3, 32, 32), np.uint8)}, r"wants \(N, 32, 32, 3\) uint8, got \(1, 3, 32, 32\)"),
        ({"image": np.zeros((32, 32, 3), np.uint8)}, r"got \(32, 32, 3\)"),
        ({"image": np.zeros((0, 32, 32, 3), np.uint8)}, "at least one frame"),
        ({"image": [[1]]}, "got list"),
        ({"picture": np.zeros((1, 32, 32, 3), np.uint8)}, "wants the input 'image' and no other, got: picture"),
        ({}, "wants the input 'image'"),
        (np.zeros((1, 32, 32, 3), np.uint8), "wants named tensors, {'image': ...}, got ndarray"),
    ],
)
def test_wrong_tensors_are_refused_alike_on_every_backend(model, feeds, said):
    with pytest.raises(ShapeError, match=said):
        model.run(feeds)


def test_wrong_frames_are_refused(model):
    with pytest.raises(ShapeError, match="float32; do not normalize"):
        model(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(BadInput, match="no images"):
        model([])


def test_a_closed_model_says_so(exported, photos):
    model = rt.load(exported, backend="onnxruntime")
    future = model.submit(photos[0])
    model.close()
    model.close()
    assert future.result(timeout=10).label in LABELS
    for use in (lambda: model(photos[0]), lambda: model.submit(photos[0]), lambda: model.info):
        with pytest.raises(Closed, match="model 'tiny' is closed"):
            use()


def test_info_tells_what_executes(finished):
    for name in REAL:
        with rt.load(finished, backend=name, precision="float32") as model:
            assert model.info.precision == "float32"
            assert set(model.info.layers) == {"float32"}
        with rt.load(finished, backend=name, precision="int8-u8s8") as model:
            assert model.info.precision == "int8"
            assert model.info.layers["int8"] >= 3


def test_bf16_is_reported_where_it_runs(exported):
    if "bf16" not in backends.get("openvino").precisions():
        with pytest.raises(BadInput, match="nothing runs at precision 'bf16'"):
            rt.load(exported, backend="openvino", precision="bf16")
        return
    with rt.load(exported, backend="openvino", precision="bf16") as model:
        assert model.info.precision == "bf16"


def test_results_draw_on_a_copy(model, photos):
    frame = photos[0].copy()
    picture = model(frame).draw(frame)
    assert picture.shape == frame.shape
    assert (frame == photos[0]).all()
    assert (picture != frame).any()


@pytest.mark.parametrize("size", [(1, 1, 3), (5, 900, 3), (900, 5, 3)])
def test_tiny_and_odd_frames_run_and_draw(model, size):
    frame = np.full(size, 99, np.uint8)
    assert model(frame).draw(frame).shape == size


def test_an_archive_loads_too(exported, tmp_path, photos):
    with rt.Bundle(exported) as opened:
        content = opened.content()
        rt.bundle.write(tmp_path / "m.edgecv", opened.manifest, content)
    with rt.load(tmp_path / "m.edgecv", backend="onnxruntime") as model:
        assert model(photos[0]).label in LABELS


# Plain ONNX files


def test_a_plain_file_with_uint8_input_gives_what_its_bundle_gives(exported, photos):
    with (
        rt.load(exported / "model.onnx", preprocess=PREPROCESS, labels=LABELS) as plain,
        rt.load(exported, backend="onnxruntime") as bundled,
    ):
        assert np.abs(plain(photos[0]).scores - bundled(photos[0]).scores).max() < 1e-5
        assert plain.info.variant == "model"


@pytest.fixture
def float_model(network, tmp_path):
    """The same network as others export it: float32 NCHW, normalized outside; and one that ends in a softmax."""
    import torch

    paths = {}
    for name, module in (("logits", network), ("softmax", torch.nn.Sequential(network, torch.nn.Softmax(1)))):
        paths[name] = tmp_path / f"{name}.onnx"
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 3, 32, 32),),
            paths[name],
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
    return paths


@pytest.mark.parametrize("kind", ["logits", "softmax"])
@pytest.mark.parametrize("backend", REAL)
def test_a_plain_float_model_gives_the_same_scores(kind, backend, float_model, exported, photos):
    given = {"preprocess": PREPROCESS, "labels": LABELS, "normalization": NORMALIZATION, "backend": backend}
    with rt.load(float_model[kind], **given) as plain, rt.load(exported, backend=backend) as bundled:
        assert np.abs(plain(photos[0]).scores - bundled(photos[0]).scores).max() < 1e-5


def test_a_plain_file_says_what_it_needs(exported, float_model):
    plain = exported / "model.onnx"
    with pytest.raises(BadInput, match="give preprocess=, labels="):
        rt.load(plain)
    with pytest.raises(BadInput, match="the model has 10 classes, but 3 labels were given"):
        rt.load(plain, preprocess=PREPROCESS, labels=["a", "b", "c"])
    with pytest.raises(ShapeError, match="preprocessing gives"):
        rt.load(plain, preprocess=rt.Preprocess((64, 64)), labels=LABELS)
    with pytest.raises(BadInput, match="leave normalization out"):
        rt.load(plain, preprocess=PREPROCESS, labels=LABELS, normalization=NORMALIZATION)
    with pytest.raises(BadInput, match="its input is float32: give normalization="):
        rt.load(float_model["logits"], preprocess=PREPROCESS, labels=LABELS)
    with pytest.raises(BadInput, match="a bundle carries its own: leave out labels"):
        rt.load(exported, labels=LABELS)
    with pytest.raises(BundleError, match="name the bundle's folder"):
        rt.load(exported / "bundle.json")


def test_a_file_that_is_no_model_never_reaches_a_backend(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelFileError, match="Git LFS pointer"):
        rt.load(path, preprocess=PREPROCESS, labels=LABELS)


def test_nan_outputs_are_an_error_never_a_label(exported, tmp_path, photos):
    model = onnx.load(exported / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == model.graph.node[-1].input[1]:  # the head's weights
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with (
        rt.load(tmp_path / "nan.onnx", preprocess=PREPROCESS, labels=LABELS) as plain,
        pytest.raises(InvalidOutput, match="1 of 1 outputs hold NaN"),
    ):
        plain(photos[0])


def test_softmax_is_the_textbook_one_and_does_not_overflow():
    logits = np.array([[1000.0, 999.0], [-5.0, 5.0]], np.float32)
    scores = softmax(logits)
    assert np.isfinite(scores).all()
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("backend", REAL)
def test_a_model_closed_while_another_thread_uses_it_says_closed(backend, exported):
    """Each call gives its result or Closed; never a vendor's message, never a crash."""
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    for _ in range(10):
        model = rt.load(exported, backend=backend)
        outcomes, running = [], threading.Barrier(3)

        def work(model=model, outcomes=outcomes, running=running):
            running.wait()
            try:
                for _ in range(10_000):
                    model.run({"image": frames})
            except Exception as exc:  # whatever it is, the assertion below names it
                outcomes.append(exc)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        running.wait()
        model.close()
        for thread in threads:
            thread.join()
        assert [type(each) for each in outcomes] == [Closed, Closed]


NO_MEMORY = """
import resource, sys
import numpy as np
import edgecv_runtime as rt
model = rt.load(sys.argv[1], backend=sys.argv[2], threads=1)
batch = np.zeros((100_000, 32, 32, 3), np.uint8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (50 << 20), used + (50 << 20)))
try:
    model.run({"image": batch})
except rt.errors.EdgecvError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("backend", REAL)
def test_no_memory_is_one_typed_line(backend, exported):
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, exported, backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("NoMemory", "ComputationError")), done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_memory_that_python_lacks_is_typed_too(exported, monkeypatch):
    from edgecv_runtime.backends.onnxruntime import OnnxRuntimeBackend

    def full(self, feeds):
        raise MemoryError

    monkeypatch.setattr(OnnxRuntimeBackend, "run", full)
    with rt.load(exported, backend="onnxruntime") as model, pytest.raises(NoMemory, match="run fewer frames"):
        model.run({"image": np.zeros((1, 32, 32, 3), np.uint8)})


def test_a_softmax_behind_an_identity_is_not_taken_twice(float_model, exported, photos, tmp_path):
    plain = onnx.load(float_model["softmax"])
    plain.graph.node[-1].output[0] = "inner"
    plain.graph.node.append(onnx.helper.make_node("Identity", ["inner"], ["y"]))
    onnx.save(plain, tmp_path / "tail.onnx")
    given = {"preprocess": PREPROCESS, "labels": LABELS, "normalization": NORMALIZATION}
    with rt.load(tmp_path / "tail.onnx", **given) as model, rt.load(exported, backend="onnxruntime") as bundled:
        assert np.abs(model(photos[0]).scores - bundled(photos[0]).scores).max() < 1e-5


def test_a_file_that_is_exchanged_before_its_larger_batches_are_compiled_is_not_run(exported, tmp_path):
    """OpenVINO compiles the graph for batches when the first one comes, from the file's path."""
    from edgecv_runtime.backends import Options
    from edgecv_runtime.backends.openvino import OpenVinoBackend

    file = tmp_path / "model.onnx"
    file.write_bytes((exported / "model.onnx").read_bytes())
    opened = OpenVinoBackend(file, Options())
    assert len(opened.run({"image": np.zeros((1, 32, 32, 3), np.uint8)})["logits"]) == 1
    (tmp_path / "other").write_bytes(file.read_bytes())
    (tmp_path / "other").replace(file)
    with pytest.raises(ModelFileError, match=r"model\.onnx: was exchanged while it was loaded; load it again"):
        opened.run({"image": np.zeros((2, 32, 32, 3), np.uint8)})
    opened.close()
