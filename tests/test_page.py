"""The HTML report: what it says, that it fetches nothing, and that a real browser can click through it."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from seeded.programs import PROGRAMS
from torch import Tensor, nn

from linrec.cli import main
from linrec.debug import optimize
from linrec.debug.dynamics import block_errors, dynamics
from linrec.debug.notation import equations
from linrec.debug.page import report_page
from linrec.debug.picture import HEIGHT, WIDTH, layout, picture
from linrec.text import parse

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Net(nn.Module):
    """Two recurrences: one linear, one not."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.5, 0.9, -0.25]))

    def forward(self, x: Tensor) -> Tensor:
        """Batch, time, 3."""
        h, g = x.new_zeros(x.shape[0], 3), x.new_zeros(x.shape[0], 3)
        ys = []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t]
            g = torch.tanh(g + h)  # a line of mine
            ys.append(g)
        return torch.stack(ys, 1)


@pytest.fixture(scope="module")
def text() -> str:
    torch.manual_seed(0)
    return report_page(Net(), [torch.randn(2, 48, 3)])


class Tags(HTMLParser):
    """Open tags, and every address that the page could fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "data", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == [] and tags.addresses == []
    assert "//" not in re.sub(r"<script>.*</script>|// .*", "", text, flags=re.S).replace("%h", "")
    assert "@import" not in text and "url(http" not in text


def test_the_page_says_what_was_found(text: str) -> None:
    assert "2 recurrences, 1 converted, 1 left as written" in text
    assert '<section class="card recurrence" id="r0"' in text and "LR1204" in text
    assert "h = self.a * h + x[:, t]" in text
    assert '<math display="block">' in text
    assert text.count('class="pole"') == 3 and "|z| = 0.9;" not in text and "the largest |z| = 0.9\n" in text
    assert "forms considered" in text and "<b>" in text
    assert text.count('class="bar"') == 16 and "beyond" not in text.partition("</style>")[2]
    assert "agrees" in text and "choose-form" in text


def test_redacted_pages_hold_no_source() -> None:
    text = report_page(Net(), [torch.randn(2, 48, 3)], redact=True)
    assert "self.a" not in text and "a line of mine" not in text and "torch.tanh(" not in text
    assert "test_page.py:" in text  # where, but not what


def test_programs_that_cannot_be_captured_have_a_page() -> None:
    def branching(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            if h.sum() > 0:
                h = 0.5 * h
            h = h + x[:, t]
        return h

    text = report_page(branching, [torch.randn(2, 12, 3)])
    assert "LR0301" in text and "<svg" not in text.partition("</style>")[2]


@pytest.mark.parametrize("name", PROGRAMS)
def test_pictures_hold_every_value_once_and_none_overlap(name: str) -> None:
    graph = optimize(parse(PROGRAMS[name]), ["find-recurrences"])
    places = list(layout(graph).values())
    for i, (x, y) in enumerate(places):
        assert all(abs(x - a) >= WIDTH or abs(y - b) >= HEIGHT for a, b in places[:i])
    drawn = picture(graph, "g")
    for op in graph.ops:
        assert drawn.count(f'data-name="{op.result}"') == 1
    delayed = sum(1 for op in graph.ops for use in {*op.uses()} if use.delay)
    assert drawn.count("edge delayed") == delayed


def test_formulas() -> None:
    def written(name: str) -> list[str]:
        graph = optimize(parse(PROGRAMS[name]), ["find-recurrences", "prove-linear"])
        return [str(e).replace(" ", "") for r in graph.recurrences for e in equations(graph, r)]

    assert written("leaky") == ["Eq(h[t],(a*h[t-1])+u[t])"] or written("leaky") == ["Eq(h[t],a*h[t-1]+u[t])"]
    (second,) = written("resonator")
    assert "1.5*h[t-1]" in second and "h[t-2]" in second and "u[t]" in second
    assert len(written("mixed")) == 1


def test_dynamics_are_those_of_the_parameters() -> None:
    graph = optimize(parse(PROGRAMS["resonator"]), ["find-recurrences", "prove-linear"])
    inputs = {"x": torch.randn(2, 9), "h1": torch.randn(2), "h2": torch.randn(2)}
    known = dynamics(graph, graph.recurrences[0], inputs)
    assert known is not None
    # z^2 = 1.5 z - 0.75
    assert sorted(round(abs(p), 9) for p in known.poles) == [round(math.sqrt(0.75), 9)] * 2
    wanted = [1.0, 1.5]
    for _ in range(126):
        wanted.append(1.5 * wanted[-1] - 0.75 * wanted[-2])
    assert known.response[0] == pytest.approx(wanted)
    gated = optimize(parse(PROGRAMS["gated"]), ["find-recurrences", "prove-linear"])
    assert dynamics(gated, gated.recurrences[0], {}) is None


def test_errors_are_told_by_block_of_time() -> None:
    wanted = torch.ones(2, 40, 3)
    made = wanted.clone()
    made[1, 25, 2] += 0.5
    values, labels, allowed = block_errors(wanted, made, 40)
    assert len(values) == len(labels) == 16 and values.count(0.0) == 15
    assert values[10] == pytest.approx(0.5) and 0 < allowed < 1e-3


# ---- a real browser ----

CLICKS = """
<script>
const heard = {};
const click = e => e.dispatchEvent(new MouseEvent('click', { bubbles: true }));
const shown = () => [...document.querySelectorAll('svg.graph')].filter(s => !s.hasAttribute('hidden')).map(s => s.id);
window.onerror = message => { heard.error = message; };
heard.first = shown();
click(document.querySelector('#before .node[data-name="h"]'));
heard.detail = document.getElementById('detail').textContent;
heard.near = [...document.querySelectorAll('#before .node.near')].map(n => n.dataset.name).sort();
heard.marked = [...document.querySelectorAll('.marked')].map(r => r.textContent.trim());
document.querySelector('.tools button').click();
heard.zoomed = document.querySelector('#before .all').getAttribute('transform');
document.querySelector('#before').dispatchEvent(new WheelEvent('wheel', { deltaY: -1, bubbles: true, cancelable: true, clientX: 400, clientY: 400 }));
heard.wheeled = document.querySelector('#before .all').getAttribute('transform');
document.querySelectorAll('.tools button')[2].click();
heard.fitted = document.querySelector('#before .all').getAttribute('transform');
document.querySelectorAll('.tabs button')[1].click();
heard.second = shown();
heard.boxes = [...document.querySelectorAll('#after .node rect')].every(r => r.getBoundingClientRect().width > 5);
heard.formula = document.querySelector('math').getBoundingClientRect().width;
document.title = JSON.stringify(heard);
</script>
</body>"""


def browse(folder: Path, page: str, *flags: str) -> str:
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", *flags]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@needs_browser
def test_a_browser_clicks_through_the_page(text: str, tmp_path: Path) -> None:
    dom = browse(tmp_path, text.replace("</body>", CLICKS), "--window-size=1300,1600", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title
    heard = json.loads(title[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"'))
    assert "error" not in heard
    assert (heard["first"], heard["second"]) == (["before"], ["after"])
    assert heard["detail"].startswith("%h = add(") and "test_page.py:" in heard["detail"] and "in r0" in heard["detail"]
    assert {"h", "mul", "add"} <= set(heard["near"]) and "a" not in heard["near"]
    assert any("h = self.a * h + x[:, t]" in row for row in heard["marked"])
    assert "scale(1.4)" in heard["zoomed"] and "scale(1.6" in heard["wheeled"]
    assert heard["fitted"] == "translate(0 0) scale(1)"
    assert heard["boxes"] and heard["formula"] > 40


@needs_browser
def test_a_screenshot_has_the_colours_of_the_recurrences(text: str, tmp_path: Path) -> None:
    picture_file = tmp_path / "page.png"
    browse(tmp_path, text, "--window-size=1300,2400", f"--screenshot={picture_file}", "--hide-scrollbars")
    data = picture_file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (1300, 2400)
    assert len(data) > 40_000  # a blank page has a tenth of that


def test_the_command_writes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decay.py").write_text(
        "import torch\n\ndef decay(x):\n    h = torch.zeros_like(x[:, 0])\n"
        "    for t in range(x.shape[1]):\n        h = 0.5 * h + x[:, t]\n    return h\n"
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["report", "decay.py:decay", "--input", "f32[2,20,3]", "-o", "r.html"])
    assert result.exit_code == 0 and result.stderr.startswith("r.html: "), result.output
    assert "h = 0.5 * h + x[:, t]" in (tmp_path / "r.html").read_text()
    result = CliRunner().invoke(main, ["report", "decay.py:decay", "--input", "f32[2,20,3]", "-o", "no/r.html"])
    assert result.exit_code == 2
