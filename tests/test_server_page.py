"""The web chat of the server: what is served, to whom, and under which policy. No browser is used;
`scripts/check_server_page.py` does that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from eftlocal import Recipe, Sampling
from eftlocal.logits.recipe_text import NAMED, recipes_of
from eftlocal.request import RequestDefaults, read_request
from eftlocal.server.access import Access
from eftlocal.server.app import Limits, make_app
from eftlocal.server.dials import dials_of
from eftlocal.server.page import STATIC
from eftlocal.server.presets import Presets
from eftlocal.server.setup import Setup
from eftlocal.sources import Sources

KEY = "a key"
FILES = sorted(path.name for path in STATIC.iterdir())
SCRIPTS = [path for path in STATIC.iterdir() if path.suffix == ".js"]
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.fixture(scope="module")
def client() -> TestClient:
    """Of a server whose models are not loaded."""
    setup = Setup(Sources.of_preset("demo", offline=True), 1)
    app = make_app(Presets({"demo": setup}), Limits())
    return TestClient(Access(app, "127.0.0.1", KEY), base_url="http://localhost:8080")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text inside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("script", "style"):
            self.inside += data.strip()


def addresses(elements: Elements) -> Iterator[str]:
    for _, attrs in elements.found:
        for name in ("src", "href", "action", "formaction", "srcset", "data"):
            if (value := attrs.get(name)) is not None:
                yield value


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_without_a_key(client: TestClient, name: str) -> None:
    response = client.get(f"/static/{name}")
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"] == TYPES[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in
                  response.headers["content-security-policy"].split(";"))  # fmt: skip
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert {value for key, value in policy.items() if key.endswith("-src")} == {"'none'", "'self'"}


def test_the_page_is_the_index(client: TestClient) -> None:
    response = client.get("/")
    assert response.text == (STATIC / "index.html").read_text("utf-8")
    assert "content-security-policy" in response.headers


def test_the_api_wants_the_key(client: TestClient) -> None:
    for path in ("/v1/models", "/v1/eftlocal/dials", "/props", "/static", "/statics/chat.js"):
        assert client.get(path).status_code == 401, path
    asked = client.post("/v1/chat/completions", json={"messages": []})
    assert asked.status_code == 401
    models = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert [model["id"] for model in models.json()["data"]] == ["demo", "demo:tuned", "demo:base"]
    wrong = client.get("/", headers={"Host": "evil.example"})
    assert wrong.status_code == 403


@pytest.mark.parametrize(
    "path",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "%2e%2e%2fapp.py", "..%5capp.py", "/etc/passwd",
     "x/../../app.py", "%2fetc%2fpasswd", "", ".", "index.html%00.js", "INDEX.HTML"],
)  # fmt: skip
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    response = client.get(f"/static/{path}")
    assert response.status_code in (401, 404)
    assert "error" in response.json()


def test_the_page_has_nothing_inline_and_asks_nobody_else() -> None:
    elements = Elements((STATIC / "index.html").read_text("utf-8"))
    assert not elements.inside
    for tag, attrs in elements.found:
        assert tag != "style" and "style" not in attrs and attrs.get("srcdoc") is None
        assert not [name for name in attrs if name.startswith("on")]
    there = {name.removeprefix("/static/") for name in addresses(elements)}
    assert there == {"icon.svg", "chat.css", "chat.js"}
    for name in FILES:
        text = (STATIC / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w|@import|url\(|data:[a-z]+/", text), name


def test_no_text_can_become_an_element() -> None:
    ways = (
        r"HTML|document\.write|DOMParser|srcdoc|ContextualFragment|\beval\b|\bFunction\(|setTimeout"
    )
    for path in SCRIPTS:
        assert not re.search(ways, path.read_text("utf-8")), path.name


def test_the_scripts_find_what_they_name() -> None:
    ids = {attrs["id"] for _, attrs in
           Elements((STATIC / "index.html").read_text("utf-8")).found if "id" in attrs}  # fmt: skip
    texts = {path.name: path.read_text("utf-8") for path in SCRIPTS}
    exported = {
        name: set(
            re.findall(r"^export (?:async )?(?:const|class|function\*?) ([\w$]+)", text, re.M)
        )
        for name, text in texts.items()
    }
    imported = 0
    for text in texts.values():
        for names, file in re.findall(r'^import \{ (.+?) \} from "\./(.+?)";', text, re.M):
            assert set(names.split(", ")) <= exported[file]
            imported += 1
        named = set(re.findall(r'\$\("([^"]+)"\)', text))
        assert named <= ids | {"again"} and len(named) < 30
    assert imported > 5


def test_every_dial_is_told_as_a_request_takes_it() -> None:
    roles = ("base", "tuned", "reference")
    found = dials_of(Recipe.upscale(beta=1.2), Sampling(temperature=0.3), roles)
    assert found["recipe"] == found["recipes"][0]["name"] == "upscale"
    assert found["recipes"][0]["dials"][0]["value"] == 1.2
    assert found["sampling"][0]["name"] == "temperature" and found["sampling"][0]["value"] == 0.3
    asked = 0
    for recipe in found["recipes"]:
        dials = [*recipe["dials"], *found["sampling"]]
        assert recipe["does"] and all(dial["meaning"] for dial in dials)
        for end in (lambda dial: dial["usual"][0], lambda dial: dial["usual"][1],
                    lambda dial: dial["most"], lambda dial: dial["value"]):  # fmt: skip
            body = {"recipe": recipe["name"], **{dial["name"]: end(dial) for dial in dials}}
            request = read_request({"prompt": "Hi", **body}, defaults=RequestDefaults(roles=roles))
            assert request.recipe is not None and request.recipe.name == recipe["name"]
            asked += 1
    assert asked > 30


def test_a_recipe_that_only_its_preset_can_write_is_there_too() -> None:
    mixture = Recipe.interpolate(lambdas={"warm": 0.3, "plain": 0.7})
    found = dials_of(mixture, Sampling(), ("base", "warm", "plain", "reference"))
    first = found["recipes"][0]
    assert (found["recipe"], first["name"], first["dials"]) == ("interpolate", "interpolate", [])


def test_recipes_of_roles() -> None:
    assert recipes_of(["tuned"]) == ("tuned",)
    assert recipes_of(["tuned", "reference"]) == ("realign", "tuned", "reference")
    assert set(NAMED) - set(recipes_of(["base", "tuned", "reference", "unguided"])) == {
        "interpolate", "mix", "persona",
    }  # fmt: skip


def test_the_dials_of_a_server_that_runs() -> None:
    setup = Setup(Sources.of_preset("demo", offline=True), 1)
    with TestClient(make_app(Presets({"demo": setup}), Limits())) as client:
        whole = client.get("/v1/eftlocal/dials").json()
        assert whole["recipe"] == "upscale" and len(whole["recipes"]) > 5
        alone = client.get("/v1/eftlocal/dials?model=demo:tuned").json()
        assert (alone["recipe"], alone["recipes"]) == ("", [])
        assert alone["sampling"] == whole["sampling"]
        assert client.get("/v1/eftlocal/dials?model=nobody").status_code == 404
