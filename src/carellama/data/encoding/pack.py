"""Records into windows: whole records, never cut, so that each window is nearly full.

Best fit, longest first: a record goes into the window with the least room that still takes it (Johnson 1973;
it needs at most 11/9 of the fewest windows possible). What is longer than a window was split or cut when it
was encoded.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int] | np.ndarray, window: int) -> list[list[int]]:
    """Return the windows as lists of indices into `lengths`; every index occurs once.

    Takes n log(window) steps: windows are kept by the room they have left, and there are at most `window`
    rooms.
    """
    sizes = np.asarray(lengths)
    assert not len(sizes) or int(sizes.max()) <= window, "a record is longer than the window"
    windows: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)  # room left -> windows with that room
    rooms: list[int] = []  # the keys of by_room, sorted
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            chosen, room = len(windows), window
            windows.append([])
        else:
            room = rooms[at]
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(at)
        windows[chosen].append(index)
        left = room - size
        if left:
            if not by_room[left]:
                bisect.insort(rooms, left)
            by_room[left].append(chosen)
    return windows
