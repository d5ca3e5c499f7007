"""A table of very many pictures: a row each whatever is killed, crashes, hangs or is broken; never a mix of jobs."""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bulk_lab import ASKED, BUNDLE, by_hand, children, environment, is_alive, photos, png, predictor
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv.cli.app import app
from edgecv_runtime import bulk, description, errors
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bulk import child, inputs, job, ledger, tables
from edgecv_runtime.bulk import running as runs
from edgecv_runtime.bulk.worker import Part

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
import faults_lab
import foreign

SOON_S = 20.0
ENDED = 9


def here(predictor, bundle, chunks, count, hangs_s):
    """What processes compute, in this one."""
    job.check_same(predictor, bundle)
    for chunk in chunks:
        rows = child._computed(predictor, chunk.names)
        content = tables.msgspec.msgpack.encode(rows)
        yield Part(chunk.number, content, len(rows), sum(row[-1] is not None for row in rows))


@pytest.fixture
def in_this_process(monkeypatch):
    """For tests of all but the processes."""
    monkeypatch.setattr(runs, "computed", here)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("bulk") / "photos")


def in_order(folder):
    """Depth first, by name: the order of the rows."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        found += in_order(entry) if entry.is_dir() else [entry] * (entry.suffix == ".png")
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_those_of_a_plain_loop_in_every_format(shelf, tmp_path):
    wanted = by_hand(in_order(shelf))
    assert sum(error for *_, error in wanted) == 1
    told = []
    for suffix in (".parquet", ".jsonl", ".csv"):
        out = tmp_path / f"all{suffix}"
        done = bulk.run(predictor(), shelf, out, workers=2, chunk=8, told=told.append)
        assert (done.images, done.errors, done.bytes) == (30, 1, out.stat().st_size)
    assert (
        told[0]
        == f"{shelf}: 30 images; left out: 1 files that are no images (1 .txt), 1 hidden or system files and folders"
    )
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.schema.names == ["path", "label", "score", "error"]
    assert [str(each) for each in table.schema.types] == ["string", "string", "float", "string"]
    of_lines = lines(tmp_path / "all.jsonl")
    assert table.to_pylist() == of_lines
    found = [(row["path"], row["label"], row["score"], row["error"] is not None) for row in of_lines]
    assert [row[:2] + row[3:] for row in found] == [row[:2] + row[3:] for row in wanted]
    for (*_, score, _), (*_, expected, is_broken) in zip(found, wanted, strict=True):
        assert score is None if is_broken else score == pytest.approx(expected, abs=1e-6)
    with (tmp_path / "all.csv").open(newline="") as file:
        of_csv = list(csv.DictReader(file))
    assert [row["label"] or None for row in of_csv] == [row[1] for row in wanted]
    assert "truncated" in next(row["error"] for row in of_csv if row["error"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"all{suffix}{more}" for suffix in (".parquet", ".jsonl", ".csv") for more in ("", ".job.json")
    )


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_masks_and_boxes_in_every_format(task, shelf, tmp_path, in_this_process):
    preprocess = rt.Preprocess((64, 96), "letterbox")
    frames = [rt.images.read(path) for path in in_order(shelf)[:3]]
    made = faults_lab.network(task, preprocess, 0)
    path = faults_lab.bundle(task, made, tmp_path / "bundle", preprocess, preprocess.batch(frames * 3))
    for suffix in (".parquet", ".jsonl", ".csv"):
        bulk.run(rt.Predictor(path, **ASKED), shelf, tmp_path / f"all{suffix}")
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert len(rows) == 30
    others = lines(tmp_path / "all.jsonl")
    with rt.load(path, **ASKED) as model:
        for row, other in zip(rows, others, strict=True):
            if row["error"]:
                assert all(value is None for name, value in row.items() if name not in ("path", "error"))
                continue
            result = model(rt.images.read(row["path"]))
            if task == "segmentation":
                assert row["mask"] == result.png()
                assert other["mask"] == base64.b64encode(result.png()).decode()
            else:
                assert np.array_equal(np.reshape(row["box"], (-1, 4)), result.xyxy)
                assert row["label"] == other["label"] == [result.labels[kind] for kind in result.class_id]
                assert row["score"] == other["score"] == result.confidence.tolist()
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 31


RUN = """
import sys
import edgecv_runtime as rt
from edgecv_runtime import bulk

