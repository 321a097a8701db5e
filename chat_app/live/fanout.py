"""Delivers events to the connections of this process. No other module does."""

import orjson

from chat_app import metrics
from chat_app.events import ActiveChatSet, ClientEvent, Event, NodeEvent, Recorded, ResyncRequired, SessionsRevoked
from chat_app.live.connections import Connection, Connections
from chat_app.live.engine.frames import Packet
from chat_app.live.envelopes import Envelope, resync, seal
from chat_app.logs import log_crash
from chat_app.models.wire_json import as_json

Reached = set[Connection]


def encode(event: ClientEvent) -> Packet:
    """The Socket.IO packet of an event."""
    return _packet(type(event), as_json(event))


def _packet(kind: type[Event], body: bytes) -> Packet:
    return Packet(b'2["%b",%b]' % (kind.event.encode(), body))


class Fanout:
    """Writes each event once to every connection that it reaches."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def deliver(self, events: list[Recorded]) -> int:
        """Deliver the events of a commit. Returns how many connections were reached."""
        return self.send(seal(events))

    def resync(self, events: list[Recorded]) -> None:
        """Deliver `resync_required` in place of these events."""
        self.send([resync({user_id for recorded in events for user_id in recorded.audience})])

    def send(self, events: list[Envelope]) -> int:
        """As `deliver`, of events that are encoded."""
        reached: Reached = set()
        for event in events:
            try:
                self._send(event, reached)
            except Exception as error:
                log_crash(error)
                self._to_all(resync(event.audience), reached)
        metrics.delivered.inc(len(reached))
        return len(reached)

    def _send(self, event: Envelope, reached: Reached) -> None:
        if issubclass(event.kind, NodeEvent):
            self._apply(event.kind.model_validate_json(event.body), reached)
        elif event.open_chat_id:
            self._to_open(event, reached)
        else:
            self._to_all(event, reached)

    def _to_all(self, event: Envelope, reached: Reached) -> None:
        packet = _packet(event.kind, event.body)
        for user_id in event.audience:
            for connection in self.connections.of_user(user_id):
                if event.removed_version and event.chat_id:
                    connection.lose_chat(event.chat_id, event.removed_version)
                connection.send(packet)
                reached.add(connection)
                if event.kind is ResyncRequired:
                    metrics.resyncs.labels(orjson.loads(event.body)["reason"]).inc()

    def _to_open(self, event: Envelope, reached: Reached) -> None:
        assert event.open_chat_id
        packets: dict[int, Packet] = {}
        audience, first_seq = event.audience, event.first_seq
        for connection in self.connections.with_open(event.open_chat_id):
            visible_from_seq = audience.get(connection.key)
            if visible_from_seq is None:
                continue
            # All who see everything get the same packet.
            seen_from = visible_from_seq if 0 < first_seq < visible_from_seq else 0
            packet = packets.get(seen_from)
            if packet is None:
                body = event.seen_from(seen_from).body if seen_from else event.body
                packet = packets[seen_from] = _packet(event.kind, body)
            connection.send(packet)
            reached.add(connection)

    def _apply(self, event: NodeEvent, reached: Reached) -> None:
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
