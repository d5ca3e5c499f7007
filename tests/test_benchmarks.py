"""What `make gpu` and `make bench` do without a thing to measure; studies are listed, pages are what figures make."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import again, pages, study
from benchmarks import plots as general
from benchmarks.gpu import run as gpu_study
from benchmarks.zoo import figures, plots
from edgecv import models
from edgecv_runtime import Bundle
from edgecv_runtime.errors import BackendUnavailable

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def test_without_a_gpu_the_script_says_what_is_missing_and_exits_with_3():
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu/run.py"], cwd=ROOT, env=hidden, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    driver, torch = done.stderr.splitlines()
    assert driver.startswith("gpu: backend 'tensorrt' needs an NVIDIA GPU")
    assert re.match(r"gpu: PyTorch \S+, built for .*, reaches no GPU: install torch with CUDA", torch)
    assert done.stdout == ""


def test_a_part_that_fails_is_a_row_and_the_others_go_on(finished):
    rows = []
    with Bundle(finished) as bundle:
        gpu_study.tell(rows, "variant", lambda: gpu_study.variants(bundle))
        gpu_study.tell(rows, "CUDA graphs", lambda: gpu_study.graphs(bundle))
        gpu_study.tell(rows, "onnxruntime on cuda", lambda: gpu_study.cuda_provider(bundle))
    variants = {which: said for what, which, said in rows if what == "variant"}
    assert variants["float32 on onnxruntime"].startswith("runs in float32, agrees with ")
    assert "p50" in variants["int8-u8s8 on openvino"]
    graphs, provider = rows[-2:]
    try:
        gpu_study.TensorRtBackend.probe()
    except BackendUnavailable as exc:
        assert graphs[2].startswith(f"FAILED: {' '.join(str(exc).split())[:100]}")
    assert provider[2].startswith(("not run: onnxruntime ", "outputs off by"))


def test_every_study_of_the_list_is_there_and_make_names_them():
    listed = re.findall(r"^\| `(\S+)` \|", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert len(listed) > 20
    assert {path.parent.name for path in BENCHMARKS.glob("*/run.py")} == set(listed)
    command = ["make", "--no-print-directory", "-o", ".venv/dev"]
    done = subprocess.run([*command, "bench"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert set(listed) <= set(done.stderr.split())
    dry = subprocess.run([*command, "-n", "bench", "STUDY=overhead"], cwd=ROOT, capture_output=True, text=True)
    assert "python benchmarks/overhead/run.py" in dry.stdout


def test_every_study_says_what_it_does_not_show_and_every_page_when_and_where():
    rows = re.findall(r"^\| `(\S+)` \|(.*)\|(.*)\|$", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert all(len(asks.strip()) > 20 and len(not_shown.strip()) > 10 for _, asks, not_shown in rows)
    assert len(rows) == len([*BENCHMARKS.glob("*/run.py")])
    for path in BENCHMARKS.glob("*/results.md"):
        assert re.search(r"^Measured \d{4}-\d\d-\d\d", path.read_text(), re.MULTILINE), path
        assert re.search(r"\d cores|x86_64|aarch64", path.read_text()), path


def test_the_page_in_the_docs_shows_every_recorded_study():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    recorded = {path.parent.name for path in BENCHMARKS.glob("*/results.md")}
    assert set(re.findall(r'^--8<-- "benchmarks/(\w+)/results\.md:2"$', page, re.MULTILINE)) == recorded


def test_the_page_in_the_docs_shows_every_picture():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    drawn = {str(path.relative_to(ROOT)) for path in BENCHMARKS.glob("*/*.svg")}
    assert set(re.findall(r'^<div>\n--8<-- "(\S+\.svg)"\n</div>$', page, re.MULTILINE)) == drawn


def test_every_study_but_that_of_a_gpu_has_a_record_a_page_and_a_picture():
    for path in BENCHMARKS.glob("*/run.py"):
        if path.parent.name != "gpu":
            names = {each.name for each in path.parent.iterdir()}
            assert {"results.json", "results.md"} <= names, path.parent.name
            assert any(name.endswith(".svg") for name in names), path.parent.name


@pytest.mark.parametrize("name", again.recorded())
def test_a_recorded_page_and_its_pictures_are_what_the_record_makes(name):
    made = importlib.import_module(f"benchmarks.{name}.run").STUDY
    assert made.text() == (BENCHMARKS / name / "results.md").read_text()
    drawn = made.pictures()
    assert drawn == {path.name: path.read_text() for path in (BENCHMARKS / name).glob("*.svg")}
    for text in drawn.values():
        assert len(text) < 64_000
        assert "\n\n" not in text  # it stands in a page of Markdown
        ids = [each.get("id") for each in ElementTree.fromstring(text).iter() if each.get("id")]
        assert all(each.startswith(name) for each in ids)  # as many stand in one page


@pytest.mark.parametrize("name", again.recorded())
def test_a_page_is_written_again_from_its_lines_and_tables(name):
    """Cells that are blank have two spaces, whatever number they had."""
    lines = (BENCHMARKS / name / "results.md").read_text().splitlines()
    blocks = msgspec.json.decode(msgspec.json.encode(pages.read(lines)), type=list[pages.Block])
    assert pages.write(blocks) == [re.sub(r"\| (?=\|)", "|  ", line) if line[:1] == "|" else line for line in lines]
    assert any(isinstance(block, pages.Table) for block in blocks)
    record = msgspec.json.decode((BENCHMARKS / name / "results.json").read_bytes(), type=study.Record)
    if record.page is not None:
        assert blocks[-len(record.page) :] == record.page


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1.148 (1.000–1.446)", (1.148, 1.0, 1.446)),
        ("AP50-95 59.28 % (55.8–62.6)", (59.28, 55.8, 62.6)),
        ("94.3% (81.4%–98.4%)", (94.3, 81.4, 98.4)),
        ("−0.14 (−3.5 to 3.3)", (-0.14, -3.5, 3.3)),
        ("-0.20 (-0.58 to 0.16)", (-0.2, -0.58, 0.16)),
        ("**8.43 (3.81x)**", (8.43, None, None, 3.81)),
        ("31 of 32", (31, None, None, 32)),
        ("16.8 13.4", (16.8, None, None, 13.4)),
        ("+73% (deeplabv3_mobilenet_v3_large)", (73, None, None)),
        ("~5.08", (5.08, None, None)),
        ("2,500", (2500, None, None)),
        ("0.60", (0.6, None, None)),
        ("1.20e-06", (1.2e-6, None, None)),
    ],
)
def test_a_cell_is_its_numbers_and_writes_them_as_they_were(text, numbers):
    cell = pages.cell(text)
    assert (cell.value, cell.low, cell.high, *cell.more) == numbers
    assert str(cell) == text
    assert pages.number(cell) == numbers[0]


@pytest.mark.parametrize(
    "text", ["", "–", "int8-u8s8", "3x3", "no: slower (3.78 times)", "2026-11-28", "1.32.0", "007"]
)
def test_a_cell_without_a_number_of_its_own_is_its_text(text):
    assert pages.cell(text) == text
    assert pages.number(text) is None


def test_a_bare_number_is_one_and_a_column_of_words_keeps_its_words():
    assert [pages.cell(text) for text in ("62", "0.04", "1e-06")] == [62, 0.04, 1e-6]
    lines = [
        "| way | s |",
        "| --- | ---: |",
        "| loop | 1.5 |",
        "| 1 thread | 2 |",
        "| 2 threads of it | no |",
        "| x | 3 |",
    ]
    (table,) = pages.read([*lines, "| bulk \\| all | 4 |"])
    assert [row[0] for row in table.rows] == ["loop", "1 thread", "2 threads of it", "x", r"bulk \| all"]
    assert [row[1] for row in table.rows] == [1.5, 2, "no", 3, 4]
    assert [(column.name, column.right) for column in table.columns] == [("way", False), ("s", True)]


TABLE = """### first

