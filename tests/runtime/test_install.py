"""Hints say what really installs what is missing: from the clone, wheel or repository that this edgecv came from."""

import ast
import importlib.metadata
import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgecv_runtime import install
from edgecv_runtime.errors import BackendUnavailable, Unavailable

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("edgecv", "export", "runtime", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Noted:
    def __init__(self, note):
        self._note = note

    def read_text(self, name):
        assert name == "direct_url.json"
        return None if self._note is None else json.dumps(self._note)


@pytest.fixture
def noted(monkeypatch):
    """What `pip` noted when it installed edgecv."""

    def note(origin):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Noted(origin))
        return shlex.split(install.command("cpu"))

    return note


def test_a_clone_is_named_by_its_folder_also_with_a_space(noted, tmp_path):
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    url = clone.as_uri()
    assert "%20" in url
    assert noted({"url": url, "dir_info": {"editable": True}})[-2:] == ["-e", f"{clone}[cpu]"]
    assert noted({"url": url, "dir_info": {}})[-2:] == ["install", f"{clone}[cpu]"]


def test_a_wheel_is_named_as_a_file_and_a_repository_by_its_commit(noted, tmp_path):
    wheel = tmp_path / "edgecv-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert noted({"url": wheel.as_uri(), "archive_info": {}})[-1] == f"{wheel}[cpu]"
    vcs = {"vcs": "git", "commit_id": "abc"}
    assert noted({"url": "https://x.org/e", "vcs_info": vcs})[-1] == "edgecv[cpu] @ git+https://x.org/e@abc"


def test_a_place_that_is_gone_is_not_named(noted, tmp_path):
    for origin in ({"url": (tmp_path / "gone").as_uri(), "dir_info": {}}, {"url": "https://x.org/edgecv.whl"}):
        words = noted(origin)
        assert words[:4] == ["git", "clone", install.REPOSITORY, "&&"]
        assert words[-1] == "./edgecv[cpu]"


def test_what_came_from_an_index_is_asked_of_that_index(noted):
    assert noted(None)[-1] == "edgecv[cpu]"


def test_run_from_a_clone_without_being_installed():
    """As with PYTHONPATH: the metadata is hidden, the folder is the clone's."""
    script = """
import importlib.metadata as metadata
def hidden(name):
    raise metadata.PackageNotFoundError(name)
metadata.distribution = hidden
from edgecv_runtime import install
print(install.command("export"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout)[-2:] == ["-e", f"{ROOT}[export]"]


def test_the_pip_named_is_this_pythons_own(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # as where the environment is not activated
    assert install.command("cpu").startswith(f"{shlex.quote(sys.executable)} -m pip install ")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    assert install.command("cpu").startswith(f"uv pip install --python {shlex.quote(sys.executable)} ")


def test_the_hint_survives_pickling():
    error = BackendUnavailable("no backend", extra="onnxruntime")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == f"no backend: {install.command('onnxruntime')}"
    assert str(Unavailable("gone")) == "gone"


def test_every_extra_that_an_error_names_exists():
    extras = set(importlib.metadata.metadata("edgecv").get_all("Provides-Extra"))
    named = [
        (path.relative_to(ROOT), keyword.value.value)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant)
    ]
    assert len(named) > 20
    assert [(where, extra) for where, extra in named if not set(extra.split(",")) <= extras] == []


def test_no_hint_asks_an_index_that_does_not_have_edgecv():
    """`pip install 'edgecv[...]'` is what only `install.command` may say, after it looked where edgecv came from."""
    asking = re.compile(r"pip install[^\n]*(?<!/)\bedgecv(?!_)\b")
    hints = [path for path in SOURCES + PAGES if path.name != "install.py" and asking.search(path.read_text())]
    assert hints == []
