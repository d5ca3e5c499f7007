"""After fork a model works in the child, on every backend, and nothing waits for threads that stayed behind."""

import functools
import hashlib
import importlib
import multiprocessing
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgecv_runtime as rt
from edgecv_runtime import bundle as bundles
from edgecv_runtime import choose, errors
from edgecv_runtime.backends import Options
from edgecv_runtime.backends.openvino import OpenVinoBackend
from edgecv_runtime.target import Target
from tests.runtime import foreign

FORKED = """
import multiprocessing, os, signal, sys
import numpy as np
import edgecv_runtime as rt

bundle, backend, goal = sys.argv[1:]
model = rt.load(bundle, backend=backend, goal=goal)
frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
wanted = model(frame).label

def labels(_=None):
    return {model(frame).label, model.submit(frame).result().label, *(each.label for each in model.map([frame] * 9))}

assert labels() == {wanted}  # all threads run now
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(labels, range(4)).get(30) == [{wanted}] * 4

def in_child(call):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        call()
        sys.exit(0)  # as a program ends: the interpreter frees what it has
    assert os.waitpid(child, 0)[1] == 0

def is_closed(call):
    try:
        call()
    except rt.errors.Closed as exc:
        return str(exc)
    raise AssertionError("no error")

def begun_before():
    assert "another process" in is_closed(lambda: list(begun))

def grandchild():
    assert labels() == {wanted}
    in_child(lambda: labels() == {wanted} or sys.exit(1))

begun = model.map([frame] * 60)
next(begun)
in_child(begun_before)
assert len(list(begun)) == 59  # the parent's goes on
in_child(grandchild)
assert labels() == {wanted}
model.close()
in_child(lambda: is_closed(lambda: model(frame)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("goal", ["latency", "throughput"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "echo"])
def test_a_model_works_in_forked_processes(exported, backend, goal):
    given = [str(exported), backend, goal]
    done = subprocess.run([sys.executable, "-c", FORKED, *given], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


HELD = """
import os, signal, sys, threading
from edgecv_runtime.workers import Workers

workers, held, go = Workers(1), threading.Event(), threading.Event()
future = workers.submit(lambda _: go.wait(), None)

def hold():
    with future._condition:
        held.set()
        go.wait()

threading.Thread(target=hold).start()
held.wait()
if os.fork() == 0:
    signal.alarm(5)
    workers.abandon()
    os._exit(0 if "another process" in str(future.exception(0)) else 1)
status = os.wait()[1]
go.set()
sys.exit(status != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_future_whose_lock_a_thread_of_the_parent_holds_does_not_hang_the_child():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_a_child_leaves_the_files_of_an_unpacked_bundle(finished, tmp_path):
    with rt.Bundle(finished) as opened:
        names = [*opened.manifest.files]
        bundles.write(tmp_path / "zipped.edgecv", opened.manifest, {name: opened.file(name) for name in names})
    with rt.Bundle(tmp_path / "zipped.edgecv") as opened:
        process = multiprocessing.get_context("fork").Process(target=opened.close)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        assert sorted(file.name for file in opened.root.iterdir()) == sorted([*names, "bundle.json"])
        root = opened.root
    assert not root.exists()


def test_a_backend_that_cannot_be_opened_in_a_child_says_what_to_do(exported, monkeypatch):
    model = rt.load(exported, backend="onnxruntime")
    model._after_fork()

    def refuses(_):
        raise errors.BackendUnavailable("tensorrt: cudaMalloc: initialization error")

    monkeypatch.setattr(Target, "open", refuses)
    with pytest.raises(errors.BackendUnavailable, match="before this process forked.*initialization.*load it in each"):
        model.run({})
    monkeypatch.undo()
    assert model.info.backend == "onnxruntime"
    model.close()
    with pytest.raises(errors.Closed):
        _ = model.run({})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_bundle_that_is_exchanged_before_a_child_opens_it_is_not_run(bundle_copy, backend, tmp_path, monkeypatch):
    """The child has the labels of the bundle that was loaded; OpenVINO finds what it compiled by the old hash."""
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    feeds = [{"image": np.full((rows, 32, 32, 3), 90, np.uint8)} for rows in (1, 2)]
    old = (bundle_copy / "model.onnx").read_bytes()

    def exchange(content):
        with rt.Bundle(bundle_copy) as opened:
            bundles.update(opened, content={"model.onnx": content})

    with rt.load(bundle_copy, backend=backend) as model:
        wanted = [model.run(each)["logits"] for each in feeds]
        model._after_fork()
        network = onnx.load_from_string(old)
        bias = next(each for each in network.graph.initializer if each.name == network.graph.node[-1].input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.arange(10, dtype=np.float32), bias.name))
        exchange(network.SerializeToString())
        for each in (*feeds, *feeds):
            with pytest.raises(errors.BundleError, match=r"model\.onnx: was exchanged.*load it again"):
                model.run(each)
        exchange(old)
        for each, logits in zip(feeds, wanted, strict=True):
            assert model.run(each)["logits"] == pytest.approx(logits, abs=1e-5)


