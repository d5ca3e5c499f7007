"""Run folders for the tests of the results table and the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_lab import make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; not to be changed."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def run_folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))
