"""The inside of the sandbox; `sandbox.py` starts it and says what it keeps apart.

Three processes: the keeper separates itself from the machine, builds a root of its own, and ends
all at the deadline. Its child, the first process of its pid namespace, runs the check. The child of
that runs the program, and has nothing but two pipes to answer calls. So the program never holds
what is expected of it nor a way to say that it passed, and what it returns is plain data by the
time it is compared.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

assert sys.platform == "linux"

LATE, READY = 3, b"ready\n"
_NOBODY = 65_534
_FILES = 32  # open at once
_TMP = 16 << 20  # bytes, of one file and of /tmp
# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 1 << 27, 1 << 28, 1 << 29, 1 << 30
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE, _DETACH = 2, 4, 8, 4096, 16384, 1 << 18, 2
_SYS_MOUNT_SETATTR, _AT_RECURSIVE, _RDONLY = 442, 0x8000, 1
_PDEATHSIG, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVS = 1, 4, 22, 38

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # <linux/audit.h>
# System calls that give memory no limit here counts (System V's, message queues, memfd), reach
# other processes, networks beside IP's (vsock), the user's keys or the wider kernel, and their
# numbers on these machines.
_DENIED = {
    "socket": (41, 198),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "setns": (308, 268),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}

_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | str | Path | bytes | ctypes.Array[Any] | None) -> None:
    """A function of the C library that returns -1 where it fails."""
    told: list[Any] = []
    for one in arguments:
        if isinstance(one, int):
            told.append(ctypes.c_long(one))
        else:
            told.append(os.fsencode(one) if isinstance(one, (str, Path)) else one)
    if getattr(_LIBC, name)(*told) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def keep(seconds: float, memory: int, parent: int, folder: str) -> int:
    """The keeper. Its exit status is 0 where the check came to a verdict, LATE at the deadline."""
    _call("prctl", _PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    null = os.open(os.devnull, os.O_RDWR)
    _separate()
    _new_root(Path(folder))
    first = os.fork()
    if first == 0:
        _or_die(_first_process, seconds, memory, null)
    watch = os.pidfd_open(first)
    in_time, _, _ = select.select([watch], [], [], seconds)
    if not in_time:
        os.kill(first, signal.SIGKILL)
    # With the first process of the namespace all others end, and are gone when it is.
    _, status = os.waitpid(first, 0)
    return LATE if not in_time else int(status != 0)


def _separate() -> None:
    """Mounts, processes to come, network and IPC of its own.

    Root needs no user namespace for it, and would not be held to a number of processes in one: it
    becomes nobody in `_confine`.
    """
    user, group = os.geteuid(), os.getegid()
    flags = _NEWNS | _NEWPID | _NEWNET | _NEWIPC
    _call("unshare", flags if user == 0 else flags | _NEWUSER)
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)


def _new_root(folder: Path) -> None:
    """Nothing but Python's library and the system's, read-only, and an empty /tmp.

    The last step, into a folder of the new root, is there because the kernel makes no user
    namespace, and so gives no capability, to who has another root than the mount namespace's.
    """
    base = Path(sys.base_prefix)
    needed = [base / sys.platlibdir, base / "lib", Path("/etc/ld.so.cache")]
    needed += [Path(path) for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")]
    targets = {path: path.resolve() for path in needed if path.exists()}
    _call("mount", None, "/", None, _REC | _PRIVATE, None)
    _call("mount", "tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    inside = folder / "inside"
    inside.mkdir()
    (inside / "tmp").mkdir()

    def place(path: Path) -> Path:
        return inside / path.relative_to("/")

    # All places are made before anything is mounted, so that none is made in what is.
    for path, target in targets.items():
        for one in (path, target):
            place(one).parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            place(target).mkdir(exist_ok=True)
        else:
            place(target).touch()
        if path != target:
            place(path).symlink_to(target)
    for target in sorted(set(targets.values())):
        _call("mount", target, place(target), None, _BIND | _REC, None)
        for packages in place(target).glob("python*/*-packages"):  # those are the user's
            _call("mount", "tmpfs", packages, "tmpfs", _NOSUID | _NODEV, "size=4k")
    os.chdir(folder)
    _call("pivot_root", ".", ".")
    _call("umount2", ".", _DETACH)
    attributes = struct.pack("=QQQQ", _RDONLY | _NOSUID | _NODEV, 0, 0, 0)
    _call("syscall", _SYS_MOUNT_SETATTR, -1, "/", _AT_RECURSIVE, attributes, len(attributes))
    flags = _NOSUID | _NODEV | _NOEXEC
    _call("mount", "tmpfs", "/inside/tmp", "tmpfs", flags, f"size={_TMP},nr_inodes=1024,mode=1777")
    os.chroot("/inside")
    os.chdir("/tmp")


def _confine(seconds: float, memory: int) -> None:
    """Gives up, for good, what the program and the check do not need."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    _call("capset", header, ctypes.create_string_buffer(24))
    for limit, value in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, _TMP),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, most = resource.getrlimit(limit)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))
    forbid()


