"""TensorRT: parsing and ahead-of-time building are real (TensorRT-RTX, no GPU); inference is not run.

An engine cannot be deserialized without a GPU, so tests read the text that TensorRT-RTX writes into it: its target,
tensors and memory. `run` is tried against a fake CUDA: its bookkeeping, not its results on a GPU.
"""

import ctypes
import gc
import itertools
import json
import re
import sys
import threading
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgecv_runtime as rt
from edgecv_runtime import backends
from edgecv_runtime.backends import Options, tensorrt, tensorrt_engine
from edgecv_runtime.backends.tensorrt_engine import Gpu, Tensor, build_engine, read_network
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError, ModelFileError
from tests.conftest import LABELS, NORMALIZATION

ADA = Gpu(name="NVIDIA RTX 4090", compute_capability=(8, 9), cuda="13.0")
TARGETS = pytest.mark.parametrize("target", [(8, 6), (8, 9)], ids=["SM86", "SM89"])


class Plan:
    """What TensorRT-RTX 1.7 writes into an engine as text; undocumented, so only tests read it."""

    def __init__(self, engine):
        text = engine.decode("latin1")
        self.target = re.search(r"accelerators=\{(\w+)", text)[1]
        self.tensors = {
            name.removesuffix(".1"): (kind, [int(size) for size in sizes.split() if size.isdigit()])
            for sizes, name, kind in re.findall(
                r"tensor=\{[^\n]*? dims=\{([^}]*)\}[^\n]*? name=\"?([^\" ]+)\"?[^\n]*? type=(\w+)", text
            )
        }
        self.tf32 = re.search(r"^  tf32=(\d)", text, re.MULTILINE)[1] == "1"
        self.regions = {int(size) for size in re.findall(r"region = \{ name=devmem\S+ size=(\d+)", text)}
        inputs = re.findall(r"\b(?:corrltn|fully_connected)=\{[^\n]*? input=\{\"([^\"^]+)", text)
        self.operands = [
            self.tensors[name.removesuffix(".1")][0] for name in inputs if name.removesuffix(".1") in self.tensors
        ]


