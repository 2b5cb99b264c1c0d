"""The report in a real browser: it works, asks nobody for anything, and takes names as data."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsediff import SeriesStats
from sparsediff.errors import SparsediffError, UsageError
from tests.conftest import Run
from tests.report.conftest import HOSTILE
from tests.report.test_values import many
from tests.support.chromium import PROGRAM, Page, browser
from tests.support.limits import limited
from tests.support.pairs import training_pair, write_safetensors

pytest.importorskip("vl_convert")
from sparsediff.report import check_outputs, page, write_page, write_plot

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def report(series: SeriesStats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(series, path)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as shown:
        yield shown


@pytest.fixture
def shown(chromium: Page, report: Path) -> Page:
    """The report, freshly opened."""
    chromium.look(1240)
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.open(report)
    return chromium


def names_shown(shown: Page) -> list[str]:
    found = shown.run(
        "[...document.querySelectorAll('#tensors tbody tr:not(.space)')]"
        ".map((r) => r.firstChild.textContent)"
    )
    assert isinstance(found, list)
    return found


@needs_browser
def test_it_draws_everything_and_asks_for_nothing(shown: Page) -> None:
    n_figures = shown.run("document.querySelectorAll('[data-figure]').length")
    assert n_figures >= 10
    drawn = shown.run(
        "[...document.querySelectorAll('[data-figure]:has(svg)')]"
        ".map((f) => [f.ariaLabel, f.querySelectorAll('path').length])"
    )
    assert len(drawn) == n_figures
    for label, n_paths in drawn:
        assert len(label) > 20
        assert n_paths > 3
    assert shown.problems == []
    assert shown.requests == []


@needs_browser
def test_long_names_on_an_axis_show_their_ends(shown: Page) -> None:
    labels = shown.run(
        "[...document.querySelectorAll('[data-figure=\"tensors\"] svg text')]"
        ".map((t) => t.textContent)"
    )
    assert "…layers.2.self_attn.q_proj" in labels
    assert "…rs.2.mlp.experts.3.up_proj" in labels
    assert "model.norm" in labels


@needs_browser
def test_a_problem_and_a_request_would_be_noticed(chromium: Page, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<body><img src='missing.png'><script>console.error('oh');"
        "onload = () => { document.body.dataset.ready = 'yes' }</script>"
    )
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.open(path)
    assert any("oh" in p for p in chromium.problems)
    assert [r.rpartition("/")[2] for r in chromium.requests] == ["missing.png"]


@needs_browser
def test_names_are_text(shown: Page) -> None:
    assert shown.run("typeof pwned") == "undefined"
    assert shown.run("document.images.length") == 0
    assert shown.run("document.scripts.length") == 3
    assert set(HOSTILE) <= set(names_shown(shown))
    text = shown.run("document.querySelector('#figure-tensors svg').textContent")
    assert "<script>pwned" in text


@needs_browser
def test_table_sorts_and_filters_from_the_keyboard(shown: Page, series: SeriesStats) -> None:
    stored = [t.name for t in series.tensors]
    assert names_shown(shown) == stored
    shown.run("document.querySelectorAll('#tensors button')[1].focus()")
    density = series.n_changed.sum(0).tolist()  # all tensors have the same size
    for way, sign in (("descending", -1), ("ascending", 1)):
        shown.press("Enter")
        assert shown.run("document.querySelectorAll('#tensors th')[1].ariaSort") == way
        order = sorted(range(len(stored)), key=lambda i: (sign * density[i], i))
        assert names_shown(shown) == [stored[i] for i in order]
    shown.run("document.getElementById('filter').focus()")
    shown.type("EXPERTS.2")
    found = names_shown(shown)
    assert sorted(found) == sorted(n for n in stored if "experts.2" in n)
    said = shown.run("document.getElementById('shown').textContent")
    assert said == f"3 of {len(stored)} tensors"
    shown.type(" <none>")
    assert names_shown(shown) == []


@needs_browser
def test_slider_moves_the_figures(shown: Page) -> None:
    table = "document.querySelector('#cost-table tbody').innerText"
    line = "document.querySelector('#figure-costs .mark-rule.role-mark line')"
    rule = f"{line}.getAttribute('transform')"
    text = "document.getElementById('{}-text').textContent"
    times, place, size = (shown.run(e) for e in (table, rule, text.format("size")))
    assert shown.run(text.format("bandwidth")) == "1 Gbit/s"
    shown.run("document.getElementById('bandwidth').focus()")
    for _ in range(20):
        shown.press("ArrowRight")
    assert shown.run(text.format("bandwidth")) == "10 Gbit/s"
    assert shown.run(table) != times
    shown.wait_for(f"{rule} !== {json.dumps(place)}")
    faster = shown.run(table)
    shown.run("document.getElementById('size').focus()")
    shown.press("ArrowRight")
    assert shown.run(text.format("size")) != size
    assert shown.run(table) != faster
    assert shown.problems == []


_CONTRAST = """(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => {
      v = v / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const card = light(getComputedStyle(document.querySelector('figure')).backgroundColor);
  const texts = [...document.querySelectorAll(
    'h1, dt, figcaption, td, th button, svg text, footer')];
  return Math.min(...texts.map((t) => {
    const style = getComputedStyle(t);
    const ink = light(t instanceof SVGElement ? style.fill : style.color);
    return (Math.max(ink, card) + 0.05) / (Math.min(ink, card) + 0.05);
  }));
})()"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_in_light_and_dark(chromium: Page, report: Path, dark: bool) -> None:
    chromium.look(1240, dark=dark)
    chromium.open(report)
    assert chromium.run(_CONTRAST) >= 4.5
    paper = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(18, 21, 28)") == dark


