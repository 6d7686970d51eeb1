"""The sizes in docs/architecture.md are those of the engine, give or take a few percent."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
script = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "count_lines.py")))


def sizes(text):
    """{room: lines} of the table in a text."""
    return {
        room: int(lines.replace(",", ""))
        for room, lines in re.findall(r"^\| \W*([\w/*]+?)\W* \| \W*([\d,]+)\W* \|", text, re.M)
    }


def test_the_table_is_current():
    told, actual = sizes(script.PAGE.read_text()), sizes(script.make())
    assert told.keys() == actual.keys()
    off = {room: (told[room], n) for room, n in actual.items() if abs(told[room] - n) > max(40, 0.05 * n)}
    assert not off, f"run python docs/count_lines.py (told, actual): {off}"


def test_every_room_of_the_engine_is_counted():
    folders = {path.parent for suffix in (".py", *script.KERNELS) for path in (ROOT / "caffelite").rglob(f"*{suffix}")}
    assert {str(folder.relative_to(ROOT)) for folder in folders} == {room.removesuffix("/*") for room in script.ROOMS}


def test_rooms_add_up():
    *rooms, total = sizes(script.make()).values()
    assert total == sum(rooms) > 5000
