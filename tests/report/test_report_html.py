"""The HTML report: whole, self-contained, harmless, and honest about what is missing."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np
import pytest
from report_lab import FRAMES, LABELS, NAME, PICTURED

from edgecv import report
from edgecv.data import Images
from edgecv.report import mistakes, pictures, verdict
from edgecv.run import verified
from edgecv.run.folder import read
from edgecv_runtime import Bundle, bundle
from edgecv_runtime.bench import table
from edgecv_runtime.errors import BadInput, BundleError
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.classification import ClassificationTask
from tests.html_page import (
    Page,
    check_figures_follow_the_theme,
    check_ids_are_unique_and_references_arrive,
    check_nothing_is_fetched_and_nothing_runs,
    flat,
)

SECTIONS = {
    "Results": "bundle",
    "Latency": "bundle",
    "Quality against speed": "bundle",
    "Ways to quantize": "bundle.quantize.json",
    "Training": "train/curves.csv",
    "Duration of the steps": "state.json",
    "File size": "bundle",
    "What it says of real frames": "bundle",
    "Where int8 and float32 disagree": "verify.npz",
    "How often each class is right": "verify.npz",
    "The errors that it is most sure of": "verify.npz",
    "Training batches as the network saw them": "train/batch-1.png",
    "Which classes are mistaken for which": "verify.npz",
}
BESIDE = ("train/batch-1.png", "bundle.quantize.json", "train/curves.csv", "state.json", "verify.npz", "recipe.yaml")


def of(arrays: Any, *target: str) -> Any:
    """What a target said: variant, backend, precision hint."""
    (name,) = (name for name in arrays if name.startswith("/".join(("outputs", *target, ""))))
    return arrays[name]


def page_of(*runs: Path, clip: Path | None = None) -> Page:
    path = report.write(runs, runs[0].parent / "report.html", clip=clip)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return page_of(made)


def test_every_section_is_there(page: Page) -> None:
    assert set(SECTIONS) <= set(page.headings)
    assert page.headings[0] == NAME
    assert "Not in this part" not in flat(page)
    assert page.tags.count("svg") == 6


def test_nothing_is_fetched_and_nothing_runs(page: Page, made: Path) -> None:
    check_nothing_is_fetched_and_nothing_runs(page, (made.parent / "report.html").read_text(encoding="utf-8"))


def test_ids_are_unique_and_references_arrive(page: Page) -> None:
    check_ids_are_unique_and_references_arrive(page)


def test_hostile_text_is_shown_not_obeyed(page: Page) -> None:
    told = flat(page)
    for text in (NAME, LABELS[0], "<i>tiny</i>", "export <script>alert(2)</script>", "</pre><script>alert(3)</script>"):
        assert text in told, text
    assert "i" in page.tags  # the report's own markup is there
    assert "b" in page.tags


def test_figures_follow_the_theme(page: Page) -> None:
    check_figures_follow_the_theme(page)


def test_the_table_has_every_row(made: Path, page: Page) -> None:
    told = flat(page)
    for row in read(made).rows:
        assert row.latency is not None
        assert table.number(row.latency.p99_ms) in told
        assert row.offered or row.why_not in told


def test_the_verdict_names_the_fastest_and_what_is_withheld(made: Path, page: Page) -> None:
    run = read(made)
    best, told = table.fastest(run.rows), verdict.of(run)
    assert best is not None
    assert best.target in told.headline
    assert told.headline in flat(page)
    targets = [row.target for row in run.rows if row.hint == "float32" or row.offered]  # bf16 where it is worth it
    assert sorted([*told.offered, *(target for target, _ in told.withheld)]) == sorted(targets)


def test_the_verdict_without_evidence_promises_nothing(made: Path) -> None:
    run = read(made)
    bare = [
        msgspec.structs.replace(row, offered=False, why_not="x", score=None, agreement=None, latency=None)
        for row in run.rows
    ]
    told = verdict.of(dataclasses.replace(run, rows=bare))
    assert "Nothing is offered" in told.headline
    assert not told.offered
    assert all("file of" in fact for fact in told.facts)


def test_disagreements_are_those_of_the_arrays(run_folder: Path) -> None:
    with np.load(run_folder / "verify.npz") as arrays:
        changed = dict(arrays)
    for name in changed:
        if name.startswith("outputs/int8"):
            changed[name] = changed[name].copy()
            changed[name][[1, 4, PICTURED, FRAMES - 1]] *= -1  # says the least likely of what it said: on four frames
    np.savez(run_folder / "verify.npz", **changed)
    page, run = page_of(run_folder), read(run_folder)
    shown = pictures.gallery(run)
    assert shown is not None
    with np.load(run_folder / "verify.npz") as arrays:
        variant, backend = shown.int8.split(" on ")
        int8 = of(arrays, variant, backend, "float32").argmax(1)
        float32 = of(arrays, "float32", backend, "float32").argmax(1)
    differ = np.flatnonzero(int8 != float32)
    assert shown.disagreeing == len(differ) >= 3
    assert shown.compared == FRAMES
    assert len(shown.disagreements) == min(pictures.SHOWN, int((differ < PICTURED).sum()))
    for one in shown.disagreements:
        said = {each.source: each.label for each in one.sayings}
        assert said["int8"] != said["float32"]
    assert f"On {len(differ)} of {FRAMES} frames" in flat(page)


def test_pictures_have_the_right_colours_and_labels(made: Path) -> None:
    run = read(made)
    shown = pictures.gallery(run)
    assert shown is not None
    assert run.frames is not None
    assert run.frames.labels is not None
    originals = {image.tobytes(): index for index, image in enumerate(run.frames.images)}
    for one in shown.sample:
        data = base64.b64decode(one.uri.removeprefix("data:image/png;base64,"))
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        index = originals[np.ascontiguousarray(decoded[:, :, ::-1]).tobytes()]
        said = {each.source: each for each in one.sayings}
        assert said["true"].label == LABELS[run.frames.labels[index]]
        assert said["PyTorch"].label == LABELS[run.frames.reference[index].argmax()]
        assert said["PyTorch"].wrong == (index % 5 == 0)


def test_confusion_matrix_counts_by_hand(made: Path) -> None:
    run = read(made)
    found = pictures.confusion(run)
    best = table.fastest(run.rows)
    assert found is not None
    assert best is not None
    with np.load(made / "verify.npz") as arrays:
        said = of(arrays, best.variant, best.backend, best.hint).argmax(1)
        truth = arrays["labels"]
    wanted = [[0] * len(LABELS) for _ in LABELS]
    for one, other in zip(truth, said, strict=True):
        wanted[one][other] += 1
    assert found.counts == wanted


def test_classes_and_surest_errors_are_those_of_the_arrays(made: Path) -> None:
    run = read(made)
    found = mistakes.of(run)
    best = table.fastest(run.rows)
    assert found is not None
    assert best is not None
    with np.load(made / "verify.npz") as arrays:
        logits, truth = of(arrays, best.variant, best.backend, best.hint).astype(float), arrays["labels"]
        names = [str(each) for each in arrays["names"]]
    said = logits.argmax(1)
    for row in found.classes:
        label = LABELS.index(row.label)
        theirs = [int(one) for one, other in zip(said, truth, strict=True) if other == label]
        assert (row.share.value, row.share.count) == (theirs.count(label) / len(theirs), len(theirs))
        wrong = [LABELS[each] for each in theirs if each != label]
        assert (row.taken_for in wrong) if wrong else not row.taken_for
    assert [row.share.value for row in found.classes] == sorted(row.share.value for row in found.classes)
    assert found.error_count == int((said != truth).sum()) >= 10
    score = np.exp(logits).max(1) / np.exp(logits).sum(1)
    surest = sorted(np.flatnonzero((said != truth)[:PICTURED]), key=lambda index: -score[index])
    assert [one.name for one in found.errors] == [names[index] for index in surest[: pictures.SHOWN]]


def test_one_logit_of_two_classes_is_read_as_its_task_reads_it(made: Path) -> None:
    """`argmax` over its one column called every frame the first class, and its softmax was 1 for each."""
    run = read(made)
    labels = np.array([0, 1, 1, 0])
    logits = np.array([[-2.0], [3.0], [-1.0], [4.0]], np.float32)  # right, right, wrong, wrong and surer
    frames = verified.Frames(np.zeros((4, 8, 8, 3), np.uint8), logits, labels, {}, ("a", "b", "c", "d"), "test")
    head = ClassificationHead(("no", "yes"), "sigmoid-logits")
    outputs = (TensorSpec("logits", "float32", ("N", 1)),)
    run = dataclasses.replace(
        run, manifest=msgspec.structs.replace(run.manifest, head=head, outputs=outputs), frames=frames
    )
    found = mistakes.of(run)
    assert found is not None
    assert {row.label: (row.share.value, row.taken_for) for row in found.classes} == {
        "no": (0.5, "yes"),
        "yes": (0.5, "no"),
    }
    assert [one.name for one in found.errors] == ["d", "c"]
    assert found.errors[0].sayings[-1].score == pytest.approx(1 / (1 + np.exp(-4)))
    confused = pictures.confusion(run)
    assert confused is not None
    assert confused.counts == [[1, 1], [1, 1]]


def test_whether_the_score_is_of_images_that_chose_the_epoch_is_said(made: Path) -> None:
    run = read(made)
    assert run.frames is not None
    for division, said in (("test", "test images, which chose nothing"), ("validation", "which also chose the epoch")):
        asked = dataclasses.replace(run, frames=dataclasses.replace(run.frames, division=division))
        assert any(f"Scored on {FRAMES} {said}" in fact or said in fact for fact in verdict.of(asked).facts)
    assert not any("Scored on" in fact for fact in verdict.of(run).facts)  # an older file does not say


def test_speed_and_offer_are_the_first_columns_after_the_file(page: Page, made: Path) -> None:
    headings = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', (made.parent / "report.html").read_text())
    assert headings[:4] == ["variant", "backend", "p50 ms", "offered"]


def test_times_of_unsteady_rounds_are_marked_beside_them_and_below(run_folder: Path) -> None:
    with Bundle(run_folder / "bundle") as opened:
        evidence = opened.evidence()
        first, *rest = evidence.entries
        assert first.latency is not None
        shaken = msgspec.structs.replace(first, latency=msgspec.structs.replace(first.latency, apart=1.62))
        bundle.update(opened, evidence=msgspec.structs.replace(evidence, entries=(shaken, *rest)))
    text = flat(page_of(run_folder))
    assert "unsteady (1.6x)" in text
    assert "the machine's speed changed while it was timed" in text


def test_pictures_of_the_surest_errors_are_kept_however_many_frames_there_are() -> None:
    """1,000 frames of two classes, the last of them wrong with growing certainty: those are among the 300 pictures."""
    count, wrong = 1000, 40
    labels = np.zeros(count, np.int64)
    logits = np.tile(np.array([[2.0, 0.0]], np.float32), (count, 1))
    logits[-wrong:] = [[0.0, 1 + index / 10] for index in range(wrong)]
    frames = np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 2, 1)
    names = tuple(f"{index}.jpg" for index in range(count))
    images = Images(names, names, frames.__getitem__, labels)
    task = ClassificationTask(ClassificationHead(("a", "b")), (TensorSpec("logits", "float32", ("N", 2)),))
    cut = verified.pack(task, [], frames, {"logits": logits[:7]}, images, "test")  # of so many outputs are kept
    with np.load(io.BytesIO(cut)) as arrays:
        assert len(arrays["reference"]) == len(arrays["names"]) == len(arrays["labels"]) == 7
    with np.load(io.BytesIO(verified.pack(task, [], frames, {"logits": logits}, images, "test"))) as arrays:
        kept = [int(each.tobytes()[0]) + 256 * int(each.tobytes()[1]) for each in arrays["images"]]
        assert [f"{index}.jpg" for index in kept] == list(arrays["names"][: verified.PICTURES])
        assert sorted(arrays["names"]) == sorted(names)
    assert kept[: verified.PICTURES - verified.ERRORS] == list(range(verified.PICTURES - verified.ERRORS))
    assert kept[-verified.ERRORS :] == list(range(count - 1, count - 1 - verified.ERRORS, -1))


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_absent_is_left_out_and_said(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    page = page_of(run_folder)
    gone = {section for section, source in SECTIONS.items() if source == name}
    assert set(SECTIONS) - set(page.headings) == gone
    told = flat(page)
    assert f"no {name}" in told[told.index("Not in this part") :]


def test_nothing_is_shown_of_a_file_that_was_replaced(run_folder: Path) -> None:
    """`edgecv quantize` makes another file of the same name; what the one before said is not its."""
    assert "Where int8 and float32 disagree" in page_of(run_folder).headings
    with Bundle(run_folder / "bundle") as opened:
        bundle.update(opened, content={"model.int8-u8s8.onnx": opened.file("model.onnx")})
    page = page_of(run_folder)
    assert "Where int8 and float32 disagree" not in page.headings
    assert "What it says of real frames" in page.headings
    assert "What int8-u8s8 says of the frames: verify.npz is not of the bundle's file." in flat(page)


def test_unlabelled_frames_give_agreement_in_the_place_of_accuracy(run_folder: Path) -> None:
    with np.load(run_folder / "verify.npz") as arrays:
        kept = {name: arrays[name] for name in arrays if name != "labels"}
    np.savez(run_folder / "verify.npz", **kept)
    page = page_of(run_folder)
    assert "Which classes are mistaken for which" not in page.headings
    assert "the frames have no labels" in flat(page)
    shown = pictures.gallery(read(run_folder))
    assert shown is not None
    assert {each.source for one in shown.sample for each in one.sayings} == {"PyTorch", "int8"}


def test_a_bundle_alone_is_enough(run_folder: Path) -> None:
    for name in BESIDE:
        (run_folder / name).unlink()
    page = page_of(run_folder)
    assert {"Results", "Latency", "What it says of real frames"} <= set(page.headings)
    assert "true" not in page.text


def _json(path: Path) -> None:
    path.write_text('{"float_ms": {}, "candidate": []}')


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _fewer_classes(path: Path) -> None:
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **(kept | {"reference": kept["reference"][:, :5]}))


def _label_beyond(path: Path) -> None:
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **(kept | {"labels": kept["labels"] + len(LABELS)}))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("bundle.quantize.json", _json),
        ("verify.npz", _truncated),
        ("verify.npz", _fewer_classes),
        ("verify.npz", _label_beyond),
    ],
)
def test_what_is_broken_is_named(run_folder: Path, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(run_folder / name)
    with pytest.raises(BadInput, match=re.escape(name)):
        report.write([run_folder], run_folder / "report.html")
    assert not (run_folder / "report.html").exists()


def test_no_bundle_and_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        report.write([tmp_path], tmp_path / "report.html")
    with pytest.raises(BadInput, match="at least one run"):
        report.write([], tmp_path / "report.html")


def test_several_runs_share_one_table(made: Path, run_folder: Path) -> None:
    page = page_of(run_folder, made)
    assert page.headings.count("Results") == 1
    assert page.headings.count("Latency") == 2
    assert page.tags.count("svg") == 12
    rows = sum(tag == "td" and value == "offered" for tag, _, value in page.attributes)
    assert rows == 2 * len(read(made).rows)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)


def test_a_clip_is_shown_from_begin_to_end(made: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip <1>.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 800, 400, "yuv420p"
        for level in range(40):
            frame = np.full((400, 800, 3), 5 * level, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    page = page_of(made, clip=clip)
    assert str(clip) in flat(page)
    uris = pictures.clip_frames(clip)
    assert len(uris) == pictures.CLIP_FRAMES
    levels = []
    for uri in uris:
        data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (320, 640, 3)
        levels.append(float(image.mean()) / 5)
    for level, wanted in zip(levels, [5, 15, 25, 35], strict=True):
        assert level == pytest.approx(wanted, abs=2)
    assert all(later > earlier for earlier, later in itertools.pairwise(levels))


def test_a_clip_that_cannot_be_read_is_said(made: Path, tmp_path: Path) -> None:
    clip = tmp_path / "broken.mp4"
    clip.write_text("<html>not found</html>")
    told = flat(page_of(made, clip=clip))
    assert "broken.mp4: cannot be read as a video" in told


def test_what_was_drawn_by_another_version_is_refused_with_the_cure(tmp_path, finished):
    from edgecv.run import drawn

    (tmp_path / drawn.FILE).write_text('{"metric": "mIoU"}')
    with Bundle(finished) as opened, pytest.raises(BadInput, match="not what 'edgecv build' writes: run it again"):
        drawn.read(tmp_path / drawn.FILE, opened.manifest)
