"""Grids, plots and the report."""

from html.parser import HTMLParser
from pathlib import Path

import torch
from PIL import Image

from svq.evaluation.codebook import CodebookUse
from svq.evaluation.order import Order
from svq.evaluation.pictures import save_grid, save_prefixes, save_rows
from svq.evaluation.plots import plot_codebook, plot_order
from svq.evaluation.report import Section, write_report


def test_a_grid_shows_every_picture_enlarged_and_in_its_place(tmp_path: Path) -> None:
    images = torch.full((3, 3, 32, 32), -1.0)
    images[1] = 1.0
    save_grid(tmp_path / "g.png", images, columns=2)
    with Image.open(tmp_path / "g.png") as image:
        grid = image.convert("RGB")
    assert grid.size == (2 * (64 + 2) + 2, 2 * (64 + 2) + 2)
    assert grid.getpixel((30, 30)) == (0, 0, 0)
    assert grid.getpixel((100, 30)) == (255, 255, 255)
    assert grid.getpixel((30, 100)) == (0, 0, 0)


def test_rows_carry_their_names(tmp_path: Path) -> None:
    rows = {"original": torch.ones(4, 3, 16, 16), "1 code": -torch.ones(4, 3, 16, 16)}
    save_rows(tmp_path / "r.png", rows)
    with Image.open(tmp_path / "r.png") as image:
        page = image.convert("L")
    assert page.width > 4 * 64
    names = page.crop((0, 0, 60, page.height))
    assert names.getextrema()[0] < 100  # something is written there


def test_prefixes_are_painted_from_their_codes(tmp_path: Path) -> None:
    asked: list[int] = []

    def decode(codes: torch.Tensor) -> torch.Tensor:
        asked.append(codes.shape[1])
        return torch.zeros(len(codes), 3, 8, 8)

    save_prefixes(tmp_path / "p.png", decode, torch.zeros(5, 36).long(), torch.zeros(5, 3, 8, 8), (1, 4, 12))
    assert asked == [1, 4, 12, 36]


def test_plots_have_a_panel_for_each_thing_measured(tmp_path: Path) -> None:
    order = Order({1: 10.0, 2: 12.0}, 11.0, 2.0, {}, None, [1.0, 0.5], 2)
    plot_order(tmp_path / "two.png", order)
    plot_order(tmp_path / "three.png", order._replace(frechet={1: 3.0, 2: 1.0}, frechet_area=2.0))
    plot_codebook(tmp_path / "codebook.png", CodebookUse(1.0, 8.0, [3.0, 2.0], [8, 4], [0.5, 0.1]), 8)
    widths = []
    for name in ("two", "three", "codebook"):
        with Image.open(tmp_path / f"{name}.png") as plot:
            widths.append(plot.width)
    assert widths == [1100, 1650, 1650]


class _Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs)["src"] or "")


def test_the_report_shows_its_pictures_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    section = Section("a <b>", "text", "x.png")
    write_report(tmp_path / "r.html", "t", "s", {"PSNR": "20 dB"}, [section], "svq quickstart", {"seed": "0"})
    page = (tmp_path / "r.html").read_text()
    parser = _Images()
    parser.feed(page)
    assert parser.found == ["x.png"]
    assert "a &lt;b&gt;" in page
    assert "20 dB" in page