| way | s, all | s, one |
| --- | ---: | ---: |
| slow `one` | 4 (3–5) | 8 |
| quick | 1 (0.5–2) | – |

### second

| way | s, all | s, one |
| --- | ---: | ---: |
| quick | 2 (1–3) | 1 |"""


@pytest.mark.parametrize("more", [{}, {"bars": True}, {"log": True}, {"linear_to": 1, "line": 1}, {"stacked": True}])
def test_a_picture_names_its_rows_groups_marks_and_unit(more):
    drawn = general.Rows("seconds", {"s, all": "all", "s, one": "one"}, group=general.heading, **more).draw(
        pages.read([TABLE]), "small"
    )
    words = [each.text for each in ElementTree.fromstring(drawn).iter() if each.tag.endswith("}text")]
    assert {"slow one", "quick", "first", "second", "all", "one", "seconds"} <= set(words)
    assert words.count("quick") == 2


def test_bars_are_as_long_as_their_numbers():
    drawn = general.Rows("s", {"s, all": ""}, group=general.heading, bars=True).draw(pages.read([TABLE]), "small")
    paths = [each.get("d") for each in ElementTree.fromstring(drawn).iter() if each.tag.endswith("}path")]
    sides = [[float(x) for x in re.findall(r"[ML] (\S+) ", path)] for path in paths if path and "z" in path]
    lengths = {round(max(side) - min(side), 3) for side in sides[2:]}  # after the figure's and the axes' ground
    assert sorted(length / max(lengths) for length in lengths) == pytest.approx([0.25, 0.5, 1], abs=1e-4)


def test_a_study_without_raw_figures_records_its_page_word_for_word(tmp_path):
    picture = general.Rows("s", {"s, all": ""}, group=general.heading)
    made = study.Study(tmp_path / "run.py", "Of ways", picture=picture, name="results-here")
    made.record(TABLE.splitlines(), "Measured once.")
    assert (tmp_path / "results-here.md").read_text() == made.text() == f"# Of ways\n\nMeasured once.\n\n{TABLE}\n"
    assert {path.name for path in tmp_path.iterdir()} == {f"results-here.{end}" for end in ("json", "md", "svg")}
    assert made.figures() is None


def test_a_study_with_raw_figures_keeps_them_and_says_where_they_are_from(tmp_path):
    made = study.Study(tmp_path / "run.py", "Of runs", lambda found: [f"{sum(found)} ms"], kind=list[float])
    assert made.figures() is None
    made.record([1.5, 2.25])
    assert made.figures() == [1.5, 2.25]
    title, _, where, _, line = (tmp_path / "results.md").read_text().splitlines()
    assert (title, line) == ("# Of runs", "3.75 ms")
    assert where.startswith("Measured 2")
    assert "page" not in msgspec.json.decode((tmp_path / "results.json").read_bytes())


def test_two_rows_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two rows are \('', 'quick'\), '': they would be one mark"):
        general.Rows("s", {"s, all": ""}).draw(pages.read([TABLE]), "small")


def test_a_column_that_no_row_has_is_told():
    with pytest.raises(ValueError, match=r"no row that is drawn has a column \['ms'\]"):
        general.Rows("ms", {"ms": ""}).draw(pages.read([TABLE]), "small")


def test_the_pictures_of_the_zoo_name_every_network_that_has_room():
    """A network that does not run has no point; one alone in its corner always has its name."""
    names = {"mobilenet_v2": 5.0, "resnet18": 20.0, "vgg16": 200.0}
    ways = {
        name: {f"{form} on {backend}": figures.Way("x", (ms,), (1.0,)) for form, backend, _ in figures.FORMS}
        for name, ms in names.items()
    }
    ways["vgg16"]["int8 on openvino"] = figures.Way(why="refused")
    rows = [
        figures.Row(
            name=name,
            family=models.spec(name).family,
            task="classification",
            size=(224, 224),
            parameters=10**6,
            macs=int(ms * 1e8),
            published=60 + ms / 10,
            is_published=False,
            file_mb={"float32": ms, "int8": ms / 4},
            ways=ways[name],
            seconds=1.0,
        )
        for name, ms in names.items()
    ]
    drawn = plots.draw(rows)
    assert set(drawn) == {"accuracy.svg", "size.svg", "macs.svg", "int8.svg"}
    for name, text in drawn.items():
        words = {each.text for each in ElementTree.fromstring(text).iter() if each.tag.endswith("}text")}
        assert set(names) <= words, name
        assert "\n\n" not in text  # it stands in a page of Markdown
