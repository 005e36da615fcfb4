"""Textual's drivers, reading what the terminal sends with our `Keyboard`."""

from __future__ import annotations

import os
import select
import selectors
import sys
from codecs import getincrementaldecoder
from contextlib import suppress
from typing import Any

from textual.driver import Driver

from eftlocal.terminal_text import one_line
from eftlocal_tui.terminal.keyboard import Keyboard

_KEEP_TITLE, _KEPT_TITLE = "\x1b[22;2t", "\x1b[23;2t"
_LONGEST_TITLE = 80
_TICK = 0.05  # seconds between looks at what is held back


def title_sequence(title: str) -> str:
    """Gives the terminal's window or tab a title."""
    return f"\x1b]2;{one_line(title, _LONGEST_TITLE)}\x07"


def with_keyboard(driver: type[Driver]) -> type[Driver]:
    """The driver that Textual chose, with our reading of its input where it reads a terminal."""
    if sys.platform == "win32":
        from textual.drivers import win32

        win32.XTermParser = Keyboard
        return driver
    from textual.drivers.linux_driver import LinuxDriver

    class Terminal(LinuxDriver):
        def _get_terminal_size(self) -> tuple[int, int]:
            """As it is, whatever COLUMNS and LINES say: they were true when they were set."""
            with suppress(OSError):
                columns, lines = os.get_terminal_size(self.fileno)
                if columns and lines:
                    return columns, lines
            return super()._get_terminal_size()

        def start_application_mode(self) -> None:
            modes, self._typed = _typed_before(self.fileno)
            super().start_application_mode()  # type: ignore[no-untyped-call]
            self.attrs_before = modes
            self.write(_KEEP_TITLE + title_sequence(self._app.title))

        def stop_application_mode(self) -> None:
            self.write(_KEPT_TITLE)
            super().stop_application_mode()

        def _run_input_thread(self) -> None:
            try:
                self.run_input_thread()
            except Exception as error:  # noqa: BLE001 - the program ends with it
                self._app.call_later(self._app._handle_exception, error)

        def run_input_thread(self) -> None:
            """Bytes that are no UTF-8 become U+FFFD; Textual's own would end the program."""
            keyboard = Keyboard(self._debug)
            decode = getincrementaldecoder("utf-8")("replace").decode
            with selectors.DefaultSelector() as selector:
                selector.register(self.fileno, selectors.EVENT_READ)
                while not self.exit_event.is_set():
                    if self._typed or selector.select(_TICK):
                        data, self._typed = self._typed or _read(self.fileno), b""
                        if not data:  # the terminal is gone
                            self._app.call_later(self._app.exit)
                            return
                        if text := decode(data):  # not only a part of a character
                            for event in keyboard.feed(text):
                                self.process_message(event)
                    for event in keyboard.tick():
                        self.process_message(event)

    return Terminal if driver is LinuxDriver else driver


def _typed_before(fileno: int) -> tuple[list[Any] | None, bytes]:
    """The modes that a terminal has, and what was typed in these: it made a new line of Enter."""
    import termios

    try:
        modes = termios.tcgetattr(fileno)
        termios.tcsetattr(fileno, termios.TCSANOW, [modes[0] & ~termios.ICRNL, *modes[1:]])
    except termios.error:
        return None, b""
    typed = b""
    while select.select([fileno], [], [], 0.0)[0] and (line := _read(fileno)):
        typed += line
    return modes, typed.replace(b"\n", b"\r") if modes[0] & termios.ICRNL else typed


def _read(fileno: int) -> bytes:
    try:
        return os.read(fileno, 65_536)
    except OSError:
        return b""
