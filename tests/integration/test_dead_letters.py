"""Dead letters: sent again while their requests wait for them."""

import json
from uuid import UUID, uuid4

from sluice.messaging import Delivery
from tests.support.recovery import run_recovery, state
from tests.support.service import Service, completed


def letter(request_id: UUID | str) -> Delivery:
    body = request_id if isinstance(request_id, str) else json.dumps({"request_id": str(request_id)})
    return Delivery(str(uuid4()), body, str(uuid4()))


def test_dead_letters_of_waiting_requests_are_sent_again(service: Service, alice: bytes) -> None:
    waiting, running, ended = (service.submit(alice) for _ in range(3))
    service.claim(running, ended)
    service.settle(completed(ended))
    service.queue.take()
    service.dead_letters.letters = [
        letter(about) for _ in range(4) for about in (waiting, running, ended, uuid4(), "nonsense", waiting)
    ]

    figures = run_recovery(service)

    assert figures["unreadable"] == 4
    assert service.queue.take() == [waiting] * figures["revived"]
    assert {each.body for each in service.dead_letters.letters} == {"nonsense"}, "an operator is to see it"


def test_a_dead_letter_without_attempts_left_fails_the_request(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    for _ in range(3):
        service.claim(request_id, lease_seconds=-1)
    service.dead_letters.letters = [letter(request_id)]

    figures = run_recovery(service)

    assert (figures["failed"], figures["revived"]) == (1, 0)
    assert state(service, request_id) == ("failed", "worker_lost")
    assert service.dead_letters.letters == []