@pytest.fixture
def symmetric(exported, digits, tmp_path):
    """The float32 file as symmetric int8 with unquantized bias: what TensorRT takes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"image": digits[0][start : start + 16]} for start in range(0, 64, 16)])

        def get_next(self):
            return next(self.left, None)

    path = tmp_path / "int8-s8s8.onnx"
    quantize_static(
        exported / "model.onnx",
        path,
        Frames(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return path


def convolution(path, size=("N", 8, 8, 3), kind=TensorProto.FLOAT16):
    """A file of one convolution behind our uint8 input, in half precision unless told otherwise."""
    weight = np.ones((4, 3, 3, 3), helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=kind),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"]),
        helper.make_node("Cast", ["features"], ["logits"], to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, size)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, "H", "W"])
    graph = helper.make_graph(nodes, "one", [image], [logits], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_tensorrt_rtx_is_installed_where_tests_run():
    assert tensorrt_engine.library().__name__ == "tensorrt_rtx"


@TARGETS
def test_float32_builds_for_a_gpu_that_is_not_here(exported, target):
    plan = Plan(build_engine(exported / "model.onnx", compute_capability=target, max_batch=4))
    assert plan.target == f"sm{target[0]}{target[1]}"
    assert plan.tensors["image"] == ("uint8", [32, 32, 3])
    assert plan.tensors["logits"] == ("float", [10])
    assert set(plan.operands) == {"float"}
    assert not plan.tf32  # float32 is float32


def test_the_network_is_the_onnx_file(exported):
    network = read_network(exported / "model.onnx", max_batch=4)
    frame = (32, 32, 3)
    assert network.inputs == (Tensor("image", "UINT8", (-1, *frame), ((1, *frame), (1, *frame), (4, *frame))),)
    assert network.outputs == (Tensor("logits", "FLOAT", (-1, 10)),)
    assert network.layers == {"float32": 5}  # four convolutions and the linear layer


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_the_engine_holds_memory_for_the_largest_batch(exported, batch):
    largest = 32 * 16 * 16 * 4  # bytes of the pointwise convolution's output
    plan = Plan(build_engine(exported / "model.onnx", compute_capability=(8, 6), max_batch=batch))
    assert batch * largest in plan.regions


@TARGETS
def test_half_precision_in_the_graph_stays_half_precision(tmp_path, target):
    path = convolution(tmp_path / "fp16.onnx")
    assert read_network(path).layers == {"fp16": 1}
    assert set(Plan(build_engine(path, compute_capability=target)).operands) == {"half"}


@TARGETS
def test_symmetric_int8_runs_in_int8(symmetric, target):
    assert read_network(symmetric).layers == {"int8": 5}
    plan = Plan(build_engine(symmetric, compute_capability=target))
    assert set(plan.operands) == {"int8"}
    assert plan.tensors["image"][0] == "uint8"


@pytest.mark.parametrize("operand", [0, 1], ids=["weights", "activations"])
def test_int8_weights_or_activations_alone_are_no_int8_layer(exported, symmetric, operand):
    """Put the float tensor back in place of one operand of every layer."""
    model, original = onnx.load(symmetric), onnx.load(exported / "model.onnx")
    floats = {node.name: node.input[operand] for node in original.graph.node if node.op_type in ("Conv", "Gemm")}
    known = {each.name for each in model.graph.initializer}
    model.graph.initializer.extend(each for each in original.graph.initializer if each.name not in known)
    for node in model.graph.node:
        if node.name in floats:
            node.input[operand] = floats.pop(node.name)
    assert not floats
    onnx.save(model, symmetric)
    assert read_network(symmetric).layers == {"float32": 5}


def test_asymmetric_int8_is_refused_in_one_line_with_the_node(finished):
    with pytest.raises(ModelFileError) as caught:
        build_engine(finished / "model.int8-u8s8.onnx", compute_capability=(8, 6))
    said = str(caught.value)
    assert re.search(r"model.int8-u8s8.onnx: tensorrt cannot parse node '[^']+' \((Q|Deq)uantizeLinear\): \w", said)
    assert said.endswith("it takes symmetric int8 with unquantized bias (int8-s8s8)")
    assert "\n" not in said
    assert "/_src/" not in said


def test_a_network_of_the_zoo_builds(tmp_path, photos):
    from edgecv import models
    from edgecv_export.export import export
    from edgecv_runtime import Preprocess

    preprocess = Preprocess(size=(64, 64), mode="stretch", interpolation="linear")
    export(
        models.create("mobilenet_v3_small", classes=10).eval(),
        tmp_path / "zoo",
        name="zoo",
        preprocess=preprocess,
        normalization=NORMALIZATION,
        labels=LABELS,
        images=preprocess.batch(photos * 4),
    )
    file = tmp_path / "zoo" / "model.onnx"
    work = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in onnx.load(file).graph.node)
    assert read_network(file).layers == {"float32": work}
    for target in ((8, 6), (8, 9)):
        plan = Plan(build_engine(file, compute_capability=target))
        assert plan.tensors["image"] == ("uint8", [64, 64, 3])
        assert plan.tensors["logits"] == ("float", [10])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (
            {"compute_capability": (8, 7)},
            BadInput,
            r"cannot build for compute capability 8\.7; it can for .*8\.6, 8\.9",
        ),
        ({"max_batch": 0}, BadInput, "max_batch must be at least 1, got 0"),
        ({}, ModelFileError, "tensorrt cannot build an engine: .*driver"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(exported, given, error, said):
    with pytest.raises(error, match=said) as caught:
        build_engine(exported / "model.onnx", **given)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_dynamic_beyond_the_batch_is_refused(tmp_path):
    path = convolution(tmp_path / "open.onnx", size=("N", "H", "W", 3), kind=TensorProto.FLOAT)
    with pytest.raises(ModelFileError, match="'image' .* is dynamic beyond its batch; export it with fixed"):
        build_engine(path, compute_capability=(8, 6))


def test_a_broken_file_is_refused_before_tensorrt_sees_it(exported, tmp_path):
    half = tmp_path / "half.onnx"
    half.write_bytes((exported / "model.onnx").read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        build_engine(half, compute_capability=(8, 6))


# Where there is no GPU


@pytest.fixture
def without_gpu(monkeypatch):
    """No NVIDIA driver, whatever this machine has; the backend is known by its entry point."""

    def refuse(name, *_, **__):
        raise OSError(f"{name}: cannot open shared object file")

    tensorrt.gpu.cache_clear()
    monkeypatch.setattr(tensorrt.ctypes, "CDLL", refuse)
    known = EntryPoint("tensorrt", "edgecv_runtime.backends.tensorrt:TensorRtBackend", backends.GROUP)
    table = {**backends._table(), "tensorrt": known}
    monkeypatch.setattr(backends, "_table", lambda: table)


def test_without_a_gpu_the_others_are_used(without_gpu, exported, photos):
    assert "tensorrt" in backends.names()
    assert "tensorrt" not in backends.available()
    with rt.load(exported) as model:
        assert model.info.backend in ("onnxruntime", "openvino")
        assert model(photos[0]).label in LABELS


def test_without_a_gpu_asking_for_tensorrt_names_the_gpu(without_gpu, exported):
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU and its driver, but there is no lib") as caught:
        rt.load(exported, backend="tensorrt")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_missing_library_names_its_cure(monkeypatch):
    monkeypatch.setattr(tensorrt, "gpu", lambda: ADA)
    for name in tensorrt_engine.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"not installed: pip install 'edgecv\[tensorrt\]'"):
        tensorrt.TensorRtBackend.probe()


def test_a_library_that_does_not_load_says_why(monkeypatch):
    def fail(name):
        raise OSError("libnvinfer.so.10: cannot open shared object file\nand more")

    monkeypatch.setattr(tensorrt_engine.importlib, "import_module", fail)
    with pytest.raises(
        BackendUnavailable, match="installed, but does not load: libnvinfer.so.10: cannot open .* file$"
    ):
        tensorrt_engine.library()


def test_missing_cuda_bindings_name_their_cure(monkeypatch):
    tensorrt.cuda_runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendUnavailable, match="pip install cuda-bindings"):
        tensorrt.cuda_runtime()


def test_tensorrt_rtx_says_which_gpus_it_serves():
    trt = tensorrt_engine.library()
    tensorrt_engine.check_serves(trt, ADA)
    hopper = Gpu(name="NVIDIA H200", compute_capability=(9, 0), cuda="13.0")
    with pytest.raises(
        BackendUnavailable, match=r"does not serve NVIDIA H200 \(compute capability 9\.0; it serves 7\.5"
    ):
        tensorrt_engine.check_serves(trt, hopper)


def test_cuda_errors_come_in_its_own_words():
    with pytest.raises(ComputationError, match="tensorrt: cudaFree: "):
        tensorrt.cuda("cudaFree", 1)  # no driver, or not an address of the GPU


# The cache of engines


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, real builds for SM89, and a stand-in for deserializing, which needs a GPU."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    built = []

    def build(model, *, max_batch):
        built.append(model)
        return build_engine(model, compute_capability=(8, 9), max_batch=max_batch)

    monkeypatch.setattr(tensorrt_engine, "build_engine", build)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: data if data[:4] == b"vtrt" else None)
    monkeypatch.setattr(tensorrt_engine, "_runtime", lambda trt: runtime)
    return SimpleNamespace(built=built, folder=tmp_path / "cache" / "tensorrt")


def test_an_engine_is_built_once(cache, exported):
    first = tensorrt_engine.load_or_build(exported / "model.onnx", ADA, 4)
    assert tensorrt_engine.load_or_build(exported / "model.onnx", ADA, 4) == first
    assert len(cache.built) == 1
    (entry,) = cache.folder.iterdir()
    assert entry.read_bytes() == first


def test_an_engine_that_does_not_load_is_built_again(cache, exported):
    first = tensorrt_engine.load_or_build(exported / "model.onnx", ADA, 4)
    (entry,) = cache.folder.iterdir()
    entry.write_bytes(b"of another version")
    assert tensorrt_engine.load_or_build(exported / "model.onnx", ADA, 4)[:4] == b"vtrt"
    assert len(cache.built) == 2
    assert len(entry.read_bytes()) == len(first)


def test_whatever_an_engine_depends_on_makes_another_entry(cache, exported, bundle_copy):
    model, trt = exported / "model.onnx", SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    altered = bundle_copy / "model.onnx"
    assert tensorrt_engine.entry(model, trt, ADA, 4) == tensorrt_engine.entry(altered, trt, ADA, 4)
    content = onnx.load(altered)
    content.producer_name = "another"
    onnx.save(content, altered)
    entries = {
        tensorrt_engine.entry(*each)
        for each in (
            (model, trt, ADA, 4),
            (altered, trt, ADA, 4),
            (model, SimpleNamespace(__name__="tensorrt", __version__="10.4.0"), ADA, 4),
            (model, SimpleNamespace(__name__="tensorrt_rtx", __version__="10.3.0"), ADA, 4),
            (model, trt, Gpu("NVIDIA RTX 4080", (8, 9), "13.0"), 4),
            (model, trt, Gpu("NVIDIA RTX 4090", (8, 6), "13.0"), 4),
            (model, trt, ADA, 8),
        )
    }
    assert len(entries) == 7


def test_a_cache_that_cannot_be_written_costs_only_a_build(cache, exported, monkeypatch):
    def fail(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(tensorrt_engine.files, "write", fail)
    assert tensorrt_engine.load_or_build(exported / "model.onnx", ADA, 4)[:4] == b"vtrt"


# Bookkeeping of `run`, against a fake CUDA


class FakeCuda:
    """The CUDA runtime's functions over the host's memory; `live` counts what was not freed, `fail` breaks one."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self):
        self.live, self.fail, self._streams = {}, "", itertools.count(1)

    def __getattr__(self, name):
        call = getattr(self, f"_{name}", None) if not name.startswith("_") else None
        if call is None:
            raise AttributeError(name)
        return (lambda *given: (2, None)) if name == self.fail else lambda *given: (0, call(*given))

    def cudaGetErrorString(self, status):  # noqa: N802
        return (0, b"out of memory")

    def _cudaMalloc(self, size):  # noqa: N802
        memory = (ctypes.c_uint8 * size)()
        self.live[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _cudaHostAlloc(self, size, flags):  # noqa: N802
        return self._cudaMalloc(size)

    def _cudaFree(self, address):  # noqa: N802
        del self.live[address]

    def _cudaFreeHost(self, address):  # noqa: N802
        del self.live[address]

    def _cudaStreamCreate(self):  # noqa: N802
        stream = next(self._streams)
        self.live[stream] = None
        return stream

    def _cudaStreamDestroy(self, stream):  # noqa: N802
        del self.live[stream]

    def _cudaStreamSynchronize(self, stream):  # noqa: N802
        assert stream in self.live

    def _cudaMemcpyAsync(self, to, source, size, kind, stream):  # noqa: N802
        assert size <= min(len(self.live[to]), len(self.live[source]))
        ctypes.memmove(to, source, size)


class FakeEngine:
    """(N, 4, 4, 3) uint8 `image` -> (N, 2) float32 `logits`: the sum of the pixels, and the size of the batch."""

    num_io_tensors = 2

    def __init__(self):
        self.batches, self.addresses, self.shape, self.works, self.fixed = [], {}, None, True, None

    def get_tensor_name(self, index):
        return ("logits", "image")[index]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if name == "image" else "OUTPUT")

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="UINT8" if name == "image" else "FLOAT")

    def get_tensor_shape(self, name):
        return (self.fixed or -1, 4, 4, 3) if self.shape is None else (self.shape[0], 2)

    def create_execution_context(self):
        return self

    def create_engine_inspector(self):
        return SimpleNamespace(get_engine_information=lambda kind: "")

    def set_input_shape(self, name, shape):
        if shape[0] not in ([self.fixed] if self.fixed else range(1, tensorrt.MAX_BATCH + 1)):
            return False
        self.shape = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shape))
        image = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses["image"])).reshape(self.shape)
        count = 2 * self.shape[0]
        logits = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["logits"])).reshape(-1, 2)
        logits[:, 0], logits[:, 1] = image.sum((1, 2, 3)), self.shape[0]
        self.batches.append(self.shape[0])
        return self.works


