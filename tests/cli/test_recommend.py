from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.tasks.recommend import small
from mlkit.tasks.recommend.synth import generate, write

Mlkit = Callable[..., Any]
TINY = ["--steps", "30", "--save-every", "10", "--dim", "8", "--batch-size", "32"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    options = small.OPTIONS.model_copy(update={"steps": 20, "save_every": 10})
    monkeypatch.setattr(small, "OPTIONS", options)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a generated log.csv and items.csv, which is also the current one."""
    write(generate(200, 60, 12, 0), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(mlkit: Mlkit, shop: Path) -> str:
    done = mlkit("train", "recommend", "log.csv", "--items", "items.csv", *TINY, "-o", "run")
    assert done.code == 0, done.err
    assert "MostPopular" in done.out
    return "run/best.safetensors"


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_log_never_seen_before(mlkit: Mlkit, shop: Path) -> None:
    command = ["recommend", "log.csv", "--items", "items.csv", "--user", "u4", "-k", "5"]
    first = mlkit(*command, "--diversity", "0.25", "--plot", "map.png")
    assert first.code == 0, first.err
    assert "training a small model" in first.err
    for word in ("For u4", "title", "category", "interest", "nearest items of the history"):
        assert word in first.out
    assert (shop / "map.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(shop.glob("log.csv.*.safetensors"))) == 1
    again = mlkit(*command, "--json")
    assert "training" not in again.err
    listed = json.loads(again.out)["metrics"]["recommendations"]
    assert [row["rank"] for row in listed] == [1, 2, 3, 4, 5]
    assert {row["interest"] for row in listed} <= {1, 2, 3, 4}
    # Another log under the same name has another hash.
    (shop / "log.csv").write_text((shop / "log.csv").read_text() + "u4,b1,99999\n")
    assert "training a small model" in mlkit(*command).err


def test_a_history_gets_what_the_same_user_of_the_log_gets(
    mlkit: Mlkit, shop: Path, weights: str
) -> None:
    rows = records((shop / "log.csv").read_text())
    history = [row["item_id"] for row in rows if row["user_id"] == "u7"]
    by_user = mlkit("recommend", "log.csv", "--weights", weights, "--user", "u7", "-o", "-")
    alone = mlkit("recommend", "--weights", weights, "--history", ",".join(history), "-o", "-")
    assert by_user.code == alone.code == 0, by_user.err + alone.err
    listed = records(by_user.out)
    assert [row["item"] for row in listed] == [row["item"] for row in records(alone.out)]
    assert not {row["item"] for row in listed} & set(history)
    kept = mlkit("recommend", "log.csv", "--weights", weights, "--user", "u7", "-k", "60",
                 "--keep-seen", "-o", "-")  # fmt: skip
    assert {row["item"] for row in records(kept.out)} >= set(history)


def test_everybody_as_csv_and_json_lines(mlkit: Mlkit, shop: Path, weights: str) -> None:
    command = ["recommend", "log.csv", "--weights", weights, "--all-users", "-k", "3"]
    for name in ("recs.csv", "recs.jsonl"):
        done = mlkit(*command, "-o", name, "--batch-size", "64")
        assert done.code == 0, done.err
    table = records((shop / "recs.csv").read_text())
    lines = [json.loads(line) for line in (shop / "recs.jsonl").read_text().splitlines()]
    assert len(table) == len(lines) == 600
    for row, line in zip(table, lines, strict=True):
        assert row["user"] == line["user"]
        assert row["item"] == line["item"]
        assert row["title"] == line["title"]
    piped = mlkit(*command, "-o", "-")
    assert records(piped.out) == table
    assert mlkit(*command, "-o", "recs.csv").code == 3  # exists already


def test_the_dial_needs_and_uses_categories(mlkit: Mlkit, shop: Path, weights: str) -> None:
    command = ["recommend", "log.csv", "--weights", weights, "--user", "u7", "-k", "8", "-o", "-"]
    kinds = [
        len({row["category"] for row in records(mlkit(*command, "--diversity", dial).out)})
        for dial in ("0", "1000")
    ]
    assert kinds[1] >= max(4, kinds[0])
    plain = mlkit("train", "recommend", "log.csv", *TINY, "-o", "plain")
    assert plain.code == 0
    bare = ["recommend", "log.csv", "--weights", "plain/best.safetensors", "--user", "u7"]
    assert mlkit(*bare).code == 0
    refused = mlkit(*bare, "--diversity", "1")
    assert refused.code == 2
    assert "needs categories" in refused.err
    assert mlkit(*bare, "--diversity", "1", "--items", "items.csv").code == 0


def test_eval_shows_the_dial_beside_most_popular(mlkit: Mlkit, shop: Path, weights: str) -> None:
    command = ["eval", "recommend", "log.csv", "--weights", weights, "--at", "5,10"]
    done = mlkit(*command, "--diversity", "0,0.25,4", "--plot", "dial.png", "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics["users"] == 20
    dial = [metrics[weights][key]["mean"] for key in ("0", "0.25", "4")]
    diversity = [row["diversity@10"] for row in dial]
    assert diversity == sorted(diversity)
    assert 0 <= metrics["MostPopular"]["0"]["mean"]["recall@10"] <= 1
    assert (shop / "dial.png").read_bytes().startswith(b"\x89PNG")
    shown = mlkit(*command)
    assert "MostPopular" in shown.out
    assert "formula of the paper" in shown.out
    hits = json.loads(mlkit(*command, "--ndcg", "hits", "--json").out)["metrics"]
    assert hits[weights]["0"]["mean"]["ndcg@10"] >= dial[0]["ndcg@10"]
    (shop / "other.csv").write_text((shop / "log.csv").read_text() + "u4,b1,99999\n")
    other = mlkit("eval", "recommend", "other.csv", "--weights", weights, "--part", "all")
    assert other.code == 0
    assert "200 users (all)" in other.out
    assert "another log" in mlkit("eval", "recommend", "other.csv", "--weights", weights).err


def test_vectors_for_an_external_index(mlkit: Mlkit, shop: Path, weights: str) -> None:
    done = mlkit("recommend", "log.csv", "--weights", weights, "--export-vectors", "v")
    assert done.code == 0, done.err
    items, users = np.load("v/items.npy"), np.load("v/users.npy")
    assert items.shape == (60, 8)
    assert users.shape == (200, 4, 8)
    names = Path("v/items.txt").read_text().splitlines()
    user = Path("v/users.txt").read_text().splitlines().index("u7")
    best = names[int((users[user] @ items.T).max(0).argmax())]
    listed = mlkit("recommend", "log.csv", "--weights", weights, "--user", "u7", "-k", "1",
                   "--keep-seen", "-o", "-")  # fmt: skip
    assert records(listed.out)[0]["item"] == best
    alone = mlkit("recommend", "--weights", weights, "--export-vectors", "w", "--json")
    assert list(json.loads(alone.out)["outputs"]) == ["item vectors"]


def test_the_log_from_standard_input(mlkit: Mlkit, shop: Path, weights: str) -> None:
    data = (shop / "log.csv").read_bytes()
    piped = mlkit("recommend", "-", "--weights", weights, "--user", "u7", "-o", "-", stdin=data)
    asked = mlkit("recommend", "log.csv", "--weights", weights, "--user", "u7", "-o", "-")
    assert piped.out == asked.out


def test_check_and_synth(mlkit: Mlkit, shop: Path) -> None:
    done = mlkit("data", "recommend-synth", "--users", "50", "--catalogue", "40", "-o", "made")
    assert done.code == 0, done.err
    assert mlkit("data", "recommend-synth", "-o", "made").code == 3
    checked = mlkit("check", "recommend", "made/log.csv", "--items", "made/items.csv", "--json")
    metrics = json.loads(checked.out)["metrics"]
    assert metrics["users"] == 50
    assert metrics["items_with_category"] == 1
    assert metrics["kept"]["users"] <= 50


@pytest.mark.parametrize("variant", ["sa", "dr"])
@pytest.mark.filterwarnings("ignore")
def test_the_encoder_is_exported(mlkit: Mlkit, shop: Path, variant: str) -> None:
    trained = mlkit("train", "recommend", "log.csv", *TINY, "--variant", variant, "-o", "run")
    assert trained.code == 0, trained.err
    done = mlkit("export", "run/best.safetensors", "-o", "m.pt2", "--json")
    assert done.code == 0, done.err + done.out
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["recommend", "log.csv"], 2, "say for whom"),
        (["recommend", "--user", "u1"], 2, "need a LOG"),
        (["recommend", "log.csv", "--user", "u1", "--history", "b1"], 2, "exclude each other"),
        (["recommend", "log.csv", "--all-users"], 2, "wants -o"),
        (["recommend", "log.csv", "--user", "u1", "-o", "x.pdf"], 2, "must end in .csv"),
        (["recommend", "log.csv", "--user", "u1", "--diversity", "-1"], 2, "--diversity -1"),
        (["recommend", "log.csv", "--user", "u1", "--diversity", "much"], 2, "--diversity"),
        (["recommend", "log.csv", "--user", "u1", "-k", "0"], 2, "--top 0"),
        (["recommend", "none.csv", "--user", "u1"], 3, "none.csv does not exist"),
        (["recommend", "empty.csv", "--user", "u1"], 3, "empty.csv is empty"),
        (["recommend", "log.csv", "--user", "u1", "--user-col", "who"], 2, "no such column"),
        (["recommend", "log.csv", "--user", "u1", "--items", "other.csv"], 3, "describes none"),
        (["recommend", "log.csv", "--user", "u1", "--weights", "no.safetensors"], 4, "not exist"),
        (["recommend", "short.csv", "--user", "u1"], 3, "no user has 5 interactions"),
        (["recommend", "log.csv", "--user", "u1", "--device", "cuda:99"], 5, "cuda:99"),
        (["train", "recommend", "short.csv"], 3, "no user has 5 interactions"),
        (["train", "recommend", "log.csv", "--variant", "sasrec"], 2, "sasrec"),
        (["train", "recommend", "log.csv", "--resume", "nowhere"], 4, "nothing to resume"),
        (["eval", "recommend", "log.csv"], 2, "--weights: missing"),
        (["eval", "recommend", "log.csv", "--weights", "x", "--at", "0"], 2, "--at 0"),
        (["eval", "recommend", "log.csv", "--weights", "x", "-d", "0,x"], 2, "--diversity 0,x"),
        (["check", "recommend", "bad.csv"], 3, "line 3 has 'soon' in column time"),
        (["check", "recommend", "twice.csv"], 3, "'user' stands twice"),
        (["check", "recommend", "columns.csv"], 3, "no item column; found user, rating"),
    ],
)
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit, shop: Path, arguments: list[str], code: int, said: str
) -> None:
    (shop / "empty.csv").touch()
    (shop / "short.csv").write_text("user,item\nu1,a\nu1,b\nu2,a\n")
    (shop / "other.csv").write_text("item,category\nzz,x\n")
    (shop / "bad.csv").write_text("user,item,time\n1,2,3\n1,2,soon\n")
    (shop / "twice.csv").write_text("user,item,user\n1,2,3\n")
    (shop / "columns.csv").write_text("user,rating\n1,2\n")
    before = set(shop.iterdir())
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
    assert set(shop.iterdir()) - before <= {shop / "nowhere"}


def test_users_without_a_known_item(mlkit: Mlkit, shop: Path, weights: str) -> None:
    rows = "".join(f"new,z{i},{i}\n" for i in range(5))
    (shop / "more.csv").write_text((shop / "log.csv").read_text() + rows)
    command = ["recommend", "more.csv", "--weights", weights, "-k", "3"]
    wrong = mlkit(*command, "--user", "neww")
    assert wrong.code == 3
    assert "similar: new" in wrong.err
    lost = mlkit(*command, "--user", "new")
    assert lost.code == 3
    assert "not known: z0, z1, z2, z3, z4" in lost.err
    assert "--fallback popular" in lost.err
    found = mlkit(*command, "--user", "new", "--fallback", "popular", "-o", "-")
    assert found.code == 0, found.err
    assert [row["rank"] for row in records(found.out)] == ["1", "2", "3"]
    everybody = mlkit(*command, "--all-users", "-o", "all.csv", "--json")
    assert json.loads(everybody.out)["metrics"] == {"users": 200, "rows": 600, "left_out": 1}
    assert "1 users without a known item are left out: new" in everybody.err
    unknown = mlkit("recommend", "--weights", weights, "--history", "z1,z2")
    assert unknown.code == 3
    assert "not known: z1, z2" in unknown.err
    popular = mlkit("recommend", "--weights", weights, "--history", "z1", "--fallback", "popular")
    assert popular.code == 0, popular.err
    partly = mlkit("recommend", "--weights", weights, "--history", "z1,b3")
    assert partly.code == 0
    assert "1 items of the histories are not known: z1" in partly.err


def test_a_model_of_other_items_is_refused(mlkit: Mlkit, shop: Path, weights: str) -> None:
    other = (shop / "log.csv").read_text().replace(",b", ",x")
    (shop / "other.csv").write_text(other)
    for command in (["recommend", "other.csv", "--user", "u1"], ["eval", "recommend", "other.csv"]):
        refused = mlkit(*command, "--weights", weights)
        assert refused.code == 4, refused.err
        assert "knows" in refused.err


def test_more_items_than_there_are(mlkit: Mlkit, shop: Path, weights: str) -> None:
    done = mlkit("recommend", "--weights", weights, "--history", "b1", "-k", "1000", "--json")
    assert done.code == 0
    assert "the model knows 60 items" in done.err
    metrics = json.loads(done.out)["metrics"]
    assert len(metrics["recommendations"]) == 59
    assert metrics["short"] is True


def test_the_demo_leaves_a_report(mlkit: Mlkit, shop: Path, monkeypatch: Any) -> None:
    from mlkit.tasks.recommend import handover

    monkeypatch.setattr(handover, "STEPS", 20)
    result = mlkit("demo", "recommend", "-o", "demo")
    assert result.code == 0, result.err
    page = (shop / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "generated" in result.out
    assert mlkit("demo", "recommend", "-o", "demo").code == 3
