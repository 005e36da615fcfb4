"""Programs that try to get out of the sandbox, or to be taken for right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from eftlocal.errors import UsageError
from eftlocal.evaluation import sandbox, sandbox_proof
from eftlocal.evaluation.sandbox import Outcome, run
from eftlocal.evaluation.sandbox_proof import prove

MEMORY = 256 << 20
RIGHT = 42
CHECK = f"assert candidate() == {RIGHT}"


@pytest.fixture(scope="module", autouse=True)
def shown() -> None:
    try:
        prove()
    except UsageError as error:
        pytest.skip(str(error))


def of(program: str, check: str = CHECK, seconds: float = 10) -> Outcome:
    return run(program, "f", check, seconds=seconds, memory=MEMORY)


def left_running(parent: int) -> list[list[str]]:
    """Command lines of sandboxes of this process; what they fork has the same one."""
    lines = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "-c" in line and line[-2:-1] == [str(parent)]]


def test_a_right_and_a_wrong_answer() -> None:
    assert of("def f(): return 42") == Outcome(True)
    assert of("def f(): return 41") == Outcome(False, "AssertionError: ")
    assert of("def f(): return undefined").why.startswith("NameError")
    assert of("def f(: pass").why.startswith("SyntaxError")
    assert of("def g(): return 42").why.startswith("AttributeError")


@pytest.mark.parametrize(
    "value",
    (
        "[1, (2.5, 'ä', None), {1: {2}, 'b': frozenset([3])}, True, float('inf'), 1j, b'x']",
        "[Decimal('1.5'), Counter('aab'), Point(1, 2), OrderedDict(a=1), Kind.ONE]",
        "defaultdict(lambda: 0, a=1)",
    ),
)
def test_plain_values_go_there_and_come_back(value: str) -> None:
    program = (
        "from collections import *\nfrom decimal import Decimal\nfrom enum import IntEnum\n"
        "Point = namedtuple('Point', 'x y')\nclass Kind(IntEnum): ONE = 1\n"
    )
    check = program + f"assert candidate() == {value}, candidate()"
    assert of(f"{program}def f(): return {value}", check) == Outcome(True)


def test_arguments_are_copies_and_names_are_kept() -> None:
    program = "def f(values, *, more):\n    values.append(more)\n    return values"
    check = "mine = [1]\nassert candidate(mine, more=2) == [1, 2] and mine == [1]"
    assert of(program, check) == Outcome(True)


ENDED, STOPPED = "it ended before it answered", "stopped after 1 s"
# Why each fails, and the program.
FORGERIES = {
    "leaves at once": (ENDED, "import os\nos._exit(0)"),
    "leaves when called": (ENDED, "import os\ndef f(): os._exit(0)"),
    "exits": ("SystemExit", "import sys\ndef f(): sys.exit(0)"),
    "ends itself": (ENDED, "import os\ndef f(): os.kill(os.getpid(), 9)"),
    "prints a success": ("AssertionError", "print('ready\\nnull')\ndef f(): print('ready\\nnull')"),
    "writes a success to every file": (
        "UnpicklingError",
        """
import os
def f():
    for number in range(64):
        try:
            os.write(number, b'ready\\nnull')
        except OSError:
            pass
""",
    ),
    "closes every file": (ENDED, "import os\nos.closerange(0, 64)\ndef f(): return 42"),
    "replaces stdout": (
        "AssertionError",
        "import io, sys\nsys.stdout = sys.stderr = io.StringIO()\ndef f(): pass",
    ),
    "swallows everything": (
        "AssertionError",
        """
def f():
    try:
        assert f() == 42
    except BaseException:
        return True
""",
    ),
    "is equal to everything": (
        "UnpicklingError: answer.Yes is no plain data",
        """
class Yes:
    def __eq__(self, other): return True
def f(): return Yes()
""",
    ),
    "is an int equal to everything": (
        "AssertionError",
        """
class Yes(int):
    def __eq__(self, other): return True
def f(): return Yes()
""",
    ),
    "changes the builtins": (
        "AssertionError",
        """
import builtins, pickle
builtins.AssertionError = builtins.abs = builtins.all = lambda *a: True
pickle.Unpickler = pickle.loads = lambda *a: True
def f(): return 41
""",
    ),
    "sends code": (
        "UnpicklingError: posix.getpid is no plain data",
        """
import os
class Evil:
    def __reduce__(self): return os.getpid, ()
def f(): return Evil()
""",
    ),
    "changes a class of the check": (
        "TypeError: cannot set '__eq__'",
        """
