"""What a hostile hub does, case by case, and what a download must make of each.

The tests run every case in their own process; scripts/check_hub.py runs the command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hostile_hub import CONTENT, SHA256, SIZE, Answer, Case, Change, Request

# What a hub can do --------------------------------------------------------------------------


def promising(**changes: str | None) -> Answer:
    """All is right but the headers of the answer to HEAD."""

    def answer(request: Request) -> None:
        if request.head and request.host == "hub" and not request.blob:
            told = {k: v and v.format(**places_of(request)) for k, v in changes.items()}
            request.promise(**told)
        else:
            request.rightly()

    return answer


def sending(send: Answer, **changes: str | None) -> Answer:
    """All is right but the storage's answer to GET; and, if said, the promises before it."""
    promise = promising(**changes)

    def answer(request: Request) -> None:
        if request.blob and not request.head:
            send(request)
        else:
            promise(request)

    return answer


def refusing(status: int, **headers: str) -> Answer:
    """The hub answers HEAD so, always."""

    def answer(request: Request) -> None:
        if request.head:
            request.say(status, {key.replace("_", "-"): value for key, value in headers.items()})
        else:
            request.rightly()

    return answer


def once(first: Answer) -> Answer:
    """The first HEAD is answered so, and all others rightly."""

    def answer(request: Request) -> None:
        (first if request.head and request.number == 1 else Request.rightly)(request)

    return answer


def listing(body: bytes | str, **headers: str) -> Answer:
    """The file is not there, and this is the answer to the question what is."""

    def answer(request: Request) -> None:
        if request.lists:
            text = body.encode() if isinstance(body, str) else body
            request.say(200, {key.replace("_", "-"): v for key, v in headers.items()}, text)
        else:
            request.say(404)

    return answer


def entries(*names: Any) -> str:
    return json.dumps([{"type": "file", "path": name, "size": 1} for name in names])


def listing_or(listed: Answer) -> Answer:
    """All is right but the list of files."""
    return lambda request: (listed if request.lists else Request.rightly)(request)


def endless_listing(request: Request) -> None:
    if request.lists:
        number = len(request.attacked.requests)
        link = f'<{request.hub}/api/models/owner/models/tree/main?cursor={number}>; rel="next"'
        request.list(f"file-{number}.gguf", link=link)
    else:
        request.say(404)


def listing_elsewhere(request: Request) -> None:
    if request.lists and request.host == "hub":
        request.list("a.gguf", link=f'<{request.other}/api/next>; rel="next"')
    elif request.lists:
        request.list("b.gguf")
    else:
        request.say(404)


def split_listing(*missing: int, count: int) -> Answer:
    """A split model of which the listing lacks some parts."""

    def answer(request: Request) -> None:
        if request.lists:
            parts = (i for i in range(1, count + 1) if i not in missing)
            request.list(*(f"model-{i:05}-of-{count:05}.gguf" for i in parts))
        else:
            request.rightly()

    return answer


def places_of(request: Request) -> dict[str, str]:
    """What an address in a case may be made of."""
    hosts = {name: urlsplit(getattr(request, name)).netloc for name in ("hub", "other")}
    return {
        "hub": request.hub,
        "other": request.other,
        "hub_host": hosts["hub"],
        "other_host": hosts["other"],
        "hub_port": hosts["hub"].rpartition(":")[2],
    }


def redirecting(location: str, status: int = 302) -> Answer:
    """HEAD is redirected there; what has been asked there is answered rightly."""

    def answer(request: Request) -> None:
        if "/resolve/" in request.path and request.head and request.host == "hub":
            to = location.format(**places_of(request))
            request.say(status, {"Location": to})
        elif request.head and request.host == "other":
            request.say(200, {"Content-Length": str(SIZE), "ETag": f'"{SHA256}"'})
        elif not request.head:
            request.send()
        else:
            request.promise()

    return answer


def loop(request: Request) -> None:
    request.say(302, {"Location": request.path + "x"})


def between_two(request: Request) -> None:
    other = request.other if request.host == "hub" else request.hub
    request.say(302, {"Location": other + request.path})


def two_locations(request: Request) -> None:
    request.raw("HTTP/1.1 302 -\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")


def renamed(request: Request) -> None:
    """A repository that has moved: a redirect that knows nothing of the file."""
    if request.head and "/owner/models/" in request.path:
        moved = request.path.replace("/owner/models/", "/new/name/")
        request.say(307, {"Location": moved})
    else:
        request.rightly()