@pytest.fixture
def fake(monkeypatch, exported):
    """A fake CUDA and engine; `open()` makes a backend of them that is closed before they go."""
    cuda, engine, opened = FakeCuda(), FakeEngine(), []
    monkeypatch.setattr(tensorrt, "cuda_runtime", lambda: cuda)
    monkeypatch.setattr(tensorrt, "gpu", lambda: ADA)
    monkeypatch.setattr(tensorrt_engine, "load_or_build", lambda *_: engine)

    def start(model=exported / "model.onnx", **options):
        opened.append(tensorrt.TensorRtBackend(model, Options(**options)))
        return opened[-1]

    yield SimpleNamespace(cuda=cuda, engine=engine, open=start, opened=opened)
    cuda.fail = ""
    for backend in opened:
        backend.close()


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 3, 16, 17, 40])
def test_any_batch_runs_in_parts_that_fit(fake, count):
    backend = fake.open()
    batch = frames(count)
    logits = backend.run({"image": batch})["logits"]
    assert logits[:, 0].tolist() == batch.sum((1, 2, 3)).tolist()
    assert sum(fake.engine.batches) == count
    assert max(fake.engine.batches) <= tensorrt.MAX_BATCH
    again = logits.copy()
    backend.run({"image": frames(count, seed=1)})
    assert (logits == again).all()  # the caller's own copy
    backend.run({"image": np.asfortranarray(batch)})


