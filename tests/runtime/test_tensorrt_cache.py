"""Engines are a cache: named by all that they depend on, whole or not there. None of this needs a GPU."""

import hashlib
import logging
from types import SimpleNamespace

import msgspec
import onnx
import pytest

from edgecv_runtime import files
from edgecv_runtime.backends.onnxruntime import PROVIDERS
from edgecv_runtime.backends.tensorrt import api, build, cache
from edgecv_runtime.backends.tensorrt.build import Plan
from edgecv_runtime.backends.tensorrt.cuda import Gpu
from edgecv_runtime.errors import Unavailable

ADA = Gpu(name="NVIDIA RTX 4090", compute_capability=(8, 9), multiprocessors=128, cuda="13.0")
ENGINE = b"an engine as TensorRT wrote it"


def release(name="tensorrt", version="10.3.0", strong=True, flags=True):
    """As much of a TensorRT as a key asks; releases differ in what they have (test_tensorrt_api.py)."""
    return SimpleNamespace(
        __name__=name,
        __version__=version,
        NetworkDefinitionCreationFlag=SimpleNamespace(__members__={"STRONGLY_TYPED": 1} if strong else {}),
        BuilderFlag=SimpleNamespace(__members__={"FP16": 0} if flags else {}),
    )


@pytest.fixture
def key(exported):
    return cache.key(exported / "model.onnx", release(), ADA, Plan())


def test_whatever_an_engine_depends_on_makes_another_entry(exported, bundle_copy, key):
    model = exported / "model.onnx"
    assert cache.key(bundle_copy / "model.onnx", release(), ADA, Plan()) == key  # the same file elsewhere
    altered = onnx.load(bundle_copy / "model.onnx")
    altered.producer_name = "another"
    onnx.save(altered, bundle_copy / "model.onnx")
    keys = [
        key,
        cache.key(bundle_copy / "model.onnx", release(), ADA, Plan()),
        cache.key(model, release(version="10.4.0"), ADA, Plan()),
        cache.key(model, release(name="tensorrt_rtx"), ADA, Plan()),
        cache.key(model, release(strong=False), ADA, Plan()),
        cache.key(model, release(), Gpu("NVIDIA RTX 4080", (8, 9), 128, "13.0"), Plan()),
        cache.key(model, release(), Gpu("NVIDIA RTX 4090", (8, 6), 128, "13.0"), Plan()),
        cache.key(model, release(), Gpu("NVIDIA RTX 4090", (8, 9), 114, "13.0"), Plan()),
        cache.key(model, release(), ADA, Plan(max_batch=8)),
        cache.key(model, release(), ADA, Plan(max_batch=1, dla=0)),
        cache.key(model, release(), ADA, Plan(max_batch=1, dla=1)),
        msgspec.structs.replace(key, recipe=cache.RECIPE + 1),
    ]
    assert len({each.name for each in keys}) == len(keys)
    updated = Gpu(ADA.name, ADA.compute_capability, ADA.multiprocessors, cuda="13.1")
    assert cache.key(model, release(), updated, Plan()) == key  # a newer driver loads the same engines


def test_external_data_is_part_of_the_key(exported, tmp_path):
    model = onnx.load(exported / "model.onnx")
    file = tmp_path / "model.onnx"
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = cache.key(file, release(), ADA, Plan())
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert cache.key(file, release(), ADA, Plan()).name != before.name


@pytest.mark.parametrize(
    ("strong", "flags", "dla", "typing"),
    [
        (False, True, None, "weak"),  # 8.6
        (True, True, None, "strong"),  # 10
        (True, True, 0, "weak"),  # 10: NVIDIA describes the DLA with precision flags
        (True, False, 0, "strong"),  # 11.4.1
    ],
)
def test_networks_are_strongly_typed_where_the_release_has_it(exported, strong, flags, dla, typing):
    plan = Plan(max_batch=1, dla=dla)
    assert cache.key(exported / "model.onnx", release(strong=strong, flags=flags), ADA, plan).typing == typing


def test_an_engine_comes_back_as_it_was_written(key, tmp_path):
    assert cache.load(key, tmp_path) is None
    cache.store(key, ENGINE, tmp_path)
    assert cache.load(key, tmp_path) == ENGINE
    assert cache.load(msgspec.structs.replace(key, library="tensorrt 10.4.0"), tmp_path) is None
    assert (tmp_path / f"{key.name}.engine").read_bytes() == ENGINE  # no header: trtexec and DeepStream load it too
    beside = msgspec.json.decode((tmp_path / f"{key.name}.json").read_bytes())
    assert beside["key"]["gpu"] == "NVIDIA RTX 4090"
    assert beside["sha256"] == hashlib.sha256(ENGINE).hexdigest()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no engine", "bad json", "another key", "unreadable"])
