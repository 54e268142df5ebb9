"""A mail that kills every worker that sends it: set aside after three of them, and the others hardly wait."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.servers.installation import ROOT, Installation, account_rows
from tests.servers.ledger import all_ended, check_ledger, held_mails
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
# Three workers have to start; on a busy machine each may take many times as long as alone.
MOST_LATE_S = 5.0 if SOAK else 75.0
CLIENTS = 4
PAUSE_S = 0.02 if SOAK else 0.05  # 80 mails a second, so that workers die with other mail in hand
POISON = "a text that no worker survives"


def lateness(service: Installation) -> list[float]:
    rows = service.query(
        "SELECT job.finished_at - message.accepted_at FROM message JOIN job ON job.message_id = message.id "
        "WHERE job.state = 'done'"
    )
    return sorted(row[0] / 1e6 for row in rows)


def test_a_poison_mail_is_set_aside_and_the_others_are_hardly_late(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    settings = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/servers/poison'}",
        "POISON": POISON,
        **database_settings,
    }
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port), **settings) as service,
    ):
        service.wait_for(service.send())
        ended = threading.Event()
        others: list[str] = []

        def post() -> None:
            while not ended.wait(PAUSE_S):
                others.append(service.send())

        clients = [threading.Thread(target=post) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            poison = service.send(body=POISON)
            eventually(lambda: held_mails(service) == {poison}, 60, "the poison to be set aside")
        finally:
            ended.set()
            for client in clients:
                client.join()
        eventually(lambda: all_ended(service), 20, "the others to be sent")
        late = lateness(service)
        assert late[-1] <= MOST_LATE_S, f"the latest of {len(late)} others waited {late[-1]:.1f} s"
        check_ledger(service, sink, others, held=[poison])
