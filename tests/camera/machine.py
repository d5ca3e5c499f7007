"""An emulated computer with real Video4Linux cameras: Debian's kernel and its test drivers, our files over 9p.

Two cameras of `vivid`, which can be unplugged (unbound), and one of `v4l2loopback`, which gives what a program writes
into it (vivid has no MJPEG). Needs what `tests/install-debian.sh camera` installs; no KVM, no module of this machine.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "videodev", "vivid")
VIVID = "n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0,0 no_error_inj=1"  # two webcams, and nothing else
LOOPBACK = "devices=1 exclusive_caps=1 card_label=loopback"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin; export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module options; do insmod /modules/$module $options || echo "insmod $module failed"; done < /modules/order
p9=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o $p9,cache=loose,ro host /host
for folder in dev proc sys; do mount -o bind /$folder /host/$folder; done
mount -t tmpfs tmpfs /host/run
mkdir /host/run/out; mount -t 9p -o $p9,cache=none out /host/run/out
PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot /host /bin/sh /run/out/run.sh > /host/run/out/console 2>&1
poweroff -f
"""


def prepare(folder: Path) -> tuple[Path, Path]:
    """The kernel and an initial RAM disk in `folder`; made once (about half a minute), as root."""
    root, initrd = folder / "root", folder / "initrd.gz"
    done = folder / "done"  # of which init
    if not done.exists() or done.read_text() != INIT:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        packages = "linux-image-amd64,linux-headers-amd64,v4l2loopback-dkms"
        unwanted = [f"--dpkgopt=path-exclude={path}" for path in ("/usr/share/*", "/usr/lib/gcc/*", "/usr/bin/*")]
        _run("mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", *unwanted, "bookworm", root)
        version = next((root / "lib/modules").iterdir()).name
        _build_loopback(root, version)
        _make_initrd(root, version, initrd)
        done.write_text(INIT)
    return next((root / "boot").glob("vmlinuz-*")), initrd


def boot(folder: Path, out: Path, script: str, *, timeout_s: float) -> None:
    """Run a shell script as root in the machine; what it and its programs write into /run/out is in `out` afterwards.

    The script sees this machine's files, read-only; /run alone is its own.
    """
    kernel, initrd = prepare(folder)
    (out / "run.sh").write_text(script)
    shares = [
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        f"local,path={out},mount_tag=out,security_model=none",
    ]
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]
    command += ["-nographic", "-nodefaults", "-no-reboot", "-serial", f"file:{out / 'serial'}", "-nic", "none"]
    command += [
        "-kernel",
        str(kernel),
        "-initrd",
        str(initrd),
        "-append",
        "console=ttyS0 panic=-1 quiet",
    ]
    for share in shares:
        command += ["-virtfs", share]
    subprocess.run(command, timeout=timeout_s, check=True)


def _build_loopback(root: Path, version: str) -> None:
    """Compile v4l2loopback, which Debian ships as source, against the headers of that kernel."""
    source = next((root / "usr/src").glob("v4l2loopback-*"))
    headers = root / "usr/src" / f"linux-headers-{version}"
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/src", f"include {root.resolve()}/usr/src"))
    _run("make", "--silent", "-C", headers, f"M={source.resolve()}", "modules")
    shutil.copy(source / "v4l2loopback.ko", root / "lib/modules" / version)
    _run("depmod", "-b", root, version)


def _make_initrd(root: Path, version: str, target: Path) -> None:
    """Busybox, the modules in the order in which they are needed, and INIT."""
    tree = target.parent / "initrd"
    for name in ("bin", "proc", "sys", "dev", "host", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    order: dict[str, str] = {}
    for module in (*MODULES, "v4l2loopback"):
        for line in _run("modprobe", "-d", root.resolve(), "-S", version, "--show-depends", module).splitlines():
            if line.startswith("insmod"):
                path = Path(line.split()[1])
                order.setdefault(path.name, {"vivid": VIVID, "v4l2loopback": LOOPBACK}.get(path.stem, ""))
                shutil.copy(path, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{name} {options}\n" for name, options in order.items()))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), stdout=subprocess.PIPE, check=True
    )
    target.write_bytes(gzip.compress(packed.stdout, 1))


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"machine.py: {command[0]} ended with {done.returncode}; run tests/install-debian.sh camera as root")
    return done.stdout
