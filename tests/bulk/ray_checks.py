"""On Ray: the same table as on one machine, whatever node is killed; and the predictor in Ray Data.

`make test-ray` runs it, in an environment of its own: Ray is large, and pytest does not find it by this name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray
from bulk_lab import ASKED, BUNDLE, by_hand, photos, png, predictor
from ray.cluster_utils import Cluster

import edgecv_runtime as rt
from edgecv_runtime import bulk

HERE = Path(__file__).parent
FAULTS = """
import os, signal
import edgecv_runtime.images as images

true = images.decode

def decode(data, *more, **named):
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return true(data, *more, **named)

images.decode = decode
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one CPU each; the second one can be killed."""
    faults = tmp_path_factory.mktemp("faults")
    (faults / "sitecustomize.py").write_text(FAULTS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(faults), str(HERE), os.environ.get("PYTHONPATH"))))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def large(folder, count):
    """Pictures that take a while to decode, all but the first links to it."""
    folder.mkdir()
    data = png(0, (900, 1200))
    (folder / "0000.png").write_bytes(data)
    for number in range(1, count):
        os.link(folder / "0000.png", folder / f"{number:04}.png")
    return folder


def test_a_node_that_is_killed_costs_nothing(cluster, tmp_path):
    shelf = large(tmp_path / "photos", 600)
    (shelf / "0100.png").unlink()
    (shelf / "0100.png").write_bytes(png(1)[:-40])
    (shelf / "0200.png").unlink()
    (shelf / "0200.png").write_bytes(png(2) + b"CRASH")
    wanted = bulk.run(predictor(), shelf, tmp_path / "wanted.jsonl", chunk=10)
    assert (wanted.images, wanted.errors) == (600, 2)
    nodes = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    machines = []

    def kill(progress):
        if progress.here >= 100 and nodes:
            machines.append(len([node for node in ray.nodes() if node["Alive"]]))
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    told = []
    done = bulk.run(
        predictor(), shelf, tmp_path / "out.jsonl", ray=cluster.address, chunk=10, progress=kill, told=told.append
    )
    assert machines == [2]
    assert done == wanted
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "wanted.jsonl").read_bytes()
    assert told[0] == "Ray: 2 machines, 2 CPUs, 2 actors"
    assert len([node for node in ray.nodes() if node["Alive"]]) == 1
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()


def test_what_one_machine_began_ray_ends_with_relative_paths(cluster, tmp_path, monkeypatch):
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)

    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    with pytest.raises(Stop):
        bulk.run(predictor(), "photos", "out.parquet", chunk=4, progress=stop)
    told = []
    done = bulk.run(predictor(), "photos", "out.parquet", chunk=4, ray=cluster.address, told=told.append)
    assert (done.images, done.errors) == (30, 1)
    assert any(" of 30 images are done; the others follow" in line for line in told)
    import pyarrow.parquet as pq

    rows = pq.read_table("out.parquet").to_pylist()
    assert [row["label"] for row in rows] == [label for _, label, _, _ in by_hand([row["path"] for row in rows])]


def test_an_error_of_ours_on_a_node_is_that_error_here(cluster, tmp_path, monkeypatch):
    from edgecv_runtime.bulk import job

    photos(tmp_path / "photos", 3)
    monkeypatch.setattr(job, "content", lambda _: "0" * 64)  # here only, not where it runs
    with pytest.raises(rt.errors.BundleError, match="was exchanged while the job ran"):
        bulk.run(predictor(), tmp_path / "photos", tmp_path / "out.jsonl", ray=cluster.address)


WAITS = """
import sys
import edgecv_runtime as rt
from edgecv_runtime import bulk
from edgecv_runtime.bulk import on_ray

on_ray._SILENT_S = 1.0
bundle, images, out, address = sys.argv[1:]
predictor = rt.Predictor(bundle, backend="onnxruntime", threads=64)  # more CPUs than there are
bulk.run(predictor, images, out, ray=address, told=lambda text: print(text, flush=True))
"""


def test_a_cluster_without_room_is_told(cluster, tmp_path):
    command = [sys.executable, "-c", WAITS, BUNDLE, photos(tmp_path / "photos", 3), tmp_path / "out.jsonl"]
    with subprocess.Popen([*map(str, command), cluster.address], stdout=subprocess.PIPE, text=True) as process:
        try:
            told = next(line for line in process.stdout if line.startswith("nothing"))
        finally:
            process.kill()
    assert re.fullmatch(r"nothing has come from Ray for \d+ s; [\d.]+ CPUs are free \(ray status\)\n", told)


def test_an_address_where_nothing_listens_is_told_at_once(cluster, tmp_path, monkeypatch):
    photos(tmp_path / "photos", 3)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(rt.errors.Unavailable, match="Ray at '127.0.0.1:1': Connection refused; 'local' starts one"):
        bulk.run(predictor(), tmp_path / "photos", tmp_path / "out.jsonl", ray="127.0.0.1:1")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("kind", ["class", "instance"])
def test_the_predictor_is_a_function_of_ray_data(cluster, tmp_path, kind):
    shelf = photos(tmp_path / "photos", 12)
    names = sorted(map(str, shelf.rglob("*.png")))
    names = [name for name in names if "/." not in name]
    files = ray.data.read_binary_files(names, include_paths=True)
    if kind == "class":
        found = files.map_batches(
            rt.Predictor,
            fn_constructor_args=(BUNDLE,),
            fn_constructor_kwargs=ASKED,
            batch_format="numpy",
            batch_size=4,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
    else:
        found = files.map_batches(predictor(), batch_format="numpy", batch_size=4)
    rows = sorted(found.take_all(), key=lambda row: row["path"])
    assert [row["path"] for row in rows] == names
    assert [(row["label"], bool(row["error"])) for row in rows] == [(label, bad) for _, label, _, bad in by_hand(names)]
    assert all(row["scores"].shape == (10,) for row in rows)


def test_pictures_that_ray_has_decoded_are_rgb(cluster, tmp_path):
    (tmp_path / "photos").mkdir()
    frames = [np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8) for seed in range(4)]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), frame)
    made = predictor(column="image", rgb=True, columns=("scores",))
    found = ray.data.from_numpy(np.stack(frames)[..., ::-1]).rename_columns({"data": "image"})
    rows = found.map_batches(made, batch_format="numpy").take_all()
    with rt.load(BUNDLE, **ASKED) as model:
        wanted = [model(frame).scores for frame in frames]
    assert np.allclose([row["scores"] for row in rows], wanted, atol=1e-6)
