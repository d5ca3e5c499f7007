"""Every example runs as it stands, and docs/architecture.md says how many lines each takes."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgecv import models
from edgecv.cli.app import app
from edgecv_runtime import backends, task_table

EXAMPLES = Path(__file__).parents[1] / "examples"
ARCHITECTURE = EXAMPLES.parent / "docs" / "architecture.md"
SAID = {
    "add_model.py": r"23909 parameters with 5 classes\n2,865,664 MACs",
    "add_data_source.py": r"32 images of bright, dark: \d+% of the held-out right",
    "add_task.py": r"[1-9]\d? of 20 frames of a test picture are nothing that the network knows",
    "inject_backend.py": r"there: agrees with golden on 100.0% of \d+ golden inputs, .*\n.*halving accelerator",
    "add_sink.py": r'10 frames, 10 lines; the first: "fake.*",0,\d+\.\d,digit \d,0\.\d+',
}


@pytest.fixture
def tables():
    """What an example registers is gone for the next test."""
    before = [(table, dict(table)) for table in (models.ZOO, task_table.TASKS)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs_as_it_stands(name, exported, tables, monkeypatch, capsys):
    wants_bundle = "python examples/" + name + " BUNDLE" in (EXAMPLES / name).read_text()
    monkeypatch.setattr(sys, "argv", [name, *([str(exported)] if wants_bundle else [])])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(SAID[name], capsys.readouterr().out)


def test_the_backend_of_another_package_serves_every_verb(exported, monkeypatch, photos, tmp_path):
    """Installed as pip would do it: a module on the path, and beside it the entry points of its pyproject.toml."""
    import cv2

    lines = (EXAMPLES / "backend" / "pyproject.toml").read_text().splitlines()
    entry = lines[lines.index('[project.entry-points."edgecv.backends"]') + 1].replace('"', "")
    installed = tmp_path / "site" / "edgecv_reference_backend-0.1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: edgecv-reference-backend\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[edgecv.backends]\n{entry}\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.syspath_prepend(str(EXAMPLES / "backend"))
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    backends._others.cache_clear()
    try:
        assert "reference" in backends.names()
        assert "reference" in backends.available()

        def label(backend):
            done = CliRunner().invoke(
                app, ["predict", str(exported), str(tmp_path / "photo.png"), "--backend", backend]
            )
            assert done.exit_code == 0, done.output
            return done.stdout

        assert label("reference") == label("onnxruntime")
    finally:
        backends._others.cache_clear()


MARKED = [path for path in sorted(EXAMPLES.rglob("*.py")) if "# --- that is all" in path.read_text()]


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.stem)
def test_the_architecture_page_counts_the_lines_right(path):
    source = path.read_text().splitlines()
    first, last = (
        next(i for i, line in enumerate(source) if line.startswith(mark)) for mark in ("# --- the", "# --- that")
    )
    count = sum(bool(line.strip()) for line in source[first + 1 : last])
    row = next(
        line for line in ARCHITECTURE.read_text().splitlines() if f"examples/{path.relative_to(EXAMPLES)}" in line
    )
    assert re.search(r"\| (\d+) \|", row)[1] == str(count), f"{path.name} has {count} lines"


def test_the_notebook_runs_and_shows_what_it_should():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import execute
    finally:
        sys.path.remove(str(EXAMPLES))
    cells = [cell for cell in execute.executed().cells if cell.cell_type == "code"]
    kinds = {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}
    assert {"text/html", "image/jpeg"} <= kinds
    result = next(cell for cell in cells if cell.source.endswith("\nresult"))
    assert "flower" in result.outputs[0].data["text/html"]
