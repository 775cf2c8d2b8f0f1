from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlkit.tasks.forecast import fit
from mlkit.tasks.forecast.synth import generate, write

Mlkit = Callable[..., Any]
TINY = ["--rounds", "2", "--hidden", "4", "--server-hidden", "6", "--server-size", "5",
        "--stride", "8", "--eval-stride", "8", "--batch-size", "16"]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"hidden": 4, "server_hidden": 6, "server_size": 5, "rounds": 2, "personalise": 1}
    monkeypatch.setitem(fit.PRESETS, "quick", {**fit.QUICK, **values})
    monkeypatch.setattr(fit, "QUICK_WINDOWS", 30)


@pytest.fixture
def road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a generated motorway of five sensors, which is also the current one."""
    write(generate(5, 2, 20, 0.01, 0), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(mlkit: Mlkit, road: Path) -> str:
    done = mlkit("train", "forecast", "speeds.csv", "-g", "distances.csv", *TINY, "-o", "run")
    assert done.code == 0, done.err
    for word in ("last value", "daily profile", "payload down", "Next: mlkit eval forecast"):
        assert word in done.out
    return "run/best.safetensors"


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_series_never_seen_before(mlkit: Mlkit, road: Path) -> None:
    command = ["forecast", "speeds.csv", "--graph", "distances.csv"]
    first = mlkit(*command, "-o", "f.csv", "--plot", "day.png")
    assert first.code == 0, first.err
    assert "training a small model" in first.err
    rows = records((road / "f.csv").read_text())
    assert len(rows) == 5 * 12
    assert rows[0]["time"] == "2024-01-03T00:00:00"
    assert rows[11]["time"] == "2024-01-03T03:40:00"
    assert all(float(row["lower"]) <= float(row["upper"]) for row in rows)
    assert (road / "day.png").read_bytes().startswith(b"\x89PNG")
    again = mlkit(*command, "--json")
    assert "training" not in again.err
    metrics = json.loads(again.out)["metrics"]
    assert metrics["forecast"]["A01"][0] == pytest.approx(float(rows[0]["value"]), rel=1e-4)
    assert metrics["validation_rmse"] > 0
    # Another graph is another model.
    (road / "all.csv").write_text("1,1,1,1,1\n" * 5)
    assert "training a small model" in mlkit("forecast", "speeds.csv", "-g", "all.csv").err
    assert len(list(road.glob("speeds.csv.*.safetensors"))) == 2


def test_formats_and_pipes(mlkit: Mlkit, road: Path, weights: str) -> None:
    command = ["forecast", "speeds.csv", "--weights", weights]
    piped = mlkit(*command, "-o", "-")
    assert piped.code == 0, piped.err
    assert len(records(piped.out)) == 60
    data = (road / "speeds.csv").read_bytes()
    assert mlkit("forecast", "-", "--weights", weights, "-o", "-", stdin=data).out == piped.out
    assert mlkit(*command, "-o", "f.jsonl").code == 0
    line = json.loads((road / "f.jsonl").read_text().splitlines()[0])
    assert line["value"] == pytest.approx(float(records(piped.out)[0]["value"]), rel=1e-4)
    wide = records(mlkit(*command, "--wide", "-o", "-").out)
    assert list(wide[0]) == ["time", "A01", "A02", "A03", "B04", "B05"]
    assert len(wide) == 12
    assert mlkit(*command, "-o", "f.jsonl").code == 3  # exists already
    narrow, broad = (records(mlkit(*command, "--interval", p, "-o", "-").out) for p in ("50", "90"))
    assert all(
        float(b["lower"]) <= float(n["lower"]) <= float(n["upper"]) <= float(b["upper"])
        for n, b in zip(narrow, broad, strict=True)
    )
    shown = mlkit(*command, "--node", "B04")
    assert "B04" in shown.out
    assert "A01" not in shown.out


def test_eval_by_horizon_sensor_and_seen(mlkit: Mlkit, road: Path, weights: str) -> None:
    command = ["eval", "forecast", "speeds.csv", "--weights", weights, "--by-node"]
    done = mlkit(*command, "--plot", "e.png", "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert set(metrics[weights]["all"]) >= {"rmse", "mae", "mape", "rmse@3", "rmse@6", "rmse@12"}
    assert set(metrics["nodes"]) == {"A01", "A02", "A03", "B04", "B05"}
    assert 0 < metrics[weights]["coverage"]["50"] < metrics[weights]["coverage"]["90"] <= 1
    assert metrics["last value"]["rmse"] > 0
    assert "gaps masked" in mlkit(*command).out
    part = mlkit("train", "forecast", "speeds.csv", "-g", "distances.csv", "--inductive", "0.6",
                 "--locations", "places.csv", *TINY, "-o", "part")  # fmt: skip
    assert part.code == 0, part.err
    held = ["eval", "forecast", "speeds.csv", "--weights", "part/best.safetensors"]
    assert mlkit(*held).code == 4  # which graph joins the others?
    found = json.loads(mlkit(*held, "-g", "distances.csv", "--json").out)["metrics"]
    groups = found["part/best.safetensors"]
    assert (groups["seen"]["sensors"], groups["unseen"]["sensors"]) == (3, 2)
    served = mlkit("forecast", "speeds.csv", "--weights", "part/best.safetensors", "-g",
                   "distances.csv")  # fmt: skip
    assert "2 sensors were not trained on" in served.out


def test_personal_weights_and_privacy(mlkit: Mlkit, road: Path) -> None:
    options = ["--personalise", "2", "--dp-clip", "1", "--dp-noise", "2", "--participation", "0.8",
               "--encoding-clip", "1", "--encoding-noise", "0.1"]  # fmt: skip
    done = mlkit("train", "forecast", "speeds.csv", "-g", "distances.csv", *TINY, *options,
                 "-o", "run", "--json")  # fmt: skip
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert metrics["cost"]["epsilon"] > 0
    assert metrics["cost"]["bytes_down_per_round"] > 0
    errors = metrics["validation"]
    assert errors["cnfgnn, personalised"]["rmse"] <= errors["cnfgnn"]["rmse"]


def test_check_and_synth(mlkit: Mlkit, road: Path) -> None:
    made = mlkit("data", "forecast-synth", "--sensors", "4", "--days", "2", "--gaps", "0.1",
                 "-o", "made")  # fmt: skip
    assert made.code == 0, made.err
    assert mlkit("data", "forecast-synth", "-o", "made").code == 3
    done = mlkit("check", "forecast", "made/speeds.csv", "-g", "made/distances.csv", "--json")
    metrics = json.loads(done.out)["metrics"]
    assert metrics["sensors"] == 4
    assert metrics["missing"] == pytest.approx(0.1, abs=0.03)
    assert metrics["self_loops"] == 4


@pytest.mark.filterwarnings("ignore")
def test_the_device_is_exported(mlkit: Mlkit, road: Path, weights: str) -> None:
    done = mlkit("export", weights, "-o", "device.pt2", "--json")
    assert done.code == 0, done.err + done.out
    assert json.loads(done.out)["metrics"]["relative_difference"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["forecast"], 2, "SERIES: missing"),
        (["forecast", "none.csv"], 3, "none.csv does not exist"),
        (["forecast", "speeds.csv", "-o", "f.pdf"], 2, "must end in .csv"),
        (["forecast", "speeds.csv", "--node", "Z1"], 2, "no such sensor"),
        (["forecast", "speeds.csv", "--weights", "no.safetensors"], 4, "does not exist"),
        (["forecast", "speeds.csv", "--interval", "95"], 2, "--interval"),
        (["forecast", "speeds.csv", "-g", "two.csv"], 3, "has 2 nodes, the data has 5"),
        (["forecast", "speeds.csv", "-g", "bad.pkl"], 3, "not a graph of DCRNN"),
        (["forecast", "word.csv"], 3, "line 3 has 'fast' in column b"),
        (["forecast", "short.csv"], 3, "3 steps are too few"),
        (["train", "forecast", "short.csv"], 3, "3 steps are too few"),
        (["train", "forecast", "empty.csv"], 3, "no value at all for b"),
        (["train", "forecast", "speeds.csv", "--method", "gcn"], 2, "gcn"),
        (["train", "forecast", "speeds.csv", "--rounds", "0"], 2, "--rounds 0"),
        (["train", "forecast", "speeds.csv", "--inductive", "0.5"], 2, "needs --locations"),
        (["train", "forecast", "speeds.csv", "--dp-noise", "1"], 2, "needs --dp-clip"),
        (["train", "forecast", "speeds.csv", "--encoding-noise", "1"], 2, "--encoding-clip"),
        (["train", "forecast", "speeds.csv", "--resume", "nowhere"], 4, "nothing to resume"),
        (["eval", "forecast", "speeds.csv"], 2, "--weights: missing"),
        (["check", "forecast", "speeds.csv", "-g", "negative.csv"], 3, "negative distance -4"),
        (["federate", "serve", "-g", "distances.csv"], 2, "missing"),
        (["federate", "join", "localhost:9", "--data", "speeds.csv", "--token-file", "t"], 2,
         "give --ca, or say --insecure"),
        (["federate", "serve", "-g", "distances.csv", "--nodes", "ids", "--token-file", "t"], 2,
         "give --cert and --key, or say --insecure"),
        (["federate", "join", "127.0.0.1:9", "--data", "speeds.csv", "--token-file", "t",
          "--insecure", "--patience", "0"], 3, "cannot reach 127.0.0.1:9"),
        (["federate", "join", "127.0.0.1:9", "--data", "speeds.csv", "--token-file", "weak",
          "--insecure"], 3, "at least 8 are needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_two_lines(
    mlkit: Mlkit, road: Path, arguments: list[str], code: int, said: str
) -> None:
    files = {
        "two.csv": "1,0\n0,1\n", "bad.pkl": "rubbish", "word.csv": "a,b\n1,2\n3,fast\n",
        "short.csv": "a,b\n1,2\n3,4\n5,6\n", "empty.csv": "a,b\n1,\n2,\n", "ids": "A01\nA02\n",
        "negative.csv": "from,to,distance\nA01,A02,-4\n", "t": "a long secret", "weak": "abc",
    }  # fmt: skip
    for name, content in files.items():
        (road / name).write_text(content)
    before = set(road.iterdir())
    result = mlkit(*arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) <= 2, lines
    assert set(road.iterdir()) - before <= {road / "nowhere"}


def test_models_of_other_networks_are_refused(mlkit: Mlkit, road: Path, weights: str) -> None:
    text = (road / "speeds.csv").read_text()
    (road / "other.csv").write_text(text.replace("A01", "Z01", 1))
    refused = mlkit("forecast", "other.csv", "--weights", weights)
    assert refused.code == 4
    assert "does not know Z01" in refused.err
    half = [line for i, line in enumerate(text.splitlines()) if i % 2 == 0]
    half[0] = text.splitlines()[0]
    (road / "half.csv").write_text("\n".join(half) + "\n")
    refused = mlkit("forecast", "half.csv", "--weights", weights)
    assert refused.code == 4
    assert "trained on steps of 20 minutes" in refused.err
    local = mlkit("train", "forecast", "speeds.csv", "--method", "local", *TINY, "-o", "local")
    assert local.code == 0, local.err
    refused = mlkit("forecast", "other.csv", "--weights", "local/best.safetensors")
    assert refused.code == 4
    assert "no weights for sensors Z01" in refused.err


def test_a_federation_on_the_command_line(mlkit: Mlkit, road: Path) -> None:
    from mlkit.tasks.forecast.config import JoinConfig
    from mlkit.tasks.forecast.federation import join_federation

    (road / "t").write_text("a long secret")
    names = ["A01", "A02", "A03", "B04", "B05"]
    (road / "ids").write_text("\n".join(names))
    joiners = []
    for number, part in enumerate((names[:1], names[1:])):
        config = JoinConfig(
            address="127.0.0.1:18765", data=road / "speeds.csv", node=tuple(part), insecure=True,
            token_file=road / "t", patience=60, out=road / f"mine{number}.csv",
        )  # fmt: skip
        joiners.append(threading.Thread(target=join_federation, args=(config,), daemon=True))
        joiners[-1].start()
    done = mlkit("federate", "serve", "-g", "distances.csv", "--nodes", "ids", "--token-file", "t",
                 "--insecure", "--address", "127.0.0.1:18765", *TINY, "--personalise", "1",
                 "-o", "fed", "--wait", "60", "--json")  # fmt: skip
    assert done.code == 0, done.err
    for joiner in joiners:
        joiner.join(30)
    metrics = json.loads(done.out)["metrics"]
    assert metrics["rounds"] == 2
    assert set(metrics["validation"]) == {"cnfgnn", "personalised"}
    assert len(records((road / "mine0.csv").read_text())) == 12
    assert len(records((road / "mine1.csv").read_text())) == 48
    used = mlkit("forecast", "speeds.csv", "--weights", "fed/best.safetensors", "-o", "-")
    assert used.code == 0, used.err


def test_the_demo_leaves_a_report(mlkit: Mlkit, road: Path, monkeypatch: Any) -> None:
    from mlkit.tasks.forecast import handover

    monkeypatch.setattr(handover, "ROUNDS", 1)
    result = mlkit("demo", "forecast", "-o", "demo")
    assert result.code == 0, result.err
    page = (road / "demo" / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "generated" in result.out
    assert mlkit("demo", "forecast", "-o", "demo").code == 3
