from __future__ import annotations

import re
from pathlib import Path

import torch

from mlkit.core.media import write_image
from mlkit.core.report import join_reports, write_report
from mlkit.core.results import Result, Table, human_bytes, human_count


def test_a_report_is_one_file_without_links(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.rand(3, 4, 4))
    result = Result(tables=(Table("T<1>", ("", "x"), [("a & b", "1")]),), notes=("note",))
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    arguments = {"settings": {"lr": 0.1}, "command": "mlkit x > y", "history": history}
    write_report(
        tmp_path / "r.html", "Title", result, pictures={"A": tmp_path / "a.png"}, **arguments
    )
    text = (tmp_path / "r.html").read_text()
    assert "T&lt;1&gt;" in text
    assert "a &amp; b" in text
    assert "mlkit x &gt; y" in text
    assert "data:image/png;base64," in text
    assert "<svg" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text.replace('xlink:href="#', 'href="#'))
    write_report(
        tmp_path / "s.html", "Title", result, pictures={"A": tmp_path / "a.png"}, **arguments
    )
    assert (tmp_path / "s.html").read_bytes() == (tmp_path / "r.html").read_bytes()


def test_joined_reports_hold_the_bodies_of_all(tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = Result(notes=(f"found in {name}",))
        write_report(tmp_path / f"{name}.html", name, result, settings={}, command=f"mlkit {name}")
    files = {name: tmp_path / f"{name}.html" for name in ("one", "two")}
    join_reports(tmp_path / "index.html", "All <of them>", files)
    text = (tmp_path / "index.html").read_text()
    for name in files:
        assert text.count(f"found in {name}") == 1
        assert f'href="#{name}"' in text
        assert f'id="{name}"' in text
    assert "All &lt;of them&gt;" in text
    assert text.count("<body>") == text.count("</body>") == 1


def test_human_numbers() -> None:
    assert human_count(11_689_512) == "11.7 M"
    assert human_count(7) == "7"
    assert human_bytes(704_000) == "704 kB"