bundle, images, out, hangs_s = sys.argv[1:]
predictor = rt.Predictor(bundle, backend="onnxruntime", precision="float32", threads=1)
done = bulk.run(predictor, images, out, workers=2, chunk=3, hangs_s=float(hangs_s),
                progress=lambda each: print(each.done, flush=True), told=lambda _: None)
print("done", done.images, done.errors, flush=True)
"""


def started(shelf, out, hangs_s=60, **how):
    command = [sys.executable, "-c", RUN, *map(str, (BUNDLE, shelf, out, hangs_s))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def test_killed_at_random_moments_it_goes_on_without_a_duplicate_or_a_gap(tmp_path):
    shelf = photos(tmp_path / "photos", 60)
    wanted = tmp_path / "wanted.jsonl"
    bulk.run(predictor(), shelf, wanted, workers=1, chunk=50)
    rng = random.Random(os.environ.get("EDGECV_SEED", str(time.time_ns())))
    out = tmp_path / "out.jsonl"
    before, kills = 0, 0
    for _ in range(4):
        process = started(shelf, out, env=environment())
        for line in process.stdout:
            if line.startswith("done"):
                break
            assert int(line) > before  # nothing is computed twice
            before = int(line)
            if rng.random() < 0.25:
                time.sleep(rng.random() * 0.01)
                break
        ours = children(process.pid)
        process.send_signal(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        process.wait(SOON_S)
        kills += process.returncode != 0
        end_s = time.monotonic() + SOON_S
        while any(map(is_alive, ours)) and time.monotonic() < end_s:
            time.sleep(0.01)
        assert not any(map(is_alive, ours))
        if out.exists():
            break
    last = started(shelf, out, env=environment())
    said, complaint = last.communicate(timeout=SOON_S)
    assert said.endswith("done 60 1\n"), complaint
    assert kills >= 1
    assert out.read_bytes() == wanted.read_bytes()
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_ended_at_any_change_of_a_file_it_goes_on(tmp_path, in_this_process):
    """The kernel's view: a process that ends at its n-th rename, removal or new file, for every n."""
    shelf = photos(tmp_path / "photos", 7)
    with predictor() as made:
        bulk.run(made, shelf, tmp_path / "wanted.jsonl", chunk=4)
        wanted = (tmp_path / "wanted.jsonl").read_bytes()
        ended = 0
        for number in range(1, 200):
            out = tmp_path / str(number) / "out.jsonl"
            out.parent.mkdir()
            process = os.fork()
            if process == 0:
                try:
                    _end_at(number, str(out.parent))
                    bulk.run(made, shelf, out, chunk=4)
                    os._exit(0)
                finally:
                    os._exit(1)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if code == 0:
                break
            assert code == ENDED
            ended += 1
            bulk.run(made, shelf, out, chunk=4)
            assert out.read_bytes() == wanted, number
            assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.job.json"], number
    assert ended > 20


def _end_at(number, folder):
    """End this process, without a word, before its n-th change of a file below a folder."""
    left = [number]
    kinds = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

    def watch(event, arguments):
        changes = event in kinds or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(arguments[0]).startswith(folder):
            left[0] -= 1
            if not left[0]:
                os._exit(ENDED)

    sys.addaudithook(watch)


FAULTS = """
import os, signal, time
import edgecv_runtime.images as images

true = images.decode

def decode(data, *more, **named):
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in data:
        time.sleep(600)
    if b"BUG" in data:
        raise RuntimeError("of a backend of somebody")
    if b"ONCE" in data and not os.path.exists("once"):
        open("once", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return true(data, *more, **named)

images.decode = decode
"""