import os
def f():
    stream = b"cdecimal\\nDecimal\\n(N}(V__eq__\\ncbuiltins\\nstr\\nutb"  # Decimal.__eq__ = str
    stream += b"0(I01\\ncdecimal\\nDecimal\\n)Rt."  # True, Decimal()
    for number in range(3, 32):
        try:
            os.write(number, stream)
        except OSError:
            pass
    os._exit(0)
""",
    ),
    "ends the check": (
        "AssertionError",
        """
import os, signal
def f():
    for process in (1, -1):
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass
    return 41
""",
    ),
    "takes the check's time": (
        STOPPED,
        """
import resource
def f():
    resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))
    while True: pass
""",
    ),
    "recurses": ("RecursionError", "def f(): return f()"),
    "nests": (
        "RecursionError",
        "def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    ),
    "forks": ("BlockingIOError", "import os\ndef f():\n    while True: os.fork()"),
    "forks for ever": (
        STOPPED,
        """
import os
def f():
    while True:
        try:
            os.fork()
        except OSError:
            pass
""",
    ),
    "never ends": (STOPPED, "def f():\n    while True: pass"),
    "never loads": (STOPPED, "while True: pass"),
    "sleeps, deaf to signals": (
        STOPPED,
        """
import signal, time
for number in set(signal.Signals) - {9, 19}: signal.signal(number, signal.SIG_IGN)
def f(): time.sleep(1000)
""",
    ),
    "starts threads": (
        "RuntimeError: can't start new thread",
        """
import threading
def f():
    while True: threading.Thread(target=threading.Event().wait).start()
""",
    ),
    "takes 10 GB": ("MemoryError", "def f(): return len(bytearray(10 << 30)) and 42"),
    "takes it in pieces": (
        "MemoryError",
        "def f():\n    a = []\n    while True: a.append(bytearray(1 << 20))",
    ),
    "answers with too much": (
        "MemoryError",
        "def f(): return [b'x' * (50 << 20)] * 9 + [bytes(99 << 20)] * 2",
    ),
    "fills its folder": (
        "OSError: [Errno 28]",
        """
def f():
    for i in range(100):
        with open(f'/tmp/{i}', 'wb') as file: file.write(bytes(8 << 20))
    return 42
""",
    ),
    "opens many files": (
        "OSError: [Errno 24]",
        "def f(): return len([open('/tmp/a', 'w') for _ in range(50)]) and 42",
    ),
    "runs a shell": (
        "BlockingIOError",
        "import subprocess\ndef f(): subprocess.run(['true']); return 42",
    ),
    "uses what is installed": ("ModuleNotFoundError", "import psutil\ndef f(): return 42"),
    "reads this file": ("FileNotFoundError", f"def f(): return open({__file__!r}) and 42"),
    "looks at processes": (
        "FileNotFoundError",
        "import os\ndef f(): return os.listdir('/proc') and 42",
    ),
    "becomes root": (
        "AssertionError",
        """
import os
def f():
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        pass
    return 41 if os.getuid() else 42
""",
    ),
    "leaves its folder's root": (
        "PermissionError",
        "import os\ndef f(): os.chroot('/tmp'); return 42",
    ),
    "lifts a limit": (
        "ValueError: not allowed",
        """
import resource
def f(): resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)); return 42
""",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_no_trick_passes(what: str) -> None:
    why, program = FORGERIES[what]
    before = psutil.Process().children(recursive=True)  # of other tests
    begun = time.monotonic()
    outcome = of(program, seconds=1 if why == STOPPED else 30)
    assert time.monotonic() - begun < 20
    assert not outcome.passed and outcome.why.startswith(why), outcome
    assert not left_running(os.getpid())
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_the_home_folder_is_not_there() -> None:
    program = "import os\ndef f(path): return os.listdir(path) if os.path.isdir(path) else []"
    # But for what leads to Python's library.
    way = Path(sys.base_prefix).parts
    check = f"names = candidate({str(Path.home())!r})\nassert set(names) <= set({way!r}), names"
    assert of(program, check) == Outcome(True)


def test_what_is_expected_is_not_in_the_program_s_process() -> None:
    """It looks for the first half of a word followed by the second, wherever Python lets it."""
    program = """
import gc, sys
def f(first, second):
    texts, frame = [str(sys.argv), str(sys.orig_argv)], sys._getframe()
    while frame:
        texts += [str(frame.f_locals), str(frame.f_globals)]
        frame = frame.f_back
    texts += [str(one) for one in gc.get_objects() if type(one) in (dict, list, tuple)]
    return any(first + second in text for text in texts)