def only_get_is_redirected(request: Request) -> None:
    if request.head:
        request.say(200, {"Content-Length": str(SIZE), "ETag": f'"{SHA256}"'})
    else:
        request.rightly()


def torn(*, again: Answer, at: int = 100_000) -> Answer:
    """The first GET breaks; the second, with a Range, is answered so."""

    def send(request: Request) -> None:
        if request.number == 1:
            request.say(200, {"Content-Length": str(SIZE), "ETag": '"storage"'}, CONTENT[:at])
        else:
            again(request)

    return send


def ranged(answer: Answer) -> Answer:
    """A Range is answered so, and the whole file rightly."""
    return lambda request: (answer if "Range" in request.headers else Request.send)(request)


def reset_once(request: Request) -> None:
    if request.number == 1:
        request.say(200, {"Content-Length": str(SIZE)}, CONTENT[:70_000])
        request.reset()
    else:
        request.send()


def changed_meanwhile(request: Request) -> None:
    """Another version, which the hub says nothing of, since the first GET."""
    if "Range" in request.headers and request.headers.get("If-Range") == '"storage"':
        whole(request, CONTENT[::-1], ETag='"newer"')
    elif "Range" in request.headers:
        request.send(CONTENT[::-1])
    else:
        request.send(CONTENT[::-1], ETag='"newer"')


def changed_and_careless(request: Request) -> None:
    """The same, from a server that knows no If-Range."""
    request.send(CONTENT[::-1], ETag='"newer"')


def whole(request: Request, body: bytes = CONTENT, **changes: str | None) -> None:
    changed = {key.replace("_", "-"): value for key, value in changes.items()}
    request.say(200, {"ETag": '"storage"', **changed}, body)


def whole_headers(request: Request) -> None:
    request.say(200, {"Content-Length": str(SIZE)})


def whole_as_a_range(request: Request) -> None:
    request.send(status=206, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}")


def chunked(request: Request, *chunks: bytes, end: bool = True) -> None:
    request.say(200, {"Content-Length": None, "Transfer-Encoding": "chunked"})
    for chunk in chunks:
        request.raw(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    if end:
        request.raw(b"0\r\n\r\n")


def without_end(request: Request) -> None:
    request.say(200, {"Content-Length": None})
    request.drip(CONTENT, 0)


def then(*steps: Any) -> Answer:
    """Raw bytes and what to do after them, in turn."""

    def answer(request: Request) -> None:
        for step in steps:
            request.raw(step) if isinstance(step, (bytes, str)) else step(request)

    return answer


def dripping(piece: bytes) -> Answer:
    return lambda request: request.drip(piece)


def hundred_bytes(request: Request) -> None:
    """What was asked for, but a hundred bytes of it and no more."""
    start = int(request.headers.get("Range", "bytes=0-")[6:-1])
    span = f"bytes {start}-{SIZE - 1}/{SIZE}" if start else None
    told = {"Content-Range": span, "Content-Length": str(SIZE - start)}
    request.say(206 if start else 200, told, CONTENT[start : start + 100])


def page(request: Request) -> None:
    whole(request, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")


# What may lie in the models folder ----------------------------------------------------------

HERE = Path("owner", "models", "main")


def place(make: Callable[[Path, Path], None], name: str = "model.gguf.part") -> Change:
    """Something of that name lies where the download would."""

    def before(store: Path, outside: Path) -> None:
        (store / HERE).mkdir(parents=True)
        make(store / HERE / name, outside)

    return before


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "precious")


def dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "made")


def hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "precious")


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def linked_folder(store: Path, outside: Path) -> None:
    store.mkdir()
    (store / "owner").symlink_to(outside)


def file_for_a_folder(store: Path, _: Path) -> None:
    store.write_text("a file")


def nested_note(path: Path, _: Path) -> None:
    path.write_text("[" * 100_000)


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {SIZE}\n".encode()
PLAIN = {"X_Linked_Etag": '"abc"'}  # the hub knows no checksum
PART = "model-00001-of-00003.gguf"

OK = "HTTP/1.1 200 -\r\n"


def each(prefix: str, common: dict[str, Any], rows: list[tuple[Any, ...]]) -> Iterator[Case]:
    """Cases of one kind; a row is a name, an answer, what is said, and fields of its own."""
    for name, answer, says, *own in rows:
        yield Case(prefix + name, answer, says, **(common | (own[0] if own else {})))