def test_a_picture_that_crashes_or_hangs_the_decoder_is_a_row_with_an_error(tmp_path):
    shelf = photos(tmp_path / "photos", 12, broken=())
    names = in_order(shelf)
    for number, mark in ((2, b"CRASH"), (6, b"HANG"), (8, b"BUG"), (10, b"ONCE")):
        names[number].write_bytes(names[number].read_bytes() + mark)
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    process = started(shelf, tmp_path / "out.jsonl", 0.7, env=environment(tmp_path / "faults"), cwd=tmp_path)
    said, complaint = process.communicate(timeout=3 * SOON_S)
    assert said.endswith("done 12 3\n"), complaint
    rows = lines(tmp_path / "out.jsonl")
    assert [row["path"] for row in rows] == [str(name) for name in names]
    assert {number: row["error"].partition(": ")[2] for number, row in enumerate(rows) if row["error"]} == {
        2: "the process that computed it ended by SIGSEGV",
        6: "it took more than 0.7 s",
        8: "RuntimeError: of a backend of somebody",
    }
    assert (tmp_path / "once").exists()  # one that ended a process once is computed all the same
    with rt.load(BUNDLE, **ASKED) as model:
        assert all(row["error"] or row["label"] == model(rt.images.read(row["path"])).label for row in rows)


def test_a_process_that_cannot_load_ends_the_job_with_its_reason(shelf, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'bulk.child' in ''.join(sys.orig_argv): sys.exit('no licence')"
    )
    process = started(shelf, tmp_path / "out.jsonl", env=environment(tmp_path))
    _, complaint = process.communicate(timeout=SOON_S)
    assert re.search(
        f"ComputationError: {BUNDLE}: a process for it ends or hangs: .* ended with code 1: .*no licence$", complaint
    )


