"""What a child process may not do, held by the kernel (seccomp(2)) for every library and thread in it; Linux only.

`OFFLINE` and `READ_ONLY` are pieces of a script: put one before what is to be run. Nobody has to be root for it.
"""

_FILTER = """
import ctypes, platform, struct

def refuse(rules):  # (call's numbers by machine, argument or None, how to compare it, with what, what then)
    load, give = 0x20, 0x06  # BPF_LD|W|ABS, BPF_RET|K; linux/filter.h
    program = []
    for numbers, argument, compare, value, action in rules:
        if platform.machine() not in numbers:
            continue
        last = [(give, 0, 0, action)]
        if argument is not None:
            last = [(load, 0, 0, 16 + 8 * argument), (compare, 0, 1, value), *last]
        program += [(load, 0, 0, 0), (EQUAL, 0, len(last), numbers[platform.machine()]), *last]
    program.append((give, 0, 0, 0x7FFF0000))  # allow
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    kept = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

EQUAL, ANY_OF = 0x15, 0x45  # BPF_JMP|JEQ|K, BPF_JMP|JSET|K
KILL, READ_ONLY = 0x80000000, 0x0005001E  # the process; the error EROFS
"""

# A socket of AF_INET or AF_INET6 ends the process.
OFFLINE = (
    _FILTER
    + """
socket = {"x86_64": 41, "aarch64": 198}
refuse([(socket, 0, EQUAL, 2, KILL), (socket, 0, EQUAL, 10, KILL)])
"""
)

# No file or folder can be made, by O_CREAT, O_TMPFILE or mkdir, as on a root that is mounted read-only, with no /tmp.
READ_ONLY = (
    _FILTER
    + """
refuse([
    ({"x86_64": 257, "aarch64": 56}, 2, ANY_OF, 0x400040, READ_ONLY),
    ({"x86_64": 2}, 1, ANY_OF, 0x400040, READ_ONLY),
    ({"x86_64": 85}, None, EQUAL, 0, READ_ONLY),
    ({"x86_64": 83}, None, EQUAL, 0, READ_ONLY),
    ({"x86_64": 258, "aarch64": 34}, None, EQUAL, 0, READ_ONLY),
])
"""
)