def test_a_file_with_a_fixed_batch_is_not_cut(fake):
    fake.engine.fixed = 24
    backend, batch = fake.open(), frames(24)
    assert backend.run({"image": batch})["logits"][:, 0].tolist() == batch.sum((1, 2, 3)).tolist()
    with pytest.raises(ComputationError, match=r"tensorrt refuses 'image' of shape \(3, 4, 4, 3\)"):
        backend.run({"image": frames(3)})


def test_threads_do_not_mix_their_answers(fake):
    backend = fake.open()
    wrong = []

    def work(seed):
        for round_ in range(50):
            batch = frames(1 + seed, seed=100 * seed + round_)
            if backend.run({"image": batch})["logits"][:, 0].tolist() != batch.sum((1, 2, 3)).tolist():
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_closing_frees_everything_and_twice_is_fine(fake):
    backend = fake.open()
    assert fake.cuda.live
    backend.close()
    backend.close()
    assert not fake.cuda.live
    with pytest.raises(Closed, match="model.onnx is closed"):
        backend.run({"image": frames(1)})
    with pytest.raises(Closed):
        backend.executed()


def test_a_backend_that_is_dropped_frees_everything(fake):
    fake.open()
    fake.opened.clear()
    gc.collect()
    assert not fake.cuda.live