def test_inputs_are_a_pattern_a_list_a_picture_or_a_url(shelf, tmp_path, monkeypatch, in_this_process):
    names = [str(path) for path in in_order(shelf)]

    def paths(images):
        bulk.run(predictor(), images, tmp_path / "out.jsonl", overwrite=True)
        return [row["path"] for row in lines(tmp_path / "out.jsonl")]

    assert paths(f"{shelf}/**/a*.png") == [name for name in names if "/a" in name[len(str(shelf)) :]]
    twice = tmp_path / "b" / "b"  # which two "**" find in two ways
    twice.mkdir(parents=True)
    (twice / "x.png").write_bytes(png(1))
    (twice / "loop").symlink_to("..")
    assert paths(f"{tmp_path}/**/b/**/x.png") == [str(twice / "x.png")]
    assert paths(f"{twice}/loop/*/x.png") == [str(twice / "loop" / "b" / "x.png")]  # as it was typed
    assert paths(f"{shelf}/*") == sorted(name for name in names if "/b/" not in name)
    assert paths(names[3]) == [names[3]]
    listed = [names[4], f"{shelf}/nowhere.png", names[4], f"zip://b/x.png::file://{tmp_path}/a.zip"]
    (tmp_path / "list.txt").write_bytes("\r\n".join([*listed, ""]).encode("utf-8-sig"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for name in ("b/x.png", "a.png", "b/.x.png", "notes.txt"):
            made.writestr(name, png(1))
    assert paths(tmp_path / "list.txt") == listed
    assert [row["error"] is None for row in lines(tmp_path / "out.jsonl")] == [True, False, True, True]
    archive = f"::file://{tmp_path}/a.zip"
    assert paths(f"zip://{archive}") == [f"zip://a.png{archive}", f"zip://b/x.png{archive}"]
    assert paths(f"zip://b/*.png{archive}") == [f"zip://b/x.png{archive}"]
    assert paths(f"file://{shelf}") == [f"file://{name}" for name in sorted(names)]
    assert {row["error"] is None for row in lines(tmp_path / "out.jsonl")} == {True, False}


def test_a_name_that_is_no_utf_8_has_a_row_in_every_format(tmp_path, in_this_process):
    (tmp_path / "photos").mkdir()
    for name in (b"\xe9.png", b"broken \xe9.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos/" + name)).write_bytes(png(1) if name[0] > 127 else b"GIF")
    for suffix in (".parquet", ".jsonl", ".csv"):
        done = bulk.run(predictor(), tmp_path / "photos", tmp_path / f"out{suffix}")
        assert (done.images, done.errors) == (2, 1)
        assert bulk.run(predictor(), tmp_path / "photos", tmp_path / f"out{suffix}") == done
    assert [row["path"] for row in lines(tmp_path / "out.jsonl")] == [
        f"{tmp_path}/photos/broken \\xe9.png",
        f"{tmp_path}/photos/\\xe9.png",
    ]


def test_what_is_no_picture_is_counted_and_a_list_of_names_takes_no_memory(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to("nowhere")
    (tmp_path / "photos" / "b").symlink_to("..")
    (tmp_path / "photos" / "c.png").symlink_to("c.png")
    found = inputs.Inputs(str(tmp_path / "photos"))
    assert list(found) == []
    assert found.left_out() == "3 pipes, sockets, devices, links to folders or to nothing"
    names = tmp_path / "names.txt"
    names.write_text("".join(f"nowhere/{'x' * 100}/{number}.png\n" for number in range(20_000)))
    tracemalloc.start()
    try:
        with (tmp_path / "frozen").open("wb") as file:
            assert inputs.freeze(inputs.Inputs(str(names)), file).images == 20_000
        sizes = [len(chunk.names) for chunk in inputs.chunks(tmp_path / "frozen", 256)]
        assert (len(sizes), sum(sizes)) == (79, 20_000)
        assert tracemalloc.get_traced_memory()[1] < 500_000 < names.stat().st_size
    finally:
        tracemalloc.stop()


def half(shelf, out, monkeypatch):
    """A job that was ended after its first part."""

    def first(*given):
        yield next(here(*given))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "computed", first)
        with pytest.raises(KeyboardInterrupt):
            bulk.run(predictor(), shelf, out, chunk=8)


def other_bundle(folder):
    with rt.Bundle(BUNDLE) as opened:
        manifest = tables.msgspec.structs.replace(
            opened.manifest, preprocess=rt.Preprocess(size=(32, 32), mode="stretch", interpolation="area")
        )
        content = {name: opened.file(name).read_bytes() for name in opened.manifest.files}
        bundles.write(folder / "other", manifest, content)
    return folder / "other"


@pytest.mark.parametrize("is_complete", [False, True])
def test_parts_of_another_job_are_refused_in_one_line(tmp_path, monkeypatch, in_this_process, is_complete):
    shelf, out = photos(tmp_path / "photos"), tmp_path / "out.jsonl"
    half(shelf, out, monkeypatch)
    if is_complete:
        bulk.run(predictor(), shelf, out, chunk=8)
    there = {path: path.read_bytes() for path in tmp_path.glob("out*/*.rows")} | {
        out: out.exists() and out.read_bytes()
    }

    def refused(match, made=None, images=shelf, **how):
        with pytest.raises(errors.BadInput, match=match) as raised:
            bulk.run(made or predictor(), images, out, **{"chunk": 8, **how})
        assert "\n" not in str(raised.value)
        assert "run it as it was, name another table, or begin anew" in str(raised.value)

    refused("differs in confidence .None then, 0.5 now.", predictor(confidence=0.5))
    refused("differs in threads .1 then, 2 now.", rt.Predictor(BUNDLE, **{**ASKED, "threads": 2}))
    refused("differs in columns .label, score then, label now.", predictor(columns=("label",)))
    refused("differs in max_pixels", predictor(max_pixels=1000))
    refused("differs in chunk .8 then, 9 now.", chunk=9)
    refused("differs in the bundle .[0-9a-f]{8} then, [0-9a-f]{8} now.", rt.Predictor(other_bundle(tmp_path), **ASKED))
    monkeypatch.setattr(job, "version", lambda _: "99")
    refused("differs in versions .edgecv .* then, edgecv 99 ")
    monkeypatch.undo()
    monkeypatch.setattr(runs, "computed", here)
    kept = in_order(shelf)[4].read_bytes()
    in_order(shelf)[4].unlink()
    (shelf / "zz.png").write_bytes(kept)
    in_order(shelf)[5].touch()
    refused("differs in the images" if is_complete else "differs in the images .1 added, 1 gone, 1 changed.")
    assert there == {path: path.read_bytes() if path.exists() else False for path in there}  # as it was
    assert bulk.run(predictor(), shelf, out, chunk=9, overwrite=True).images == 30
    assert [row["path"] for row in lines(out)] == [str(path) for path in in_order(shelf)]


def test_a_plain_onnx_file_is_a_job_of_its_own_with_its_description(tmp_path, in_this_process):
    shelf = tmp_path / "photos"
    shelf.mkdir()
    for number in range(6):
        (shelf / f"{number}.png").write_bytes(png(number, (8, 8)))
    model = foreign.save(tmp_path / "m.onnx")
    (tmp_path / "m.yaml").write_text(foreign.YAML + "scores: logits\n")
    made = rt.Predictor(model, **ASKED, description=tmp_path / "m.yaml")
    bulk.run(made, shelf, tmp_path / "out.jsonl")
    names = in_order(shelf)
    wanted = [foreign.LABELS[int(foreign.truth(model, rt.images.read(name)).argmax())] for name in names]
    assert [row["label"] for row in lines(tmp_path / "out.jsonl")] == wanted
    record = rt.Predictor(model, **ASKED, description=description.read(tmp_path / "m.yaml"))
    assert job.content(record) == job.content(made)
    (tmp_path / "m.yaml").write_text(foreign.YAML + "scores: sigmoid-logits\n")
    assert job.content(record) != job.content(made)
    with pytest.raises(errors.BadInput, match="differs in the bundle"):
        bulk.run(made, shelf, tmp_path / "out.jsonl")


def test_evidence_that_is_measured_meanwhile_makes_no_other_bundle(shelf, tmp_path, monkeypatch, in_this_process):
    from edgecv_runtime.evidence import Evidence

    with rt.Bundle(BUNDLE) as opened:
        bundles.write(
            tmp_path / "b", opened.manifest, {name: opened.file(name).read_bytes() for name in opened.manifest.files}
        )
    made = rt.Predictor(tmp_path / "b", **ASKED)
    before = job.content(made)
    with rt.Bundle(tmp_path / "b") as opened:
        bundles.update(opened, evidence=Evidence())
    assert job.content(made) == before


def test_what_was_chosen_runs_to_the_end(shelf, tmp_path, monkeypatch, in_this_process):
    """Where backend and precision were open, a run that goes on measures nothing: it takes what the first took."""
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(runs, "computed", lambda *_: iter(()))
        with pytest.raises(errors.ComputationError, match=r"00000000\.rows: missing or damaged; remove it"):
            bulk.run(rt.Predictor(BUNDLE), shelf, out)
    recorded = json.loads((tmp_path / "out.jsonl.job.json").read_text())
    assert recorded["options"]["backend"] == "auto"
    other = {"onnxruntime": "openvino", "openvino": "onnxruntime"}[recorded["choice"]["backend"]]
    seen = []

    def asked(predictor, *more):
        seen.append((predictor.options["backend"], predictor.options["precision"], predictor.model.info.backend))
        return here(predictor, *more)

    versions = job.Choice.of(other, "float32").versions
    recorded["choice"] = {"backend": other, "precision": "float32", "versions": versions}
    (tmp_path / "out.jsonl.job.json").write_text(json.dumps(recorded))
    monkeypatch.setattr(runs, "computed", asked)
    bulk.run(rt.Predictor(BUNDLE), shelf, out)
    assert seen == [(other, "float32", other)]


def test_a_bundle_that_is_exchanged_while_a_job_runs_ends_it(shelf, tmp_path, monkeypatch):
    def exchanged(made, bundle, *more):
        return here(made, "0" * 64, *more)

    monkeypatch.setattr(runs, "computed", exchanged)
    with pytest.raises(errors.BundleError, match="was exchanged while the job ran"):
        bulk.run(predictor(), shelf, tmp_path / "out.jsonl")


def test_what_cannot_be_done_is_told_before_anything_is_written(shelf, tmp_path, monkeypatch, in_this_process):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"a\0b\n")
    (tmp_path / "is.jsonl").write_text("mine")
    out = tmp_path / "out.jsonl"
    for match, made, images, table in (
        (r"a table ends in \.parquet, \.jsonl, \.csv", predictor(), shelf, tmp_path / "out.txt"),
        ("no images in it", predictor(), tmp_path / "empty", out),
        ("no such file or folder; expected", predictor(), tmp_path / "nowhere", out),
        ("line 1 is no path", predictor(), tmp_path / "binary.txt", out),
        ("is there, and nothing tells how it was made", predictor(), shelf, tmp_path / "is.jsonl"),
        ("has no column 'lable'; did you mean 'label'", predictor(columns=("lable",)), shelf, out),
        ("nowhere", rt.Predictor(tmp_path / "nowhere"), shelf, out),
        ("cannot be opened", predictor(), "nothing://a", out),
        ("is a folder; name a file", predictor(), shelf, tmp_path / "empty"),
    ):
        if table.is_dir():
            table = table.rename(tmp_path / "empty.jsonl")
        with pytest.raises(errors.BadInput, match=match):
            bulk.run(made, images, table)
    with pytest.raises(errors.BadInput, match="workers must be at least 0"):
        bulk.run(predictor(), shelf, out, workers=-1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.Unavailable, match=r"Parquet is written by pyarrow .*\[bulk\]"):
        bulk.run(predictor(), shelf, tmp_path / "out.parquet")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.Unavailable, match=r"--ray wants Ray: .*\[ray\]"):
        bulk.run(predictor(), shelf, out, ray="auto")
    assert (tmp_path / "is.jsonl").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary.txt", "empty.jsonl", "is.jsonl"]


