"""Take out of a folder of packages what inference on a CPU never loads: `trim.py PACKAGES ARCH`.

It says what each row of the table weighed.
Whoever adds a row says why; `make test-image` shows that all the backends still run what they ran.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

_LOAD = 1  # PT_LOAD
# Where, below the folder ("**": at any depth), and why nobody misses it.
UNNEEDED = (
    ("bin", "the packages' programs: an image runs `python3 -m edgecv.cli`"),
    ("**/tests", "the packages' own tests"),
    ("**/*.pyi", "types, for those who write programs"),
    ("**/*.pyx", "Cython's sources, compiled beside them"),
    ("**/*.pxd", "Cython's declarations, for those who compile against the package"),
    ("**/include", "headers in C, for the same"),
    ("**/*.a", "libraries to link in, for the same"),
    ("onnxruntime/capi/libonnxruntime.so.*", "for programs in C: Python's module holds all of it a second time"),
    ("onnxruntime/datasets", "models as examples"),
    ("onnxruntime/quantization", "makes int8 files; a bundle brings them"),
    ("onnxruntime/tools", "makes and converts models"),
    ("onnxruntime/transformers", "makes models of language"),
    ("sympy", "ONNX Runtime wants it for those tools"),
    ("mpmath", "sympy wants it"),
    ("isympy.py", "sympy's shell"),
    ("numpy/distutils", "compiles packages"),
    ("numpy/f2py", "compiles Fortran"),
    ("numpy/_core/_simd.*", "for tests of numpy's vector instructions"),
    ("openvino/cmake", "for those who compile against it"),
    ("openvino/libs/cache.json", "kernels of Intel's GPUs"),
    ("openvino/libs/libopenvino_intel_gpu_plugin.so", "an image for a CPU: GPUs need drivers that it has not"),
    ("openvino/libs/libopenvino_intel_npu_plugin.so", "NPUs, the same"),
    ("openvino/libs/libopenvino_gguf_frontend.so.*", "reads GGUF; bundles hold ONNX"),
    ("openvino/libs/libopenvino_jax_frontend.so.*", "reads JAX"),
    ("openvino/libs/libopenvino_paddle_frontend.so.*", "reads PaddlePaddle"),
    ("openvino/libs/libopenvino_pytorch_frontend.so.*", "reads PyTorch"),
    ("openvino/libs/libopenvino_tensorflow_frontend.so.*", "reads TensorFlow"),
    ("openvino/libs/libopenvino_tensorflow_lite_frontend.so.*", "reads TensorFlow Lite"),
    ("openvino/libs/libopenvino_c.so.*", "for programs in C"),
)
# Modules whose wheels bring what a debugger needs.
WITH_SYMBOLS = ("av/**/*.so", "numpy/**/*.so", "yaml/*.so")


def main(folder: Path, arch: str) -> None:
    """Trim it in place."""
    for pattern, why in UNNEEDED:
        found = [path for path in sorted(folder.glob(pattern)) if path.exists()]  # one may lie in another
        weighed = sum(map(_bytes, found))
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        _say(weighed, pattern, why)
    program = next(filter(shutil.which, (f"{arch}-linux-gnu-strip", "llvm-strip")), None)
    if program is None:
        sys.exit(f"trim.py: nothing strips {arch} here: apt-get install binutils-{arch.replace('_', '-')}-linux-gnu")
    for pattern in WITH_SYMBOLS:
        _say(sum(_stripped(path, program) for path in sorted(folder.glob(pattern))), pattern, f"symbols ({program})")


def _stripped(path: Path, program: str) -> int:
    """Strip a library -> the bytes that are saved; one that could not be loaded any more stays as it is."""
    made = path.with_name("stripped")
    subprocess.run([program, "--strip-unneeded", "-o", made, path], check=True)
    saved = path.stat().st_size - made.stat().st_size
    if saved > 0 and _fits(made.read_bytes()):
        made.replace(path)
        return saved
    made.unlink()
    return 0


def _fits(library: bytes) -> bool:
    """Whether its segments lie as the loader maps them (elf(5)): strip may break a file that patchelf has changed."""
    (at,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    headers = (struct.unpack_from("<IIQQQQQQ", library, at + number * size) for number in range(count))
    return all((offset - address) % align == 0 for kind, _, offset, address, *_, align in headers if kind == _LOAD)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _say(saved: int, pattern: str, why: str) -> None:
    print(f"{saved / 2**20:7.1f} MiB  {pattern}: {why}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
