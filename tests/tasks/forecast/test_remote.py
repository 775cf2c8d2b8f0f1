"""Real sockets: three processes equal one, a killed joiner, a return, and what is refused."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlkit.core.errors import DataError, UsageError
from mlkit.tasks.forecast.cost import Sizes, bytes_per_round
from mlkit.tasks.forecast.join import answer, join
from mlkit.tasks.forecast.node import NodeGroup
from mlkit.tasks.forecast.remote import GrpcTransport
from mlkit.tasks.forecast.wire import Message, pack, unpack

from .helpers import NAMES, engine, series, times

ROOT = Path(__file__).parents[3]
TOKEN = "a long secret"
PARTS = ([0], [1, 2], [3, 4, 5])


@pytest.fixture
def transport() -> Iterator[GrpcTransport]:
    said: list[str] = []
    with GrpcTransport(NAMES, token=TOKEN, deadline_s=20, say=said.append) as made:
        made.said = said  # type: ignore[attr-defined]
        yield made


def nodes_of(part: list[int]) -> NodeGroup:
    return NodeGroup([NAMES[i] for i in part], series()[part], times())


def process(part: list[int], port: int) -> None:
    torch.set_num_threads(1)
    join(nodes_of(part), f"127.0.0.1:{port}", TOKEN, patience_s=20)


def start_processes(port: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.syspath_prepend(ROOT)  # a spawned process imports this very module
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=process, args=(part, port), daemon=True) for part in PARTS]
    for each in started:
        each.start()
    return started


def thread(group: NodeGroup, port: int, **options: Any) -> threading.Thread:
    made = threading.Thread(
        target=join, args=(group, f"127.0.0.1:{port}", TOKEN), kwargs=options, daemon=True
    )
    made.start()
    return made


def wait(transport: GrpcTransport, count: int = 6) -> None:
    transport.wait(count, 60, lambda there: None)


def test_three_processes_equal_one(
    transport: GrpcTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = start_processes(transport.port, monkeypatch)
    wait(transport)
    alone = engine(model={"hidden": 16})
    remote = engine(transport=transport, model={"hidden": 16})
    before = transport.traffic.total
    for number in range(2):
        one, two = alone.round(), remote.round()
        sums = [made.evaluate("valid") for made in (alone, remote)]
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-4)
        assert two == pytest.approx(one, rel=1e-5)
        if number == 0:
            first = transport.traffic.total
    assert float((alone.weights - remote.weights).abs().max()) < 1e-5
    for ours, theirs in zip(alone.server.parameters(), remote.server.parameters(), strict=True):
        assert float((ours - theirs).detach().abs().max()) < 1e-5
    after = transport.traffic.total
    assert before < first
    sizes = Sizes(6, 3, 0, remote.lengths["train"], remote.lengths["valid"])
    down, up = bytes_per_round("cnfgnn", remote.settings, sizes, 1)
    assert after[0] - first[0] == pytest.approx(down, rel=0.02)
    # Losses and counts ride along with each batch.
    assert after[1] - first[1] == pytest.approx(up, rel=0.02)
    transport.dismiss()
    for each in processes:
        each.join(20)
        assert each.exitcode == 0


def test_forecasts_stay_with_the_nodes_and_are_the_same(transport: GrpcTransport) -> None:
    groups = [nodes_of(part) for part in PARTS]
    threads = [thread(group, transport.port) for group in groups]
    wait(transport)
    alone, remote = engine(), engine(transport=transport)
    for made in (alone, remote):
        made.round()
        made.personalise(1)
        made.finish()
    transport.dismiss()
    for each in threads:
        each.join(20)
    found = torch.cat([group.newest for group in groups if group.newest is not None])
    wanted = alone.transport.group.newest
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert "finish" in transport.traffic.down
    assert transport.traffic.up["finish"] == 0


def test_a_killed_joiner_is_missed_and_a_new_one_takes_over(
    transport: GrpcTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = start_processes(transport.port, monkeypatch)
    wait(transport)
    remote = engine(transport=transport)
    remote.round()
    processes[1].kill()
    processes[1].join(20)
    log = remote.round()
    assert all(value == value and abs(value) < 1e9 for value in log.values())
    sums = remote.evaluate("valid")
    assert [float(row[0, 3]) > 0 for row in sums] == [True, False, False, True, True, True]
    thread(nodes_of([1, 2]), transport.port)
    wait(transport)
    remote.round()
    assert bool((remote.evaluate("valid")[..., 3] > 0).all())
    assert any("left: n1, n2" in line for line in transport.said)  # type: ignore[attr-defined]
    transport.dismiss()


def test_the_coordinator_goes_on_from_its_state(transport: GrpcTransport) -> None:
    whole = engine()
    for _ in range(3):
        whole.round()
    groups = [thread(nodes_of(part), transport.port) for part in PARTS]
    wait(transport)
    first = engine(transport=transport)
    first.round()
    state = first.state_dict()
    second = engine(transport=transport, begun=False)  # the nodes have stayed
    second.load_state_dict(state)
    second.begin()
    for _ in range(2):
        second.round()
    torch.testing.assert_close(second.weights, whole.weights, atol=1e-5, rtol=0)
    transport.dismiss()
    for each in groups:
        each.join(20)


def test_a_late_or_wrong_answer_is_left_out_by_name(
    transport: GrpcTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, wrong, good = nodes_of([0]), nodes_of([1]), nodes_of([2, 3, 4, 5])
    for group in (slow, wrong, good):
        thread(group, transport.port)
    wait(transport)
    remote = engine(transport=transport)
    transport.deadline_s = 2.0
    train = NodeGroup.train

    def unruly(self: NodeGroup, **arguments: Any) -> dict[str, torch.Tensor]:
        found = train(self, **arguments)
        if self is slow:
            time.sleep(3)
        if self is wrong:
            found["weights"] = torch.zeros(1, 10_000)
        return found

    monkeypatch.setattr(NodeGroup, "train", unruly)
    remote.round()
    said = "\n".join(transport.said)  # type: ignore[attr-defined]
    assert "no answer to 'train' from node n0 within 2 s" in said
    assert "answer to 'train' rejected; node n1: 'weights' has shape (10000,)" in said
    transport.dismiss()


def test_who_is_refused(transport: GrpcTransport) -> None:
    address = f"127.0.0.1:{transport.port}"
    for _ in range(20):  # the reason must survive every order of the two sides' messages
        with pytest.raises(UsageError, match="wrong token"):
            join(nodes_of([0]), address, "another one")
    stranger = NodeGroup(["x9"], series()[:1], times())
    with pytest.raises(UsageError, match="unknown node x9"):
        join(stranger, address, TOKEN)
    thread(nodes_of([0, 1]), transport.port)
    wait(transport, 2)
    with pytest.raises(UsageError, match="somebody has joined as node n1"):
        join(nodes_of([1, 2]), address, TOKEN, patience_s=0)
    with pytest.raises(DataError, match="only 2 of 6 nodes have joined"):
        transport.wait(6, 0.1, lambda there: None)
    transport.dismiss()


def test_another_protocol_is_refused(
    transport: GrpcTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.tasks.forecast import join as module
    from mlkit.tasks.forecast import wire

    real = wire.pack

    def older(message: Message) -> bytes:
        return real(message).replace(b'\\"version\\": 1', b'\\"version\\": 0')

    monkeypatch.setattr(module, "pack", older)
    with pytest.raises(UsageError, match="speaks protocol 0, this mlkit 1"):
        join(nodes_of([0]), f"127.0.0.1:{transport.port}", TOKEN)


def test_nobody_is_there() -> None:
    with pytest.raises(DataError, match=r"cannot reach 127\.0\.0\.1:9"):
        join(nodes_of([0]), "127.0.0.1:9", TOKEN, patience_s=0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_encrypted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    pem = certificate.read_bytes(), key.read_bytes()
    with GrpcTransport(NAMES, token=TOKEN, address="localhost:0", tls=pem) as transport:
        address = f"localhost:{transport.port}"
        with pytest.raises(DataError, match="cannot reach"):  # no encryption on this side
            join(nodes_of([0]), address, TOKEN, patience_s=0)
        made = threading.Thread(
            target=join, args=(nodes_of([0]), address, TOKEN), kwargs={"certificate": pem[0]}
        )
        made.start()
        wait(transport, 1)
        transport.dismiss()
        made.join(20)


def test_messages_survive_and_rubbish_does_not() -> None:
    sent = Message("train", 7, {"lr": 0.1}, {"w": torch.ones(2, 3)}, {"g": torch.zeros(4)})
    found = unpack(pack(sent))
    assert (found.kind, found.number, found.values) == ("train", 7, {"lr": 0.1})
    assert torch.equal(found.tensors["w"], sent.tensors["w"])
    assert torch.equal(found.nodes["g"], sent.nodes["g"])
    data = pack(sent)
    for bad in (b"", b"hello", data[:40], b"\xff" * 64, b"\x80\x04c" + data):
        with pytest.raises(DataError, match="could not be read"):
            unpack(bad)


def test_a_joiner_does_what_is_on_the_list_and_nothing_else() -> None:
    group = nodes_of([0])
    for kind in ("__init__", "prepare", "forecast", "states", "delete"):
        refused = answer(group, Message(kind, 1))
        assert refused.kind == "error"
        assert f"no operation '{kind}'" in refused.values["error"]
    wrong = answer(group, Message("train", 2, {"epochs": 1}))
    assert wrong.kind == "error"
    assert "TypeError" in wrong.values["error"]