def test_of_two_jobs_with_one_table_the_second_is_refused_and_a_changed_table_is_noticed(
    shelf, tmp_path, monkeypatch, in_this_process
):
    out = tmp_path / "out.jsonl"
    with ledger.Ledger(out), pytest.raises(errors.Unavailable, match="another process writes it now"):
        bulk.run(predictor(), shelf, out)
    (tmp_path / "out.jsonl.parts").mkdir()
    (tmp_path / "out.jsonl.parts" / "mine.txt").write_text("of another program")
    done = bulk.run(predictor(), shelf, out)
    assert (tmp_path / "out.jsonl.parts" / "mine.txt").exists()
    assert bulk.run(predictor(), shelf, out) == done
    kept = out.read_bytes()
    out.write_bytes(kept + b"{}\n")
    with pytest.raises(errors.BadInput, match="was changed since it was made"):
        bulk.run(predictor(), shelf, out)
    out.unlink()
    assert bulk.run(predictor(), shelf, out) == done
    assert out.read_bytes() == kept


def test_the_command_counts_errors_and_says_where_the_table_is(shelf, tmp_path, monkeypatch):
    monkeypatch.chdir(shelf.parent)
    given = ["bulk", str(BUNDLE), shelf.name, "--out", str(tmp_path / "out.csv"), "--backend", "onnxruntime"]
    given += ["--columns", "label, scores", "--workers", "1", "--max-megapixels", "1"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 4, done.output
    assert done.stdout == f"{tmp_path}/out.csv: 30 images, 1 of them with an error\n"
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "scores", "error"]
    assert len(json.loads(rows[0]["scores"])) == 10
    again = CliRunner().invoke(app, [*given, "--json"])
    assert again.exit_code == 4
    assert {name: json.loads(again.stdout)[name] for name in ("images", "errors")} == {"images": 30, "errors": 1}
    other = CliRunner().invoke(app, [*given, "--confidence", "0.5"])
    assert other.exit_code == 2
    assert other.stderr.count("\n") == 2