def forbid() -> None:
    """Has the kernel refuse the system calls of `_DENIED` from now on, with EPERM."""
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(f"the system calls of {machine} are not known here")
    arch, which = _MACHINES[machine], list(_MACHINES).index(machine)
    numbers = [both[which] for both in _DENIED.values()]
    # Of the BPF program: load the machine, another one's calls kill; load the call's number.
    last = len(numbers)
    steps = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 1 << 31), (0x20, 0, 0, 0)]
    steps += [(0x35, last + 1, 0, 1 << 30)]  # x86-64's other numbering
    steps += [(0x15, last - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50001)]  # allow; EPERM
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    _call("prctl", _SECCOMP, 2, filter_, 0, 0)


def _first_process(seconds: float, memory: int, null: int) -> None:
    """Runs the check, and writes READY and then the verdict to stdout.

    The program cannot end it (the kernel keeps its signals from a namespace's first process), nor
    look into it (it is not dumpable).
    """
    calls_out, calls_in = os.pipe()
    answers_out, answers_in = os.pipe()
    if os.fork() == 0:
        os.close(calls_in)
        os.close(answers_out)
        _or_die(_program, seconds, memory, null, calls_out, answers_in)
    os.close(calls_out)
    os.close(answers_in)
    _confine(seconds, memory)
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    _call("prctl", _PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    calls, answers = os.fdopen(calls_in, "wb"), os.fdopen(answers_out, "rb")
    with os.fdopen(os.dup(1), "wb") as verdict:
        if _Plain(answers).load() is not True:
            raise OSError("the program's process did not start")
        verdict.write(READY)
        verdict.flush()
        given = json.load(sys.stdin)
        for number in range(3):
            os.dup2(null, number)
        why = _check(given["check"], _Candidate(calls, answers), (given["program"], given["entry"]))
        verdict.write(json.dumps(why).encode())


def _check(check: str, candidate: _Candidate, program: tuple[str, str]) -> str | None:
    """Why the program fails the check; None where it passes."""
    try:
        candidate(*program)
        code = compile(check, "check", "exec", dont_inherit=True)
        exec(code, {"__name__": "check", "candidate": candidate})
    except RaisedError as error:
        return str(error)
    except (EOFError, BrokenPipeError):
        return "it ended before it answered"
    except BaseException as error:  # noqa: BLE001 - whatever the program brought about
        return _described(error)
    return None


class RaisedError(Exception):
    """What the program raised, in words."""


class _Candidate:
    """Calls the program's function in the program's process."""

    def __init__(self, calls: IO[bytes], answers: IO[bytes]) -> None:
        self._calls, self._answers = calls, answers

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        pickle.dump((arguments, named), self._calls)
        self._calls.flush()
        fine, value = _Plain(self._answers).load()
        if not fine:
            raise RaisedError(value)
        return value


_KINDS: tuple[Any, ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    Decimal,
)
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


class _Plain(pickle.Unpickler):
    """Reads plain data only: pickle alone would run what the program sends.

    A class that could be changed would be a door: pickle sets attributes of what it is given.
    """

    def find_class(self, module: str, name: str) -> Any:
        for kind in _KINDS:
            if (kind.__module__, kind.__name__) == (module, name) and kind.__flags__ & _IMMUTABLE:
                return kind
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")


class _Simple(pickle.Pickler):
    """Writes what is of a subclass, such as a Counter or a named tuple, as what it is below."""

    def reducer_override(self, value: Any) -> Any:
        for kind in _KINDS:
            if isinstance(value, kind) and type(value) is not kind:
                return kind, (kind(value),)
        return NotImplemented


def _program(seconds: float, memory: int, null: int, calls_out: int, answers_in: int) -> None:
    """Answers calls until its process is ended. The first brings the program."""
    os.setsid()
    _confine(seconds, memory)
    for number in range(3):
        os.dup2(null, number)
    os.environ.clear()
    sys.argv[:], sys.path[:] = [""], [path for path in sys.path if path]
    calls, answers = os.fdopen(calls_out, "rb"), os.fdopen(answers_in, "wb")
    pickle.dump(True, answers)
    answers.flush()
    module = sys.modules["answer"] = ModuleType("answer")
    function: Any = None

    def load(program: str, entry: str) -> None:
        nonlocal function
        exec(compile(program, "answer", "exec", dont_inherit=True), module.__dict__)
        function = getattr(module, entry)

    while True:
        arguments, named = pickle.load(calls)
        try:
            value = (function or load)(*arguments, **named)
            answer = io.BytesIO()
            _Simple(answer).dump((True, value))
            answers.write(answer.getvalue())
        except BaseException as error:  # noqa: BLE001 - the program's
            pickle.dump((False, _described(error)), answers)
        answers.flush()


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _or_die(function: Any, *arguments: Any) -> NoReturn:
    """Runs a forked process, which must not return into what its parent was doing."""
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException as error:  # noqa: BLE001 - the keeper sees that it ended
        os.write(2, _described(error).encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    try:
        sys.exit(keep(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    except OSError as error:
        sys.exit(error.strerror or str(error))
