"""Texts that repeat for a good reason: what a loop guard must let through."""

from __future__ import annotations

import base64


def ordinary_repetitions() -> dict[str, str]:
    """Lists, tables, rows of digits, drawings, code and refrains, by what they are."""
    eight = range(8)
    return {
        "200 zeros in an array": "[" + ", ".join(["0"] * 200) + "]",
        "1,000 zeros in an array": "[" + ", ".join(["0"] * 1000) + "]",
        "200 times true in an array": "[" + ", ".join(["true"] * 200) + "]",
        "200 lines of null": "[\n" + ",\n".join(["  null"] * 200) + "\n]",
        "128 times 0.0": "[" + ", ".join(["0.0"] * 128) + "]",
        "a one among 127 zeros": "[" + ", ".join(["0"] * 64 + ["1"] + ["0"] * 63) + "]",
        "50 equal objects": "[" + ",\n".join(['{"name": "", "value": null}'] * 50) + "]",
        "1,000 digits of zero": "0" * 1000,
        "1/3 to 1,000 digits": "0." + "3" * 1000,
        "1/7 to 1,000 digits": "0." + "142857" * 167,
        "500 zeros in a row": "0 " * 500,
        "a binary number": "01" * 256,
        "a matrix of zeros": "\n".join(" ".join(["0"] * 20) for _ in range(20)),
        "an array as numpy prints it": "\n ".join("[" + "0. " * 16 + "]" for _ in range(16)),
        "an identity matrix": "\n".join(
            ", ".join("1" if i == j else "0" for j in range(12)) for i in range(12)
        ),
        "a matrix in LaTeX": "\\\\\n".join(" & ".join(["0"] * 10) for _ in range(10)),
        "a table of 30 equal rows": "| a | b | c |\n|---|---|---|\n" + "| none | 0 | n/a |\n" * 30,
        "a table of 40 empty rows": "| a | b | c | d |\n|---|---|---|---|\n"
        + "| - | - | - | - |\n" * 40,
        "a timetable": "".join(f"| {h}:00 | Work | Work | Work | Work | Free |\n" for h in eight),
        "CSV without values": "id,a,b\n" + "".join(f"{i},n/a,n/a\n" for i in range(60)),
        "CSV of zeros": "a,b,c,d\n" + "0,0,0,0\n" * 60,
        "CSV of empty fields": ",,,,,,,,,,\n" * 40,
        "a hex dump of zeros": "".join(f"{i * 16:08x}  " + "00 " * 16 + "\n" for i in range(32)),
        "512 zero bytes in hex": "00 " * 512,
        "256 zero bytes in C": "{" + ", ".join(["0x00"] * 256) + "};",
        "3,000 zero bytes in base64": base64.b64encode(bytes(3000)).decode(),
        "base64 in lines": "\n".join("A" * 76 for _ in range(18)),
        "a rule": "=" * 200,
        "a rule with spaces": "- " * 120,
        "headings between rules": ("=" * 80 + "\nSection\n") * 12,
        "a contents page": "\n".join(f"Chapter {i} " + "." * 60 + f" {i}" for i in range(1, 20)),
        "a box of stars": "\n".join("*" * 60 for _ in range(20)),
        "an empty box": "+" + "-" * 70 + "+\n" + ("|" + " " * 70 + "|\n") * 20,
        "a maze": "\n".join("#.#.#.#.#.#.#.#.#.#" for _ in range(20)),
        "a triangle of stars": "\n".join("*" * i for i in range(1, 41)),
        "blank lines": "\n" * 60,
        "emoji": "🎉" * 50,
        "40 equal lines of code": "    total += 1\n" * 40,
        "40 pushes": "stack.push(0);\n" * 40,
        "32 nops": "    nop\n" * 32,
        "50 assertions": "".join(f"assert f({i}) == {i * i}\n" for i in range(50)),
        "100 placeholders of SQL": "VALUES (" + ", ".join(["?"] * 100) + ")",
        "empty cells of HTML": ("<tr>" + "<td></td>" * 12 + "</tr>\n") * 8,
        "60 times &nbsp;": "&nbsp;" * 60,
        "a path of SVG": "M 0 0 " + "L 0 0 " * 60,
        "60 keys of null": "".join(f"key_{i}: null\n" for i in range(60)),
        "30 equal lines of a log": "INFO: retrying connection to server\n" * 30,
        "CAG, 100 times": "CAG" * 100,
        "300 bases A": "A" * 300,
        "a drum tab": "\n".join(f"{name}|{'o-x-' * 16}|" for name in ("HH", "SD", "BD")),
        "a scream": "A" + "a" * 300 + "h!",
        "no, 60 times": "no, " * 60,
        "a word, 100 times": "word " * 100,
        "hello, 100 times": "Hello, world!\n" * 100,
        "a line as a punishment": "I will not talk in class.\n" * 50,
        "a typist's page": "All work and no play makes Jack a dull boy.\n" * 30,
        "a tongue twister": "She sells sea shells by the sea shore. " * 10,
        "a song of one line": "Around the world, around the world\n" * 72,
        "a chorus": "Na, na na na na na na, na na na na, hey now\n" * 19,
        "a poem with a refrain": "".join(
            f"Verse {i} speaks of hills and of the sea,\nAnd the wind and the rain,\n\n"
            for i in range(8)
        ),
        "bottles of beer": "".join(
            f"{n} bottles of beer on the wall, {n} bottles of beer.\nTake one down, pass it "
            f"around, {n - 1} bottles of beer on the wall.\n\n"
            for n in range(99, 79, -1)
        ),
    }
