"""The results table says what the evidence says, in JSON, Markdown and on a terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from report_lab import NAME
from rich.console import Console

from edgecv.report.console import print_table
from edgecv_runtime import machine, records
from edgecv_runtime.bench import table
from edgecv_runtime.bench.table import Row
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.evidence import Evidence
from edgecv_runtime.offers import offered


@pytest.fixture
def opened(made: Path) -> Bundle:
    return Bundle(made / "bundle")


@pytest.fixture
def rows(opened: Bundle) -> list[Row]:
    return table.rows(opened)


def test_rows_repeat_the_evidence(opened: Bundle, rows: list[Row]) -> None:
    raw = json.loads(opened.file("evidence.json").read_bytes())["entries"]
    told = json.loads(records.encode(rows))
    assert len(raw) == len(told) >= 4
    for row in told:
        (entry,) = [
            each
            for each in raw
            if (each["variant"], each["backend"], each["hint"]) == (row["variant"], row["backend"], row["hint"])
        ]
        for field in ("executed", "layers", "versions", "score", "agreement", "latency", "sha256"):
            assert row[field] == entry[field], field
        assert row["machine"].startswith(entry["machine"]["cpu"])
        size = opened.file("model.onnx" if row["variant"] == "float32" else "model.int8-u8s8.onnx").stat().st_size
        assert row["file_mb"] == pytest.approx(size / 1e6)


def test_rows_come_in_the_order_of_the_variants_float32_first(opened: Bundle, rows: list[Row]) -> None:
    names = [variant.name for variant in opened.manifest.variants]
    assert [names.index(row.variant) for row in rows] == sorted(names.index(row.variant) for row in rows)
    hints = [(row.backend, row.hint) for row in rows if row.variant == "float32"]
    for backend in {backend for backend, _ in hints}:
        assert next(hint for each, hint in hints if each == backend) == "float32"


def test_offered_is_what_follows_from_the_evidence(opened: Bundle, rows: list[Row]) -> None:
    offers = offered(opened.manifest, opened.evidence(), machine.this())
    for row in rows:
        if row.hint != "float32":
            assert row.offered == (row.hint in offers.hints(row.variant).get(row.backend or "", ()))
            assert row.offered or f"precision='{row.hint}'" in row.why_not
        else:
            assert row.offered == (row.backend in offers.backends(row.variant))
            assert row.why_not == offers.withheld(row.variant).get(row.backend or "", "")


def test_rows_survive_json(rows: list[Row]) -> None:
    assert msgspec.json.decode(records.encode(rows), type=list[Row]) == rows


def test_what_was_not_measured_is_a_dash(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "evidence", lambda _: Evidence())
    rows = table.rows(opened)
    assert [row.variant for row in rows] == [variant.name for variant in opened.manifest.variants]
    for row in rows:
        assert not row.offered
        assert "edgecv verify" in row.why_not
        shown = {name: cell(row) for name, cell in table.COLUMNS.items()}
        for name in set(table.COLUMNS) - {"bundle", "variant", "file MB", "offered"}:
            assert shown[name] == (table.MISSING, ""), name
    assert table.fastest(rows) is None


def test_evidence_of_another_file_does_not_count(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = Evidence(tuple(msgspec.structs.replace(each, sha256="0" * 64) for each in opened.evidence().entries))
    monkeypatch.setattr(Bundle, "evidence", lambda _: altered)
    assert all(row.latency is None for row in table.rows(opened))


def test_fastest_is_offered_and_has_the_smallest_median(rows: list[Row]) -> None:
    best = table.fastest(rows)
    assert best is not None
    assert best.latency is not None
    times = [row.latency.p50_ms for row in rows if row.offered and row.latency]
    assert best.latency.p50_ms == min(times)


def test_markdown_cells(rows: list[Row]) -> None:
    lines = [line for line in table.markdown(rows).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    names = cells[0]
    assert len({len(line) for line in cells}) == 1
    assert {"variant", "backend", "executed", "accuracy", "drop, points", "p50 ms", "p99 ms", "offered"} <= set(names)
    assert "bundle" not in names  # one bundle: its name would stand in every line
    for row, line in zip(rows, cells[2:], strict=True):
        told = dict(zip(names, line, strict=True))
        assert row.latency is not None
        assert row.score is not None
        assert float(told["p50 ms"]) == pytest.approx(row.latency.p50_ms, rel=6e-3, abs=5e-4)
        assert float(told["per s"]) == pytest.approx(row.latency.throughput_per_s, rel=6e-3)
        assert told["accuracy"].startswith(f"{row.score.value * 100:.2f} %")
        assert f"{row.score.low * 100:.1f}–{row.score.high * 100:.1f}" in told["accuracy"]
        total, most = sum(row.layers.values()), row.layers[row.executed or ""]
        assert told["executed"] == f"{row.executed} ({most} of {total})"
        assert told["offered"] == ("yes" if row.offered else f"no: {row.why_not}")
    assert "1920x1080" in table.markdown(rows)


def test_markdown_escapes_what_would_end_a_cell(rows: list[Row]) -> None:
    text = table.markdown([msgspec.structs.replace(rows[0], bundle="a|b\n<img src=x>"), rows[1]])
    line = next(line for line in text.splitlines() if "&lt;img" in line)
    assert line.startswith("| a\\|b &lt;img")


def test_beside_a_time_stands_the_accuracy_or_that_it_was_not_measured(rows: list[Row]) -> None:
    plain = [msgspec.structs.replace(row, score=None) for row in rows]
    assert {"accuracy", "agreement"} <= set(table.columns(plain))
    assert "drop, points" not in table.columns(plain)
    assert table.markdown(plain).count("| accuracy not measured |") == len(plain)
    assert _printed(plain, 200).count("accuracy not measured") == len(plain)
    mixed = table.markdown([plain[0], *rows[1:]])
    assert mixed.count("| accuracy not measured |") == 1
    untimed = [msgspec.structs.replace(row, latency=None) for row in plain]
    assert "accuracy" not in table.columns(untimed)
    assert "agreement" in table.columns(untimed)


def test_accuracy_and_agreement_tell_their_own_numbers_of_images(rows: list[Row]) -> None:
    first = rows[0]
    assert first.score is not None
    assert first.agreement is not None
    more = msgspec.structs.replace(first.score, count=4321)
    notes = table.notes([msgspec.structs.replace(first, score=more)])
    assert [note for note in notes if "4321" in note] == [notes[1]]
    assert "labelled" in notes[1]
    assert f"on {first.agreement.share.count} real frames" in notes[2]


FIGURES = {0.0: "0.000", 0.0434: "0.043", 1.294: "1.29", 9.999: "10.0", 13.44: "13.4", 99.97: "100", -0.5: "−0.500"}


@pytest.mark.parametrize(("value", "text"), FIGURES.items())
def test_number(value: float, text: str) -> None:
    assert table.number(value) == text


def test_no_minus_before_zero() -> None:
    assert table.signed(-0.001, 2) == "0.00"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_console_keeps_within_its_width(rows: list[Row], width: int) -> None:
    text = _printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert NAME in text.replace("\n", " ")
    if width >= 100:
        assert "…" not in text
    if width >= 140:
        for name in table.columns(rows):
            assert all(word in text for word in name.split()), name
        assert "No room" not in text


def test_console_tells_why_not_and_what_it_left_out(rows: list[Row]) -> None:
    flat = " ".join(_printed(rows, 80).split())
    for row in rows:
        assert row.offered or row.why_not in flat
    assert "No room here for: agreement" in flat


def test_console_makes_a_table_for_each_bundle_and_machine(rows: list[Row]) -> None:
    others = [msgspec.structs.replace(row, machine="Jetson, 6 cores") for row in rows]
    text = _printed([*rows, *others], 140)
    assert text.count("executed") == 2
    assert f"{NAME} · Jetson, 6 cores" in text


def test_the_table_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'jinja2', 'matplotlib', 'rich', 'cv2'): sys.modules[name] = None\n"
        "import edgecv_runtime.bench.table, edgecv.report, edgecv.report.console"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _printed(rows: list[Row], width: int) -> str:
    stream = io.StringIO()
    print_table(rows, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()