def test_a_damaged_engine_never_reaches_tensorrt_and_is_said(key, tmp_path, caplog, damage):
    cache.store(key, ENGINE, tmp_path)
    engine, beside = tmp_path / f"{key.name}.engine", tmp_path / f"{key.name}.json"
    if damage == "flipped":
        engine.write_bytes(bytes([ENGINE[0] ^ 1]) + ENGINE[1:])
    elif damage == "cut":
        engine.write_bytes(ENGINE[:-1])
    elif damage == "empty":
        engine.write_bytes(b"")
    elif damage == "no engine":
        engine.unlink()
    elif damage == "bad json":
        beside.write_bytes(b'{"key":')
    elif damage == "another key":  # copied there from another device
        other = msgspec.structs.replace(key, gpu="Orin")
        cache.store(other, ENGINE, tmp_path)
        beside.write_bytes((tmp_path / f"{other.name}.json").read_bytes())
    else:
        beside.unlink()
        beside.mkdir()
    with caplog.at_level(logging.WARNING, "edgecv.tensorrt"):
        assert cache.load(key, tmp_path) is None
    said = [record.getMessage() for record in caplog.records]
    assert (damage == "no engine") == (said == [])  # one that is not there is no fault
    assert all("building again" in each for each in said)


def test_a_cache_that_cannot_be_written_is_said(key, tmp_path, caplog, monkeypatch):
    def fail(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(files, "write", fail)
    cache.store(key, ENGINE, tmp_path)
    assert "the next start builds again: read-only file system" in caplog.text


def test_times_of_kernels_are_shared_by_networks_and_kept_apart_by_hardware(exported, key, tmp_path):
    def timing(**changes):
        return cache.timing_file(msgspec.structs.replace(key, **changes), tmp_path)

    assert timing() == timing(files=("0" * 64,)) == timing(batches=(1, 1, 8))
    others = [timing(gpu="Orin"), timing(library="tensorrt 10.4.0"), timing(multiprocessors=8), timing(device="dla:0")]
    assert len({timing(), *others}) == 5


def test_a_cache_folder_that_cannot_be_made_is_an_error_with_the_cure(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "file"))
    with pytest.raises(Unavailable, match="no folder to keep engines in: .*set EDGECV_CACHE"):
        cache.home()
    with pytest.raises(Unavailable, match="no folder to keep engines in: .*set EDGECV_CACHE"):
        PROVIDERS["tensorrt"].options("0", 0)


def test_kernels_that_cannot_be_read_are_compiled_again(tmp_path, caplog):
    kernels = tmp_path / "a.kernels"
    assert cache.read_kernels(kernels) == b""
    assert caplog.text == ""  # the first time
    kernels.write_bytes(b"kernels")
    assert cache.read_kernels(kernels) == b"kernels"
    kernels.unlink()
    kernels.mkdir()
    assert cache.read_kernels(kernels) == b""
    assert "a.kernels: cannot be read, compiling again" in caplog.text


class Config:
    """The timing-cache part of IBuilderConfig, after its documentation: refuses what it does not know."""

    def __init__(self, known):
        self.known, self.attached = known, None

    def create_timing_cache(self, content):
        return SimpleNamespace(content=content) if content in (b"", *self.known) else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache.content == b"of another GPU":
            return False
        self.attached = cache.content
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.attached + b" and more")


@pytest.mark.parametrize(
    ("kept", "attached"), [(None, b""), (b"times", b"times"), (b"noise", b""), (b"of another GPU", b"")]
)
def test_measured_times_go_from_build_to_build(tmp_path, caplog, kept, attached):
    file = tmp_path / "a.timing"
    if kept is not None:
        file.write_bytes(kept)
    config = Config([b"times", b"of another GPU"])
    build.attach_timing_cache(config, file)
    assert config.attached == attached
    assert ("starting a new one" in caplog.text) == (kept not in (None, b"times"))
    build.keep_timing_cache(config, file)
    assert file.read_bytes() == attached + b" and more"


def test_times_that_cannot_be_read_do_not_end_a_build(tmp_path, caplog):
    """Of another user, after a run as root: a folder in its place stands for it, which root cannot read either."""
    (tmp_path / "a.timing").mkdir()
    config = Config([])
    build.attach_timing_cache(config, tmp_path / "a.timing")
    assert config.attached == b""
    assert "a.timing: the timing cache cannot be read" in caplog.text


def test_tensorrt_rtx_is_asked_for_no_timing_cache(exported, tmp_path):
    """Its timing caches do nothing, it says so itself with a DeprecationWarning."""
    assert api.abilities(api.library()).rtx
    build.build_here(exported / "model.onnx", compute_capabilities=[(8, 9)], timing=tmp_path / "a.timing")
    assert list(tmp_path.iterdir()) == []