def test_a_plain_file_that_is_exchanged_before_a_child_opens_it_is_not_run(tmp_path):
    path = foreign.save(tmp_path / "m.onnx")
    frame = foreign.frames()[0]
    with foreign.load(path) as model:
        wanted = model(frame).scores
        model._after_fork()
        assert (model(frame).scores == wanted).all()
        model._after_fork()
        foreign.save(path, [foreign.node("Neg", "l", "y")])
        with pytest.raises(errors.ModelFileError, match=r"m\.onnx: was exchanged since it was loaded; load it again"):
            model(frame)


def test_a_plain_file_that_is_exchanged_while_it_is_measured_is_not_run(tmp_path, monkeypatch):
    path = foreign.save(tmp_path / "m.onnx")
    real = choose.for_file

    def measured(*given):
        target = real(*given)
        foreign.save(path, [foreign.node("Neg", "l", "y")])
        return target

    monkeypatch.setattr(choose, "for_file", measured)
    with pytest.raises(errors.ModelFileError, match=r"m\.onnx: was exchanged while it was loaded; load it again"):
        foreign.load(path)


def test_openvino_keeps_what_it_compiled_only_under_the_hash_of_the_file_that_it_read(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    path = foreign.save(tmp_path / "m.onnx")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    for digest, kept in (("0" * 64, 0), (right, 2)):
        opened = OpenVinoBackend(path, Options(digest=digest))
        for rows in (1, 2):
            opened.run({"x": np.zeros((rows, 3, 8, 8), np.float32)})
        opened.close()
        assert len([*tmp_path.rglob("*.blob")]) == kept


def test_a_model_that_is_pickled_says_what_to_do_instead(exported):
    with rt.load(exported, backend="echo") as model:
        for send in (pickle.dumps, functools.partial(pickle.dumps, protocol=0)):
            with pytest.raises(errors.BadInput, match=r"send the path, and call edgecv_runtime.load\('.*bundle'"):
                send(model)


def every_error():
    """All error classes of the three packages, also of modules that nothing has imported yet."""
    for package in ("edgecv", "edgecv_export", "edgecv_runtime"):
        root = Path(next(iter(importlib.import_module(package).__path__)))
        for found in pkgutil.walk_packages([str(root)], f"{package}."):
            file = root.joinpath(*found.name.split(".")[1:])
            source = file.with_suffix(".py") if not found.ispkg else file / "__init__.py"
            if "errors import" in source.read_text():
                importlib.import_module(found.name)
    kinds = [errors.EdgecvError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    own = [kind for kind in kinds if kind.__module__.startswith("edgecv")]
    # another test may have imported a module anew, and put the former one back: its classes are still somewhere
    return list(
        dict.fromkeys(kind for kind in own if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind)
    )


def test_every_error_survives_pickling_with_its_attributes():
    from edgecv.data.checked import UnreadableFiles
    from edgecv.train.signals import Interrupted
    from edgecv_runtime.serve.body import Refusal

    found = every_error()
    assert {errors.NoMemory, UnreadableFiles, Interrupted} < set(found)
    special = {UnreadableFiles: (["a.jpg: cut"],), Interrupted: (15,), Refusal: (429, {"Retry-After": "1"})}
    for kind in found:
        error = kind("what: where", *special.get(kind, ()))
        error.note = "kept"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(error, protocol))
            assert type(again) is kind
            assert str(again) == "what: where"
            assert again.exit_code == error.exit_code
            assert vars(again) == vars(error)
            assert again.args == error.args
