"""Signatures of TensorRT's Python API, as its own bindings give them in their docstrings.

Run as a script, it records those of the releases that are not installed where tests run, into tensorrt_api.json. PyPI
serves NVIDIA's bindings without the libraries behind them, so they are loaded over empty ones: classes, signatures and
enumerations are real, and nothing can be called. Needs pip, gcc and Python 3.11:

    python tests/runtime/tensorrt_api.py
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from edgecv_runtime.backends.tensorrt import api

RECORD = Path(__file__).with_name("tensorrt_api.json")
WHEELS = (
    "tensorrt-bindings==8.6.1",
    "tensorrt-cu12-bindings==10.0.1",
    "tensorrt-cu12-bindings==10.3.0",
    "tensorrt-cu12-bindings==10.13.0.35",
    "tensorrt-cu13-bindings==11.4.0.106",
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvparsers", "nvinfer_plugin")
FUNCTIONS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL createNvOnnxParser_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion getPluginRegistry "
    "getInferLibVersion initLibNvInferPlugins _ZN11nvuffparser15createUffParserEv "
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi _ZN11nvuffparser23shutdownProtobufLibraryEv "
    "_ZN14nvcaffeparser117createCaffeParserEv _ZN14nvcaffeparser123shutdownProtobufLibraryEv"
)


def classes():
    """The classes of TensorRT that edgecv knows, with what it uses of each: parameters, "property" or "settable"."""
    found = {}
    for name, kind in vars(api).items():
        if inspect.isclass(kind) and getattr(kind, "_is_protocol", False) and kind.__module__ == api.__name__:
            members = dict.fromkeys(inspect.get_annotations(kind), "settable")
            for member, value in vars(kind).items():
                if isinstance(value, property):
                    members[member] = "property"
                elif inspect.isfunction(value) and not member.startswith("_"):
                    members[member] = list(inspect.signature(value).parameters)[1:]
            found[name] = members
    for ours in ("Protocol", "Member", "Enumeration", "Library"):
        found.pop(ours, None)
    return found


def enumerations():
    """The enumerations that edgecv asks."""
    return [name for name, value in vars(api.Library).items() if isinstance(value, property)]


def signatures(library):
    """What a library has of `classes` and `enumerations`; of functions the parameters of each overload."""
    found = {}
    for name, members in classes().items():
        kind = getattr(library, name, None)
        if kind is not None:
            there = {member: _signature(getattr(kind, member), member) for member in members if hasattr(kind, member)}
            found[name] = there
    for name in enumerations():
        if hasattr(library, name):
            found[name] = {member: int(value) for member, value in getattr(library, name).__members__.items()}
    found["IProgressMonitor"] = hasattr(library, "IProgressMonitor")
    found["IRuntimeCache"] = found.get("IRuntimeCache", False)
    return found


def _signature(member, name):
    if isinstance(member, property):
        return "settable" if member.fset else "property"
    overloads = re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) -> ", member.__doc__, re.MULTILINE)
    return [re.findall(r"(\w+): ", re.sub(r"<[^>]*>|\[[^\]]*\]", "", each))[1:] for each in overloads]


def _record(wheel, folder):
    """Signatures of the bindings in one wheel."""
    place = folder / re.sub(r"\W", "_", wheel)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel], check=True
    )
    code = "import json, tensorrt_api, tensorrt_bindings as trt\n"
    code += "print(json.dumps([trt.__version__, tensorrt_api.signatures(trt)]))"
    paths = [str(place), str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "empty.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in FUNCTIONS.split()))
        for release in (8, 10, 11):
            for library in LIBRARIES:
                file = f"lib{library}.so.{release}"
                subprocess.run(
                    ["gcc", "-shared", "-fPIC", "-o", folder / file, f"-Wl,-soname,{file}", source], check=True
                )
        recorded = dict(_record(wheel, folder) for wheel in WHEELS)
    lines = ",\n".join(f'"{release}": {json.dumps(found)}' for release, found in recorded.items())
    RECORD.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