CASES = [
    # Where the token goes: to the hub's own scheme, host and port, and nowhere else
    Case("the storage is another server", Request.rightly, ""),
    Case("GET alone is redirected", only_get_is_redirected, ""),
    Case("a renamed repository", renamed, ""),
    Case("HEAD goes to another server", redirecting("{other}/blob"), ""),
    Case("HEAD goes on without a scheme", redirecting("//{other_host}/blob"), ""),
    Case("HEAD goes on with a user's name", redirecting("http://u@{other_host}/x"), "user's name"),
    Case("HEAD goes on behind an @", redirecting("http://{hub_host}@{other_host}/"), "user's name"),
    Case("HEAD goes on with a backslash", redirecting("http://{hub_host}\\@{other_host}/"), "."),
    Case(
        "HEAD goes to the hub by another name", redirecting("http://localhost:{hub_port}/blob"), ""
    ),
    Case("a listing goes on elsewhere", listing_elsewhere, "nearest of the 2"),
    Case(
        "the hub's name in capitals", Request.rightly, "", endpoint="HTTP://LOCALHOST:{hub_port}/"
    ),
    Case(
        "a hub with a password", Request.rightly, "", endpoint="http://a:b@{hub_host}", token=False
    ),
    # Addresses
    *each("Location: ", {"requests": 1}, [
        ("none", refusing(302), "gives 0 addresses"),
        ("two", two_locations, "gives 2 addresses"),
        ("broken IPv6", promising(Location="http://[::1"), "cannot be read"),
        ("port 99999", promising(Location="http://127.0.0.1:99999/"), "neither http"),
        ("port x", promising(Location="http://h:x/"), "cannot be read"),
        ("a file", promising(Location="file:///etc/passwd"), "neither http"),
        ("ftp", promising(Location="ftp://127.0.0.1/x"), "neither http"),
        ("data", promising(Location="data:,GGUF"), "neither http|cannot be read"),
        ("controls", promising(Location="http://h/\x01\x1b[2J"), "cannot be read"),
    ]),
    *each("Location: ", {}, [
        ("no host", promising(Location="http:///x"), ""),
        ("60,000 letters", promising(Location="{other}/" + "a" * 60_000), ""),
        ("not text", promising(Location="http://\xff\xfe\xfd/"), "."),
        ("a bad name", promising(Location="http://" + "a" * 300 + "/"), "."),
        ("nobody there", promising(Location="http://127.0.0.1:1/"), "gave up after 6 tries",
         {"requests": 6, "slow": True}),
        ("https where http is", promising(Location="https://{other_host}/"), "secure"),
    ]),
    Case("redirects in a circle", loop, "more than 10 times", requests=11),
    Case("redirects to and fro", between_two, "more than 10 times", requests=11),
    Case("a hub that is no address", Request.rightly, "HF_ENDPOINT", endpoint="http://[::1"),
    Case("a hub that is a path", Request.rightly, "HF_ENDPOINT", endpoint="/models"),
    Case("a hub that is a file", Request.rightly, "HF_ENDPOINT", endpoint="file:///tmp"),
    Case("a hub with a password", Request.rightly, '"ftp://h"', endpoint="ftp://u:p@ss@h"),
    Case("a hub without TLS", Request.rightly, "secure", endpoint="https://{hub_host}"),
    Case("a hub that nobody is", Request.rightly, "gave up after 3", endpoint="http://127.0.0.1:1"),
    Case(
        "a hub without a name",
        Request.rightly,
        "no such host|gave up after 3",
        endpoint="http://no-such-host.invalid",
    ),
    # Promises
    *(
        Case(f"size: {size[:9]}", promising(X_Linked_Size=size), says, requests=1)
        for size, says in (
            *((size, f'a size of "{size}" bytes') for size in ("-7", "0", "big", "1e3", "NaN")),
            ("\xb2", 'a size of "²" bytes'),
            ("9" * 5000, 'a size of "999'),
            ("9" * 16, "PB|TB to download"),
        )
    ),
    Case("size: one less", promising(X_Linked_Size=str(SIZE - 1)), "promised"),
    Case("size: one more", promising(X_Linked_Size=str(SIZE + 1)), "promised"),
    Case("size: none", promising(X_Linked_Size=None), "does not say how long", requests=1),
    Case(
        "checksum: another", promising(X_Linked_Etag='"' + "0" * 64 + '"'), "not the expected 0000"
    ),
    Case("checksum: none", promising(X_Linked_Etag=None), ""),
    Case("ETag: 60,000 letters", promising(X_Linked_Etag='"' + "e" * 60_000 + '"'), ""),
    Case("ETag: controls", promising(X_Linked_Etag='"\x1b[2J"'), ""),
    Case("commit: a path", promising(X_Repo_Commit="../../../outside"), ""),
    Case("headers: 200 kB", promising(X_Junk="j" * 200_000), "gave up after 3"),
    # Refusals
    *(
        Case(f"HEAD: {status}", refusing(status), says, requests=2)
        for status, says in {
            400: "answered 400",
            401: "hf auth login",
            403: "accept the licence",
            404: "no such file",
            405: "answered 405",
            410: "410 .Gone",
            451: "451 .Unavailable",
            501: "answered 501",
            505: "answered 505",
            204: "answered 204",
            206: "answered 206",
            304: "answered 304",
            300: "answered 300",
            999: "answered 999",
        }.items()
    ),
    *(
        Case(f"HEAD: {status}", refusing(status), f"gave up after 3 .*answered {status}")
        for status in (408, 425, 429, 500, 502, 503, 504, 520)
    ),
    Case("gated", refusing(403, X_Error_Code="GatedRepo"), "accept the licence", requests=1),
    Case("no repository", refusing(404, X_Error_Code="RepoNotFound"), "no repository", requests=1),
    Case("no revision", refusing(404, X_Error_Code="RevisionNotFound"), "no revision", requests=1),
    *(
        Case(f"Retry-After: {wait}", once(refusing(429, Retry_After=wait)), "", requests=4)
        for wait in (
            "\xb2",
            "-5",
            "NaN",
            "1e9",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wed, 99 Oct 99999 07:28:00 GMT",
            "\x1b[2J",
            "9" * 5000,
            "",
        )
    ),
    *(
        Case(
            f"storage: {status}",
            sending(lambda r, s=status: r.say(s)),
            f"answered {status}",
            requests=4,
        )
        for status in (401, 403, 404, 410)
    ),
    *(
        Case(f"storage: {status}", sending(lambda r, s=status: r.say(s)), f"answered {status}")
        for status in (400, 405, 416, 451, 501, 204, 304)
    ),
    Case("storage: 503", sending(lambda r: r.say(503)), "gave up after 6", requests=12, slow=True),
    # Listings
    *(
        Case(f"listing: {what}", listing(body), says, requests=2)
        for what, body, says in (
            ("nothing", "", "see http"),
            ("a number", "7", "see http"),
            ("null", "null", "see http"),
            ("an object", '{"error": "no"}', "see http"),
            ("a list of words", '["a.gguf"]', "see http"),
            ("a list of lists", "[[[]]]", "see http"),
            ("no names", '[{"type": "file"}]', "see http"),
            ("names of numbers", entries(7), "see http"),
            ("names of NaN", '[{"type": "file", "path": NaN}]', "see http"),
            ("no types", '[{"path": "a.gguf"}]', "no .gguf file at all"),
            ("nested 100,000 deep", "[" * 100_000, "see http"),
            ("an integer of 10,000 digits", "[" + "9" * 10_000 + "]", "see http"),
            ("not UTF-8", b"[\xff\xfe]", "see http"),
            ("a web page", "<html>", "see http"),
            ("twice the same", entries("a.gguf", "a.gguf"), "nearest of the 1 .gguf"),
            ("names that leave", entries("../a.gguf", "/a.gguf", "a/../../b.gguf"), "no .gguf"),
            ("names of Windows", entries("C:\\a.gguf", "a\\b.gguf", "nul.gguf"), "no .gguf"),
            (
                "names that drive",
                entries("\x1b[2Ja.gguf", "a\nb.gguf", "\0.gguf", "\u202e.gguf", "\ud800.gguf"),
                "no .gguf",
            ),
            ("empty names", entries("", ".", "a//b.gguf"), "no .gguf"),
            ("long names", entries("a" * 5000 + ".gguf"), "no .gguf"),
            ("20 MB", "[" + " " * 20_000_000 + "]", "see http"),
        )
    ),
    Case(
        "listing: 9,000 long names",
        listing(entries(*(f"{i}" + "ab" * 100 + ".gguf" for i in range(9000)))),
        "nearest of the 2000",
        requests=2,
    ),
    Case("listing: compressed", listing(b"\x1f\x8b\x08", Content_Encoding="gzip"), "see http"),
    Case("listing: without end", endless_listing, "nearest of the 20", requests=21),
    Case(
        "listing: goes on at no address",
        listing("[]", Link='<http://[::1>; rel="next"'),
        "see http",
    ),
    Case("listing: goes on at a file", listing("[]", Link='<file:///etc>; rel="next"'), "see http"),
    Case("listing: goes on in nonsense", listing("[]", Link="<<<,;rel=next"), "no .gguf"),
    # Parts of split models
    *(
        Case(f"parts: {i} of {n}", Request.rightly, f"no part {i} of {n}",
             file=f"m-{i:05}-of-{n:05}.gguf", requests=0, code=2)
        for i, n in ((1, 99_999), (1, 0), (0, 2), (3, 2))
    ),
    Case("parts: 512 are missing", Request.rightly, "512 of 512 parts are not there",
         file="model-00001-of-00512.gguf", requests=1),
    *each("parts: ", {"file": PART, "requests": 1}, [
        ("one is missing", split_listing(2, count=3), "model-00002-of-00003.gguf"),
        ("a listing of nonsense", listing_or(lambda r: r.say(200, {}, b"7")), "list of files"),
        ("all are there", split_listing(count=3), "", {"requests": 10}),
        ("no listing", listing_or(lambda r: r.say(404)), "", {"requests": 10}),
    ]),
    # Names in a preset
    *(
        Case(
            f"file: {name!a:.30}",
            Request.rightly,
            "not a path inside|unfinished",
            file=name,
            requests=0,
            code=2,
        )
        for name in (
            "../x.gguf",
            "/x.gguf",
            "a/../x.gguf",
            "a\\x.gguf",
            "C:/x.gguf",
            "nul.gguf",
            "a//x.gguf",
            "./x.gguf",
            "x.gguf.",
            "\u202ex.gguf",
            "x" * 300,
            "a\x1b.gguf",
            "x.gguf.part",
            "x.gguf.lock",
            "https://h/x.gguf",
        )
    ),
    *(
        Case(
            f"revision: {name!a}",
            Request.rightly,
            "not a path inside",
            pin=f'revision = "{name}"',
            requests=0,
            code=2,
        )
        for name in ("../..", "/main", "a//b", "main/", "con")
    ),
    Case("revision: refs/pr/1", Request.rightly, "", pin='revision = "refs/pr/1"'),
    # Bodies
    *each("body: ", {"requests": 2}, [
        ("a web page", sending(page), "a web page"),
        ("a web page, unknown", sending(page, **PLAIN), "a web page"),
        ("LFS pointer", sending(lambda r: whole(r, LFS), X_Linked_Size=str(len(LFS)), **PLAIN),
         "Git LFS", {"requests": 3}),
        ("empty", sending(lambda r: whole(r, b"")), "promised"),
        ("compressed", sending(lambda r: whole(r, Content_Encoding="gzip")), "compressed"),
        ("one byte less", sending(lambda r: whole(r, CONTENT[:-1])), "promised"),
        ("one byte more", sending(lambda r: whole(r, CONTENT + b"!")), "promised"),
        ("without end", sending(without_end), "more than the"),
    ]),
    *each("body: ", {}, [
        ("other bytes", sending(lambda r: whole(r, CONTENT[::-1])), "not the expected"),
        ("other bytes, unknown", sending(lambda r: whole(r, CONTENT[::-1]), **PLAIN), ""),
        ("chunks", sending(lambda r: chunked(r, CONTENT)), ""),
        ("one chunk more", sending(lambda r: chunked(r, CONTENT, b"!")), "more than the"),
        ("cut in the middle", sending(torn(again=Request.send)), "", {"requests": 5}),
        ("reset in the middle", sending(reset_once), "", {"requests": 5}),
        ("100 bytes a connection", sending(hundred_bytes),
         "gave up after 6 tries without progress", {"requests": 12, "slow": True}),
    ]),
    *(
        Case(f"body: {what}", sending(then(f"HTTP/1.1 200 -\r\n{rest}")), "gave up after 6",
             requests=12, slow=True)
        for what, rest in (
            ("chunks of nonsense", "Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            ("length of letters", "Content-Length: x\r\n\r\n"),
            ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
            ("a negative length", "Content-Length: -1\r\n\r\n"),
        )
    ),
    # Ranges
    Case("range: 206 unasked", sending(lambda r: r.send(status=206)), "another range"),
    Case("range: 206 unasked, rightly", sending(whole_as_a_range), ""),
    Case("range: 200", sending(torn(again=whole)), "", requests=5),
    *each("range: ", {"requests": 7}, [
        *(
            (what, sending(torn(again=ranged(lambda r, t=text: r.send(Content_Range=t)))), "")
            for what, text in (
                ("none", None),
                ("empty", ""),
                ("from 0", f"bytes 0-{SIZE - 1}/{SIZE}"),
                ("of another file", "bytes 100000-100001/100002"),
                ("of letters", "bytes a-b/c"),
                ("in lines", f"lines 100000-{SIZE - 1}/{SIZE}"),
                ("of a power", "bytes \xb2-\xb3/\xb9"),
            )
        ),
        ("416", sending(torn(again=ranged(lambda r: r.say(416)))), ""),
        ("416 always", sending(lambda r: r.say(416)), "answered 416", {"requests": 2}),
        ("another version, unknown", sending(torn(again=changed_meanwhile), **PLAIN), ""),
        ("another version", sending(torn(again=changed_meanwhile)), "not the expected",
         {"requests": 9}),
        ("another version, unknown, no If-Range",
         sending(torn(again=changed_and_careless), **PLAIN), ""),
    ]),
    # Not HTTP
    *each("", {}, [
        ("nothing is said", lambda r: r.connection.close(), "gave up after 3"),
        ("reset at once", Request.reset, "gave up after 3"),
        ("nonsense is said", then(b"\x00\xff\x1b[2J\r\n\r\n"), "gave up after 3"),
        ("another protocol is said", then("SSH-2.0-OpenSSH\r\n"), "gave up after 3"),
        ("status of letters", then("HTTP/1.1 abc -\r\n\r\n"), "gave up after 3"),
        ("headers without end", then(OK, dripping(b"A: b\r\n" * 20_000)), "gave up after 3"),
        ("100 Continue without end", then(dripping(b"HTTP/1.1 100 -\r\n\r\n" * 100)),
         "gave up after 3", {"slow": True}),
    ]),
    # Slow
    *each("slow: ", {"requests": 12, "slow": True}, [
        ("no answer", Request.hold, "timed out|no answer within", {"requests": 3}),
        ("headers drip", then(OK, dripping(b"x")), "timed out|no answer within", {"requests": 3}),
        ("a listing drips",
         lambda r: then(OK + "\r\n[", dripping(b" "))(r) if r.lists else r.say(404),
         "see http", {"requests": 2}),
        ("the body drips", sending(then(whole_headers, dripping(b"x"))), "of waiting|timed out"),
        ("chunks' ends drip",
         sending(then(OK + "Transfer-Encoding: chunked\r\n\r\n", dripping(b"0"))),
         "gave up after 6"),
        ("the body stops", sending(then(whole_headers, CONTENT[:90_000], Request.hold)),
         "are kept, run it again", {"requests": 20}),
    ]),
    # The models folder
    *(
        Case(f"folder: {what}", Request.rightly, says, before=before, requests=1)
        for what, before, says in (
            ("the part is a link", place(link), "symbolic link"),
            ("the part is a dangling link", place(dangling_link), "symbolic link"),
            ("the part is another's file", place(hard_link), "another name"),
            ("the part is a pipe", place(fifo), "not a regular file"),
            ("the part is a folder", place(folder), "model.gguf.part"),
            ("the lock is a link", place(link, "model.gguf.lock"), "symbolic link"),
            (
                "the lock is a dangling link",
                place(dangling_link, "model.gguf.lock"),
                "symbolic link",
            ),
            ("the lock is a pipe", place(fifo, "model.gguf.lock"), "not a regular file"),
            ("the note is a link", place(dangling_link, "model.gguf.part.json"), "symbolic link"),
            ("the note is a pipe", place(fifo, "model.gguf.part.json"), "not a regular file"),
            ("the file is a pipe", place(fifo, "model.gguf"), "not a regular file"),
            ("the file is a folder", place(folder, "model.gguf"), "a folder|not a regular file"),
            ("a folder leads out", linked_folder, "leads out of"),
            ("it is a file", file_for_a_folder, "store"),
        )
    ),
    Case(
        "folder: a dangling link is the file",
        Request.rightly,
        "",
        before=place(dangling_link, "model.gguf"),
    ),
    Case(
        "folder: a note nested 100,000 deep",
        Request.rightly,
        "",
        before=place(nested_note, "model.gguf.part.json"),
    ),
]  # fmt: skip
