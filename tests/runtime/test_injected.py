"""Backends that are objects: every verb takes them, and what is measured of them is theirs alone."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv_runtime import backends, machine
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bench.latency import bench
from edgecv_runtime.errors import BadInput
from edgecv_runtime.offers import offered
from edgecv_runtime.verify import verify

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))  # of the processes that bench starts
    import inject_backend

    yield inject_backend
    del sys.modules["inject_backend"]


def test_an_object_runs_as_the_backend_it_is(example, photos):
    with rt.load(DIGITS, backend="onnxruntime") as plain, rt.load(DIGITS, backend=example.Halving()) as model:
        assert (model.info.backend, model.info.versions) == ("halving", backends.get("onnxruntime").probe())
        batch = model.tensor(photos[:3])
        expected = plain.run({"image": batch})["logits"]
        assert np.array_equal(model.run({"image": batch})["logits"], np.float32(np.float16(expected)))


def test_its_evidence_is_of_its_machine_and_judges_nothing_here(example):
    with rt.Bundle(DIGITS) as bundle:
        (proof,) = [each.entry for each in verify(bundle, backend=example.Halving())]
        (timed,) = bench(bundle, backend=example.Halving(), seconds=0.02, rounds=1)
        there = example.Halving().machine()
        assert proof.key == timed.key == ("float32", "halving", "float32", there.key)
        assert proof.machine == there != machine.this()
        assert timed.latency.runs > 0
        evidence = bundle.evidence().merged([proof]).merged([timed])
        assert offered(bundle.manifest, evidence, there).why_not == {("float32", "halving", "float32"): ""}
        assert ("float32", "halving", "float32") not in offered(bundle.manifest, evidence, machine.this()).why_not


def test_where_it_disagrees_it_is_withheld_there(example, tmp_path):
    class Wrong(example.Halving):
        name = "wrong"

        def __call__(self, model, options):
            made = super().__call__(model, options)
            right = made.run
            made.run = lambda feeds: {name: -each for name, each in right(feeds).items()}
            return made

    with rt.Bundle(DIGITS) as bundle:
        (proof,) = [each.entry for each in verify(bundle, backend=Wrong())]
        assert proof.finding is not None
        bundles.write(tmp_path / "b", bundle.manifest, bundle.content())
    with rt.Bundle(tmp_path / "b") as copy:
        bundles.update(copy, evidence=copy.evidence().merged([proof]))
    with pytest.raises(BadInput, match="nothing runs at precision 'auto' on backend 'wrong'"):
        rt.load(tmp_path / "b", backend=Wrong())
    with rt.load(tmp_path / "b", backend=example.Halving()):
        pass


def test_what_is_no_backend_is_refused_in_one_line(example):
    class Nameless(example.Halving):
        name = ""

    class Taken(example.Halving):
        name = "onnxruntime"

    class Equal(example.Halving):
        __hash__ = None

    for given, why in [
        (example.Halving, "is a class: give an instance, backend=Halving"),
        (3, "backend int has no __call__, probe, precisions, machine"),
        (Nameless(), "has no name"),
        (Taken(), "is named 'onnxruntime'"),
        (Equal(), "cannot be hashed: a dataclass wants eq=False"),
    ]:
        with pytest.raises(BadInput, match=why):
            rt.load(DIGITS, backend=given)
    held = example.Halving()
    held.lock = threading.Lock()
    with rt.Bundle(DIGITS) as bundle, pytest.raises(BadInput, match="backend halving .* cannot be pickled"):
        bench(bundle, backend=held)
