"""What was committed goes out: encoded once, written to each connection that is meant. The only emitter."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from chat_app import metrics
from chat_app.events import (
    ActiveChatSet,
    Audience,
    ChatsChanged,
    MemberChanged,
    MessagesChanged,
    ReadChanged,
    Recorded,
    ResyncRequired,
    SessionsRevoked,
    TypingChanged,
    UsersChanged,
    WireEvent,
)
from chat_app.live.connections import Connection, Connections, Packet
from chat_app.logs import log_crash
from chat_app.models.wire_json import as_json

Reached = set[Connection]


def encode(event: WireEvent) -> Packet:
    """The Socket.IO packet of an event."""
    return Packet(b'2["%b",%b]' % (event.event.encode(), as_json(event)))


def resync_instead(events: list[Recorded]) -> tuple[ResyncRequired, Audience]:
    """What to tell instead of events that may have happened."""
    audience = {user_id: 0 for _, audience in events for user_id in audience}
    return ResyncRequired(reason="undelivered"), audience


class Fanout:
    """Writes events to the connections of this process."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self._ways: dict[type, Callable[[Any, Audience, Reached], None]] = {
            ChatsChanged: self._chats_changed,
            MessagesChanged: self._messages_changed,
            ReadChanged: self._to_open,
            TypingChanged: self._to_open,
            UsersChanged: self._to_all,
            MemberChanged: self._member_changed,
            ResyncRequired: self._to_all,
            ActiveChatSet: self._active_chat_set,
            SessionsRevoked: self._sessions_revoked,
        }

    def deliver(self, events: list[Recorded]) -> int:
        """Send what one commit released. Returns how many connections were reached."""
        reached: Reached = set()
        for recorded in events:
            try:
                self._ways[type(recorded.event)](recorded.event, recorded.audience, reached)
            except Exception as error:
                # The change is committed, so its sender must not hear of a failure; who may have missed it does.
                log_crash(error)
                self.resync([recorded])
        metrics.delivered.inc(len(reached))
        return len(reached)

    def resync(self, events: list[Recorded]) -> None:
        """Deliver `resync_required` in place of these events."""
        self._to_all(*resync_instead(events), set())

    def _chats_changed(self, event: ChatsChanged, audience: Audience, reached: Reached) -> None:
        packet = encode(event)
        for user_id in audience:
            for connection in self.connections.of_user(user_id):
                for removed in event.removed:
                    connection.lose_chat(removed.chat_id, removed.version)
                connection.send(packet)
                reached.add(connection)

    def _messages_changed(self, event: MessagesChanged, audience: Audience, reached: Reached) -> None:
        packets: dict[int, Packet] = {}
        first = min([message.seq for message in event.messages], default=0)
        for connection in self.connections.with_open(event.chat_id):
            visible_from_seq = audience.get(connection.key)
            if visible_from_seq is None:
                continue
            # All who see everything get the same packet.
            seen_from = visible_from_seq if visible_from_seq > first else 0
            packet = packets.get(seen_from)
            if packet is None:
                packet = packets[seen_from] = encode(event.seen_from(seen_from))
            connection.send(packet)
            reached.add(connection)

    def _to_open(self, event: ReadChanged | TypingChanged, audience: Audience, reached: Reached) -> None:
        self._send_open(event.chat_id, encode(event), audience, reached)

    def _send_open(self, chat_id: UUID, packet: Packet, audience: Audience, reached: Reached) -> None:
        for connection in self.connections.with_open(chat_id):
            if connection.key in audience:
                connection.send(packet)
                reached.add(connection)

    def _to_all(self, event: UsersChanged | ResyncRequired, audience: Audience, reached: Reached) -> None:
        packet = encode(event)
        for user_id in audience:
            for connection in self.connections.of_user(user_id):
                connection.send(packet)
                reached.add(connection)
                if isinstance(event, ResyncRequired):
                    metrics.resyncs.labels(event.reason).inc()

    def _member_changed(self, event: MemberChanged, audience: Audience, reached: Reached) -> None:
        self._send_open(event.chat_id, encode(UsersChanged(users=event.users)), audience, reached)

    def _active_chat_set(self, event: ActiveChatSet, audience: Audience, reached: Reached) -> None:
        for connection in self.connections.of_session(event.session_id):
            if not connection.chose_chat:
                connection.open_chat(event.chat_id, event.version)

    def _sessions_revoked(self, event: SessionsRevoked, audience: Audience, reached: Reached) -> None:
        for session_id in event.session_ids:
            for connection in list(self.connections.of_session(session_id)):
                connection.end()
                reached.add(connection)