@pytest.mark.parametrize("function", ["cudaStreamCreate", "cudaMalloc", "cudaHostAlloc"])
def test_no_memory_is_an_error_that_leaves_nothing_behind(fake, function):
    fake.cuda.fail = function
    with pytest.raises(ComputationError, match=f"tensorrt: {function}: out of memory"):
        fake.open()
    assert not fake.cuda.live


def test_a_failing_run_is_a_computation_error(fake):
    backend = fake.open()
    fake.engine.works = False
    with pytest.raises(ComputationError, match="tensorrt failed on model.onnx"):
        backend.run({"image": frames(1)})
    fake.cuda.fail = "cudaStreamSynchronize"
    fake.engine.works = True
    with pytest.raises(ComputationError, match="cudaStreamSynchronize: out of memory"):
        backend.run({"image": frames(1)})


def test_options_that_tensorrt_has_not_are_refused(fake):
    with pytest.raises(BadInput, match="runs on device 'gpu'"):
        fake.open(device="npu")
    with pytest.raises(BadInput, match="takes its precision from the ONNX file, not bf16"):
        fake.open(precision="bf16")


def test_an_inspector_that_says_nothing_is_made_up_for_by_the_network(fake, symmetric):
    executed = fake.open(symmetric).executed()
    assert executed == backends.Executed(precision="int8", layers={"int8": 5})


# What the engine inspector writes, after NVIDIA's documentation of it


def layer(kind, type_, field="Format/Datatype", name="conv"):
    return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Dimensions": [1, 8, 4, 4], field: type_}]}


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        ([layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format.")], {"int8": 1}),
        ([layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0")], {"fp16": 1}),
        ([layer("CaskGemmConvolution", "Half"), layer("gemm", "BFloat16")], {"fp16": 1, "bf16": 1}),
        ([layer("CaskConvolution", "Float", field="DataType"), layer("Reformat", "Half")], {"float32": 1}),
        ([layer("CaskConvolution", "Int8"), layer("Myelin", "Half", name="{ForeignNode[a...b]}")], {}),
        ([layer("CaskConvolution", "")], {}),
        (["conv + relu", "pool"], {}),
        ([{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": ["x"]}], {}),
    ],
)
def test_the_inspector_is_read(layers, counts):
    assert tensorrt.inspected(json.dumps({"Layers": layers})) == counts


def test_an_inspector_that_writes_no_json_says_nothing():
    assert tensorrt.inspected('{"Layers": [{"Name": "a "quoted" name"}]}') == {}
