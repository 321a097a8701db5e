"""Delivers events to the connections of this process. No other module does."""

from collections.abc import Collection
from uuid import UUID

import orjson

from chat_app import metrics
from chat_app.events import ActiveChatSet, ClientEvent, Event, Reach, Recorded, ResyncRequired, SessionsRevoked, resync
from chat_app.live.connections import Connection, Connections
from chat_app.live.engine.frames import Packet
from chat_app.logs import log_crash, log_info
from chat_app.models.wire_json import as_json

Reached = set[Connection]


def encode(event: ClientEvent) -> Packet:
    """The Socket.IO packet of an event."""
    return Packet(b'2["%b",%b]' % (event.event.encode(), as_json(event)))


def _packet(event: Recorded) -> Packet:
    return Packet(b'2["%b",%b]' % (event.kind.event.encode(), event.body))


def log_resync(connections: Collection[Connection], reason: str) -> None:
    """Count and log connections that are asked to resync."""
    metrics.resyncs.labels(reason).inc(len(connections))
    # Collectors cut long lines.
    users = list({connection.actor.id for connection in connections})[:300]
    log_info("resync required", reason=reason, connections=len(connections), users=users)


class Fanout:
    """Writes each event once to every connection that it reaches."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def deliver(self, events: list[Recorded]) -> int:
        """Deliver the events of a commit. Returns how many connections were reached."""
        reached: Reached = set()
        for event in events:
            try:
                self._send(event, reached)
            except Exception as error:
                # The change is committed, so its sender gets no error.
                log_crash(error)
                self._to_all(resync(event.audience), reached)
        metrics.delivered.inc(len(reached))
        return len(reached)

    def resync(self, events: list[Recorded]) -> None:
        """Deliver `resync_required` in place of these events."""
        self.deliver([resync({user_id for recorded in events for user_id in recorded.audience})])

    def _send(self, event: Recorded, reached: Reached) -> None:
        if event.open_chat_id:
            self._to_open(event, event.open_chat_id, reached)
        elif event.kind.reach is Reach.NODE:
            self._apply(event.event, reached)
        else:
            self._to_all(event, reached)

    def _to_all(self, event: Recorded, reached: Reached) -> None:
        packet, of_user = _packet(event), self.connections.of_user
        connections = [connection for user_id in event.audience for connection in of_user(user_id)]
        if event.header.chat_id and event.header.removed_version:
            for connection in connections:
                connection.lose_chat(event.header.chat_id, event.header.removed_version)
        if event.kind is ResyncRequired:
            log_resync(connections, orjson.loads(event.body)["reason"])
        for connection in connections:
            connection.send(packet)
        reached.update(connections)

    def _to_open(self, event: Recorded, chat_id: UUID, reached: Reached) -> None:
        packets: dict[int, Packet] = {}
        audience, first_seq = event.audience, event.header.first_seq
        connections = self.connections.with_open(chat_id)
        if event.peer_id:
            connections = connections | self.connections.of_user(event.peer_id)
        for connection in connections:
            visible_from_seq = audience.get(connection.key)
            if visible_from_seq is None:
                continue
            # All who see everything get the same packet.
            seen_from = visible_from_seq if 0 < first_seq < visible_from_seq else 0
            packet = packets.get(seen_from)
            if packet is None:
                packet = packets[seen_from] = _packet(event.seen_from(seen_from) if seen_from else event)
            connection.send(packet)
            reached.add(connection)

    def _apply(self, event: Event, reached: Reached) -> None:
        match event:
            case ActiveChatSet():
                for connection in self.connections.of_session(event.session_id):
                    if not connection.chose_chat:
                        connection.open_chat(event.chat_id, event.version)
            case SessionsRevoked():
                for session_id in event.session_ids:
                    for connection in list(self.connections.of_session(session_id)):
                        connection.end()
                        reached.add(connection)