"""
    word = os.urandom(8).hex()
    ask = f"candidate({word[:8]!r}, {word[8:]!r})"
    assert of(program, f"word = {word!r}\nassert {ask} is False") == Outcome(True)
    assert of(f"word = {word!r}{program}", f"assert {ask} is True") == Outcome(True)


@pytest.mark.parametrize(
    "calls",
    (
        "socket(1, 1, 0), libc.socket(40, 1, 0)",  # of Unix, and to the host of a virtual machine
        "shmget(0, 1 << 30, 0o1600), libc.memfd_create(b'm', 0), libc.msgget(0, 0o1600)",
        "ptrace(0, 0, 0, 0), libc.unshare(1 << 28), libc.unshare(1 << 17), libc.setns(0, 0)",
        "chroot(b'/tmp'), libc.mount(b't', b'/tmp', b'tmpfs', 0, None), libc.umount2(b'/tmp', 2)",
    ),
)
def test_system_calls_that_are_not_for_programs(calls: str) -> None:
    program = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(): return {{libc.{calls}}}, ctypes.get_errno()
"""
    assert of(program, "assert candidate() == ({-1}, 1), candidate()") == Outcome(True)  # EPERM


@pytest.mark.parametrize("what", sandbox_proof._ATTEMPTS)
def test_each_attempt_of_the_proof_succeeds_outside(what: str, tmp_path: Path) -> None:
    with sandbox_proof._bait() as (given, unharmed):
        given["secret"] = str(tmp_path / "secret")
        Path(given["secret"]).touch()
        source = (
            f"import json, os\n{sandbox_proof._ATTEMPTS[what]}\n"
            f"first = os.getpid()\ngot = attempt(**{given!r})\n"
            "if os.getpid() == first: print(len(got), flush=True)"
        )
        # Without Python's own file, which it may really be able to open for writing.
        source = source.replace('(os.__file__, "r+b"), ("/new", "wb")', "")
        with subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, start_new_session=True
        ) as child:
            assert child.stdout is not None
            got = child.stdout.readline()
            os.killpg(child.pid, signal.SIGKILL)
        assert int(got) > 0
        if what.startswith("signal"):
            time.sleep(0.2)
        harmed = what in ("signal other processes", "read and write files outside")
        assert unharmed() is not harmed


@pytest.mark.parametrize("leak", [*sandbox_proof._ATTEMPTS, "run without end"])
def test_one_leak_is_refused_by_name(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(program: str, *rest: object, **limits: object) -> Outcome:
        if leak == "run without end":
            return Outcome(program != sandbox_proof._ENDLESS)
        return Outcome(program != sandbox_proof._ATTEMPTS[leak], "got")

    monkeypatch.setattr(sandbox_proof, "run", leaky)
    with pytest.raises(UsageError, match=f"cannot {leak}"):
        prove()


def test_without_namespaces_nothing_is_run() -> None:
    source = (
        "from eftlocal.evaluation import sandbox_child, sandbox_proof\n"
        "sandbox_child.forbid()\n"  # as in a container: unshare is not permitted
        "sandbox_proof.prove()"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 1
    assert "UsageError: no sandbox for generated code can be made here: unshare" in done.stderr


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "platform", platform)
    with pytest.raises(UsageError, match="works on Linux alone"):
        of("def f(): return 42")


def test_a_killed_parent_leaves_nothing_running(tmp_path: Path) -> None:
    source = (
        "from eftlocal.evaluation.sandbox import run\n"
        f"run('while True: pass', 'f', '', seconds=60, memory={MEMORY})"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # where an empty folder stays
    with subprocess.Popen([sys.executable, "-c", source], env=environment) as parent:
        deadline = time.monotonic() + 20
        while len(left_running(parent.pid)) < 3:  # the keeper, the check and the program
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
    while left_running(parent.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_from_several_threads() -> None:
    with ThreadPoolExecutor(3) as pool:
        programs = [f"def f(): return {41 + i % 2}" for i in range(9)]
        assert [one.passed for one in pool.map(of, programs)] == [i % 2 == 1 for i in range(9)]


def test_a_program_does_the_same_each_time() -> None:
    program = "def f(): return list({str(i) for i in range(20)})"
    first = of(program, "assert 0, candidate()").why
    assert first.startswith("AssertionError: ['")
    assert of(program, "assert 0, candidate()").why == first


def test_odd_text_is_a_failure_and_no_error() -> None:
    assert not of("\0").passed
    assert not of("x = '\ud800'\ndef f(): return 42").passed
    assert not of("def f(): raise ValueError(chr(0xD800))").passed
