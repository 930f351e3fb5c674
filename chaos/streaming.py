"""A consumer that gets its jobs from streams, over one replica after the other, and leaves them in every way.

The end of a client gives the jobs of its stream back at once. To the checker that is a nack to the head, asked for when
the client left. A job that the client has not read is one of a poll whose answer was not read: there is one for each
slot of the window.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Final

from chaos.client import ANSWER_S, REFUSED_PAUSE_S, Consumer, role
from chaos.ledger import NO_ANSWER, DeliveryEvent
from tests.lab.ports import HOST

LEFT: Final = 9
"""The number of the settlement that stands for the end of the client."""


class StreamConsumer(Consumer):
    """Uses streams instead of polls; settles like any consumer, but has no next poll to ack with."""

    def run(self) -> None:
        self._ways = [each for each in self._ways if each[1] != "ack-next"]
        while True:
            self._stream(self.chance.randrange(len(self.replicas)))

    def _stream(self, replica: int) -> None:
        queues, window = self._choose(), self.chance.choice([1, 2, 5])
        lease_s = 10.0 if self.calm else round(self.chance.uniform(1.5, 5.0), 2)
        lifetime_s = self.chance.choice([0.5, 3.0, 20.0])
        path = f"/queues/{queues[0]}/stream?" if len(queues) == 1 else "/stream?"
        path += "".join(f"queue={each.replace('+', '%2B')}&" for each in queues if len(queues) > 1)
        path += f"window={window}&lease_seconds={lease_s}&lifetime={lifetime_s}"
        slots = [self._poll(queues) for _ in range(window)]
        unsettled: list[DeliveryEvent] = []
        connection = http.client.HTTPConnection(HOST, self.role.ports[replica], timeout=ANSWER_S + lifetime_s + 15)
        ended = False
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                ended = True
                if answer.status != 503:
                    self.odd(f"a stream was answered {answer.status} {answer.read(300)!r}")
            while not ended and (self.calm or self.chance.random() > 0.02):
                line = json.loads(answer.readline())
                ended = line["type"] == "end"
                if line["type"] == "job":
                    self._polled(slots.pop(0), 200)
                    job = self._delivered(line, queues, replica, lease_s)
                    slots.append(self._poll(queues))
                    unsettled.append(job)
                    if self.calm:
                        self._settle(job, "ack")
                    else:
                        self._end(job)
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(REFUSED_PAUSE_S)
        if ended:
            for slot in slots:
                self._polled(slot, 204)
        else:
            for job in unsettled:
                self._write_settle(job, "nack-head", replica, LEFT)
                self._write_answer(job, NO_ANSWER, "", LEFT)
        connection.close()


if __name__ == "__main__":
    StreamConsumer(role("chaos.streaming")).run()
