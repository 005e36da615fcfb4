"""Clicks on lists whose rows have changed since they were drawn: Textual (8.2) fails on them."""

from __future__ import annotations

from textual.events import Click, Event
from textual.widgets import OptionList


async def _on_event(self: OptionList, event: Event) -> None:
    if isinstance(event, Click):
        option = event.style.meta.get("option")
        if option is not None and option >= self.option_count:
            return
    await super(OptionList, self).on_event(event)


def drop_late_clicks() -> None:
    """For every list, also those that Textual makes itself: of the palette and of a Select."""
    OptionList.on_event = _on_event  # type: ignore[assignment, method-assign]
