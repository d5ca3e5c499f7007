"""The command that installs what is missing, from where this edgecv came: a clone, a wheel, a repository, an index.

pip notes where it took a distribution from (`direct_url.json`, PEP 610), so a hint can name a place that has it: a name
alone would be looked up on PyPI, also by those who work in a clone.
"""

from __future__ import annotations

from pathlib import Path

REPOSITORY = "https://github.com/edgecv/edgecv"


def command(extra: str) -> str:
    """What to type to install an extra, or several ("cpu,gui"): `pip install -e '/home/me/edgecv[export]'`."""
    import shlex

    editable, source = _source()
    if source is None:
        return f"git clone {REPOSITORY} && {_pip_install()} {shlex.quote(f'./edgecv[{extra}]')}"
    name = f"edgecv[{extra}] @ {source}" if source.startswith("git+") else f"{source}[{extra}]"
    return f"{_pip_install()} {'-e ' if editable else ''}{shlex.quote(name)}"


def _source() -> tuple[bool, str | None]:
    """Whether it is an editable installation, and what pip takes it from; None where that is no longer there."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        note = distribution("edgecv").read_text("direct_url.json")
    except PackageNotFoundError:  # run from a clone by PYTHONPATH
        clone = Path(__file__).resolve().parents[2]
        return True, str(clone) if (clone / "pyproject.toml").is_file() else None
    if note is None:
        return False, "edgecv"  # of an index, which has the extras, too
    origin = json.loads(note)
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return False, f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    parts = urlsplit(origin["url"])
    if parts.scheme != "file":
        return False, None
    place = Path(url2pathname(parts.path))
    there = place.is_file() or (place / "pyproject.toml").is_file()
    return bool(origin.get("dir_info", {}).get("editable")), str(place) if there else None


def _pip_install() -> str:
    """`pip install` where that pip is this Python's own, else a longer form that is."""
    import importlib.util
    import shlex
    import shutil
    import sys

    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None:  # as in environments that uv made
        return f"uv pip install --python {python}"
    found = shutil.which("pip")
    own = found is not None and Path(found).absolute().parent == Path(sys.executable).absolute().parent
    return "pip install" if own else f"{python} -m pip install"