def n_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@needs_browser
def test_fits_a_phone_and_paper(chromium: Page, report: Path) -> None:
    chromium.look(360, 740)
    chromium.open(report)
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    widths = chromium.run(
        "[...document.querySelectorAll('.chart svg')].map((s) => s.getBoundingClientRect().width)"
    )
    assert all(200 < w <= 360 for w in widths)
    chromium.look(1240)
    assert 2 < n_pages(chromium.pdf()) < 8


@needs_browser
@pytest.mark.slow
def test_a_hundred_thousand_tensors(chromium: Page, tmp_path: Path) -> None:
    write_page(many(100_000, 3), tmp_path / "many.html")
    chromium.look(1240)
    chromium.open(tmp_path / "many.html")
    assert chromium.run("document.querySelectorAll('#tensors tr').length") < 100
    assert n_pages(chromium.pdf()) < 8
    chromium.run("document.getElementById('scroll').scrollTop = 1e9")
    chromium.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert names_shown(chromium)[-1] == "layers.199.experts.499.w"
    chromium.run("document.querySelectorAll('#tensors button')[1].focus()")
    chromium.press("Enter")
    assert len(names_shown(chromium)) > 10
    chromium.run("document.getElementById('filter').focus()")
    chromium.type("layers.7.experts.123.")
    assert names_shown(chromium) == ["layers.7.experts.123.w"]


def test_names_cannot_end_a_script(report: Path, series: SeriesStats) -> None:
    text = report.read_text()
    assert "<script>pwned" not in text
    assert "</script><img" not in text
    assert len(re.findall(r"<script\b", text)) == len(re.findall(r"</script>", text)) == 3
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data)["columns"]["tensor"] == [t.name for t in series.tensors]


def test_same_series_same_page(series: SeriesStats) -> None:
    assert page(series) == page(series)


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<svg"), (".pdf", b"%PDF")],
)
def test_figures_as_files(series: SeriesStats, tmp_path: Path, suffix: str, start: bytes) -> None:
    output = tmp_path / f"figures{suffix}"
    write_plot(series, output)
    assert output.read_bytes().startswith(start)


@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_a_disk_that_is_full_is_an_error_of_the_file(
    series: SeriesStats, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"figures{suffix}"
    write = write_page if suffix == ".html" else write_plot
    with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(SparsediffError) as found:
        write(series, output)
    assert found.value.file == output
    assert not list(tmp_path.iterdir())


def test_outputs_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        check_outputs(html=there)
    check_outputs(html=there, force=True)
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        check_outputs(plot=tmp_path / "x.gif")
    assert there.read_text() == "mine"


def test_from_the_command_line(cli: Run, tmp_path: Path) -> None:
    """One step of two checkpoints is a series too, and one in which nothing changed as well."""
    tensors = [training_pair(3000, lr)[1] for lr in (1e-6, 1e-5)]
    a, b = (write_safetensors(tmp_path / n, {"w": w}) for n, w in zip("ab", tensors, strict=True))
    html, plot = tmp_path / "r.html", tmp_path / "r.svg"
    code, out, err = cli("stats", a, b, "--html", html, "--plot", plot, "--bandwidth", "100Mbps")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("target")
    assert '"bandwidth": 100000000.0' in html.read_text()
    assert cli("stats", a, b, "--html", html)[0] == 2
    assert cli("stats", a, a, "--html", html, "-f")[0] == 0
    assert cli("stats", a, b, "--plot", tmp_path / "r.gif")[0] == 2
    assert cli("stats", a, "--html", html)[0] == 2


def test_python_of_the_how_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_of_docs = Path(__file__).parents[2] / "docs" / "howto.md"
    (code,) = re.findall(r"```python\n(.*?)```", page_of_docs.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        write_safetensors(Path(f"step_{100 + i}/m"), {"w": training_pair(3000, (1 + i) * 1e-5)[1]})
    exec(code, {})
    assert Path("report.html").stat().st_size > 500_000
    assert Path("figures.svg").exists()
