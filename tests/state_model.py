"""A model of the rules of DESIGN §6 in dicts and lists: who may do what, and what each user then sees.

It does not use the service. Every operation returns the expected answer or raises Refused.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

Json = dict[str, Any]

LATER = "2100-01-01T00:00:00Z"
MOST_OWN = 3
PREVIEWED = ("seq", "type", "text", "system", "sender_id", "deleted")


class Refused(Exception):
    """The status and the code of a refusal."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


def counted(reactions: dict[str, list[str]]) -> list[tuple[str, int]]:
    """How often there is each emoji, the most frequent first."""
    counts = Counter(emoji for emojis in reactions.values() for emoji in emojis)
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


class Outcome(NamedTuple):
    """A success: its status, and the chat, message or list in its data."""

    status: int
    shown: Any = None


@dataclass
class Message:
    seq: int
    version: int
    type: str
    sender_id: str
    text: str | None = None
    system: Json | None = None
    extra: Json | None = None
    client_id: str | None = None
    reply_to: int | None = None
    likes: set[str] = field(default_factory=set)
    # By user, in the order of reacting.
    reactions: dict[str, list[str]] = field(default_factory=dict)
    author_id: str | None = None
    pinned_at: int = 0
    edited: bool = False
    deleted: bool = False
    sent_at: int = 0


@dataclass
class Member:
    visible_from: int
    last_read: int
    joined_version: int
    title: str | None = None
    pinned_at: int = 0
    muted_until: str | None = None
    archived: bool = False
    marked: bool = False
    draft: Json | None = None
    hidden: bool = False


@dataclass
class Chat:
    """`id` is known once the service has answered."""

    type: str
    members: dict[str, Member]
    updated_at: int
    creator_id: str | None = None
    title: str | None = None
    description: str | None = None
    id: str = ""
    version: int = 1
    messages: list[Message] = field(default_factory=list)
    is_deleted: bool = False

    @property
    def message_count(self) -> int:
        return len(self.messages)

    @property
    def last_user_seq(self) -> int:
        return max((message.seq for message in self.messages if message.type != "system"), default=0)


class Model:
    """All chats of some users, who are known by id and name."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.chats: list[Chat] = []
        self.founded: dict[tuple[str, str], tuple[Chat, Any]] = {}
        self.sent: dict[tuple[int, str, str], tuple[Message, Any]] = {}
        self.active: dict[str, Chat] = {}
        self.clock = count(1)

    # What users see.

    def chats_of(self, user: str) -> list[Chat]:
        """The user's chats in the order of the list, but for those out of sight."""
        mine = [chat for chat in self.chats if user in chat.members and not self.is_out_of_sight(user, chat)]
        return sorted(mine, key=lambda chat: (-chat.members[user].pinned_at, -chat.updated_at))

    def is_out_of_sight(self, user: str, chat: Chat) -> bool:
        return chat.members[user].hidden and chat.message_count < chat.members[user].visible_from

    def hidden_of(self, user: str) -> list[Chat]:
        return [chat for chat in self.chats if user in chat.members and self.is_out_of_sight(user, chat)]

    def unread(self, user: str) -> Json:
        counts = []
        for chat in self.chats_of(user):
            mine, count = chat.members[user], self.chat(user, chat)["mine"]["unread_count"]
            if (count or mine.marked) and not mine.archived and not mine.muted_until:
                counts.append(count)
        return {"chats": len(counts), "messages": sum(counts)}

    def messages_of(self, user: str, chat: Chat) -> list[Message]:
        return chat.messages[chat.members[user].visible_from - 1 :]

    def chat(self, user: str, chat: Chat) -> Json:
        mine, newest = chat.members[user], chat.messages[-1] if chat.messages else None
        others = [member for other, member in chat.members.items() if other != user]
        is_seen = newest and newest.seq >= mine.visible_from
        last_message = self.message(user, chat, newest) if newest and is_seen else None
        return {
            "id": chat.id,
            "type": chat.type,
            "title": chat.title,
            "avatar": None,
            "creator_id": chat.creator_id,
            "member_count": len(chat.members),
            "message_count": chat.message_count,
            "last_user_seq": chat.last_user_seq,
            "version": chat.version,
            "last_message": last_message and {name: last_message[name] for name in PREVIEWED},
            "mine": {
                "title": mine.title,
                "peer": next(other for other in chat.members if other != user) if chat.type == "private" else None,
                "pinned": bool(mine.pinned_at),
                "last_read_seq": mine.last_read,
                "others_read_seq": max((other.last_read for other in others), default=0),
                "visible_from_seq": mine.visible_from,
                "unread_count": chat.message_count - mine.last_read if chat.last_user_seq > mine.last_read else 0,
                "muted_until": mine.muted_until,
                "archived": mine.archived,
                "marked_unread": mine.marked,
                "draft": mine.draft,
                "hidden": mine.hidden,
            },
        }

    def message(self, user: str, chat: Chat, message: Message) -> Json:
        return {
            "chat_id": chat.id,
            "seq": message.seq,
            "version": message.version,
            "client_id": message.client_id,
            "type": message.type,
            "text": message.text,
            "location": None,
            "contact": None,
            "system": message.system,
            "attachment": None,
            "extra": message.extra,
            "reply_to": message.reply_to,
            "sender_id": message.sender_id,
            "like_count": len(message.likes),
            "liked": user in message.likes,
            "reactions": [{"emoji": emoji, "count": count} for emoji, count in counted(message.reactions)],
            "reacted": message.reactions.get(user, []),
            "forwarded": message.author_id and {"author_id": message.author_id},
            "pinned": bool(message.pinned_at),
            "edited": message.edited,
            "deleted": message.deleted,
        }

    def group(self, chat: Chat) -> Json:
        about = {"chat_id": chat.id, "version": chat.version, "title": chat.title}
        return about | {"avatar": None, "description": chat.description}

    def members(self, chat: Chat) -> Json:
        return {
            user: {"is_creator": user == chat.creator_id, "last_read_seq": member.last_read, "removed_at": None}
            for user, member in chat.members.items()
        }

    # Permissions.

    def _mine(self, user: str, chat: Chat) -> Member:
        if user not in chat.members:
            raise Refused(404, "chat_not_found")
        return chat.members[user]

    def _seen(self, user: str, chat: Chat, seq: int) -> Message:
        if not self._mine(user, chat).visible_from <= seq <= chat.message_count:
            raise Refused(404, "message_not_found")
        return chat.messages[seq - 1]

    def _group(self, user: str, chat: Chat) -> None:
        self._mine(user, chat)
        if chat.type != "group":
            raise Refused(409, "not_a_group")

    def _as_creator(self, user: str, chat: Chat) -> None:
        self._group(user, chat)
        if chat.creator_id != user:
            raise Refused(403, "not_creator")

    # Operations.

    def open_private_chat(self, user: str, user_id: str) -> Outcome:
        if user == user_id:
            raise Refused(422, "invalid_input")
        for chat in self.chats:
            if chat.type == "private" and chat.members.keys() == {user, user_id}:
                return Outcome(200, chat)
        members = {who: Member(1, 0, 0) for who in (user, user_id)}
        self.chats.append(Chat("private", members, next(self.clock)))
        return Outcome(201, self.chats[-1])

    def create_group(self, user: str, title: str, member_ids: list[str], client_id: str | None) -> Outcome:
        others = [member for member in member_ids if member != user]
        if not others:
            raise Refused(422, "invalid_input")
        content = (title, sorted(member_ids))
        if client_id and (user, client_id) in self.founded:
            chat, founded = self.founded[user, client_id]
            if founded != content:
                raise Refused(409, "client_id_reused")
            self._mine(user, chat)
            return Outcome(200, chat)
        members = {who: Member(1, 0, 0) for who in (user, *others)}
        chat = Chat("group", members, 0, creator_id=user, title=title, version=0)
        self._add_system(chat, user, "group_created", others, title)
        self.chats.append(chat)
        if client_id:
            self.founded[user, client_id] = chat, content
        return Outcome(201, chat)

    def send_message(
        self,
        user: str,
        chat: Chat,
        type: str,
        text: str,
        client_id: str,
        reply_to: int | None,
        extra: Json | None = None,
    ) -> Outcome:
        self._mine(user, chat)
        key, content = (id(chat), user, client_id), (type, text, reply_to, extra)
        if key in self.sent:
            message, sent = self.sent[key]
            if sent != content:
                raise Refused(409, "client_id_reused")
            return Outcome(200, message)
        if reply_to is not None:
            self._seen(user, chat, reply_to)
        message = self._add(chat, user, type=type, text=text, client_id=client_id, reply_to=reply_to, extra=extra)
        self.sent[key] = message, content
        return Outcome(201, message)

    def edit_message(self, user: str, chat: Chat, seq: int, **sent: Any) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.type == "system" or message.sender_id != user or message.author_id:
            raise Refused(403, "not_author")
        if message.deleted:
            raise Refused(409, "message_deleted")
        needed = "text" if message.type == "text" else "extra"
        if sent.get(needed, "") is None:
            raise Refused(422, "invalid_input")
        if any(getattr(message, name) != value for name, value in sent.items()):
            message.edited = message.edited or sent.get("text", message.text) != message.text
            message.text, message.extra = sent.get("text", message.text), sent.get("extra", message.extra)
            self._change(chat, message)
        return Outcome(200, message)

    def delete_message(self, user: str, chat: Chat, seq: int) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.type == "system" or user not in (message.sender_id, chat.creator_id):
            raise Refused(403, "not_author")
        if not message.deleted:
            message.deleted, message.edited, message.likes = True, False, set()
            message.text = message.extra = message.reply_to = message.author_id = None
            message.reactions, message.pinned_at = {}, 0
            self._change(chat, message)
        return Outcome(204)

    def like_message(self, user: str, chat: Chat, seq: int) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.deleted:
            raise Refused(409, "message_deleted")
        if user not in message.likes:
            message.likes.add(user)
            self._change(chat, message)
        return Outcome(200, message)

    def unlike_message(self, user: str, chat: Chat, seq: int) -> Outcome:
        message = self._seen(user, chat, seq)
        if user in message.likes:
            message.likes.remove(user)
            self._change(chat, message)
        return Outcome(200, message)

    def search_messages(self, user: str, chat: Chat | None = None, *, query: str, limit: int) -> Outcome:
        """The texts that begin with the query, in one chat or in all, the newest first."""
        found = [
            (message.sent_at, searched.id, message.seq)
            for searched in self.chats_of(user)
            if chat in (None, searched)
            for message in self.messages_of(user, searched)
            if message.type == "text" and (message.text or "").startswith(query)
        ]
        return Outcome(200, tuple(place[1:] for place in sorted(found, reverse=True)[:limit]))

    def forward_message(
        self,
        user: str,
        chat: Chat,
        source: Chat,
        from_seq: int,
        client_id: str,
        reply_to: int | None,
        extra: Json | None = None,
    ) -> Outcome:
        self._mine(user, chat)
        key, content = (id(chat), user, client_id), (id(source), from_seq, reply_to, extra)
        if key in self.sent:
            message, sent = self.sent[key]
            if sent != content:
                raise Refused(409, "client_id_reused")
            return Outcome(200, message)
        if reply_to is not None:
            self._seen(user, chat, reply_to)
        try:
            original = self._seen(user, source, from_seq)
        except Refused:
            raise Refused(404, "message_not_found") from None
        if original.type == "system":
            raise Refused(422, "invalid_input")
        if original.deleted:
            raise Refused(409, "message_deleted")
        if original.type == "custom" and extra is None:
            raise Refused(422, "invalid_input")
        author_id = original.author_id or original.sender_id
        fields = {"type": original.type, "text": original.text, "author_id": author_id, "extra": extra}
        message = self._add(chat, user, client_id=client_id, reply_to=reply_to, **fields)
        self.sent[key] = message, content
        return Outcome(201, message)

    def react(self, user: str, chat: Chat, seq: int, emoji: str) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.deleted:
            raise Refused(409, "message_deleted")
        own = message.reactions.get(user, [])
        if emoji not in own:
            if len(own) == MOST_OWN:
                raise Refused(409, "too_many_reactions")
            message.reactions[user] = [*own, emoji]
            self._change(chat, message)
        return Outcome(200, message)

    def unreact(self, user: str, chat: Chat, seq: int, emoji: str) -> Outcome:
        message = self._seen(user, chat, seq)
        own = message.reactions.get(user, [])
        if emoji in own:
            message.reactions[user] = [kept for kept in own if kept != emoji]
            self._change(chat, message)
        return Outcome(200, message)

    def pin_message(self, user: str, chat: Chat, seq: int) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.type == "system":
            raise Refused(422, "invalid_input")
        if message.deleted:
            raise Refused(409, "message_deleted")
        if not message.pinned_at:
            message.pinned_at = next(self.clock)
            self._change(chat, message)
        return Outcome(200, message)

    def unpin_message(self, user: str, chat: Chat, seq: int) -> Outcome:
        message = self._seen(user, chat, seq)
        if message.pinned_at:
            message.pinned_at = 0
            self._change(chat, message)
        return Outcome(200, message)

    def pinned_of(self, user: str, chat: Chat) -> list[int]:
        """The seqs of the pinned messages that the user sees, in their order."""
        pinned = [message for message in self.messages_of(user, chat) if message.pinned_at]
        return [message.seq for message in sorted(pinned, key=lambda message: -message.pinned_at)]

    def rename_chat(self, user: str, chat: Chat, title: str | None) -> Outcome:
        self._mine(user, chat).title = title
        return Outcome(200, chat)

    def pin_chat(self, user: str, chat: Chat) -> Outcome:
        mine = self._mine(user, chat)
        mine.pinned_at, mine.hidden = mine.pinned_at or next(self.clock), False
        return Outcome(200, chat)

    def unpin_chat(self, user: str, chat: Chat) -> Outcome:
        self._mine(user, chat).pinned_at = 0
        return Outcome(200, chat)

    def mark_read(self, user: str, chat: Chat, seq: int) -> Outcome:
        mine = self._mine(user, chat)
        mine.last_read, mine.marked = max(mine.last_read, min(seq, chat.message_count)), False
        return Outcome(200, chat)

    def update_mine(self, user: str, chat: Chat, **sent: Any) -> Outcome:
        mine = self._mine(user, chat)
        draft = sent.get("draft")
        if draft and draft["reply_to"] is not None:
            self._seen(user, chat, draft["reply_to"])
        if "muted_until" in sent:
            mine.muted_until = sent["muted_until"] if sent["muted_until"] == LATER else None
        mine.title = sent.get("title", mine.title)
        mine.archived = bool(sent.get("archived", mine.archived))
        mine.marked = bool(sent.get("marked_unread", mine.marked))
        mine.draft = sent.get("draft", mine.draft)
        if draft or sent.get("marked_unread"):
            mine.hidden = False
        return Outcome(200, chat)

    def clear_chat(self, user: str, chat: Chat, hide: bool) -> Outcome:
        mine = self._mine(user, chat)
        mine.visible_from, mine.last_read = chat.message_count + 1, chat.message_count
        mine.marked, mine.hidden = False, hide
        mine.draft = mine.draft and mine.draft | {"reply_to": None}
        return Outcome(200, chat)

    def activate_chat(self, user: str, chat: Chat) -> Outcome:
        self._mine(user, chat)
        self.active[user] = chat
        return Outcome(200)

    def list_changes(self, user: str, chat: Chat, since: int) -> Outcome:
        """The seqs of changed messages in the order of versions. None: the window has to be dropped."""
        mine = self._mine(user, chat)
        if not mine.joined_version <= since <= chat.version:
            return Outcome(200, None)
        changed = [message for message in self.messages_of(user, chat) if message.version > since]
        return Outcome(200, [message.seq for message in sorted(changed, key=lambda message: message.version)])

    def add_members(
        self, user: str, chat: Chat, user_ids: list[str], share_history: bool, title: str | None
    ) -> Outcome:
        mine = self._mine(user, chat)
        joining = [who for who in user_ids if who not in chat.members]
        if joining:
            was_private = chat.type == "private"
            if was_private:
                names = sorted(self.names[who] for who in (*chat.members, *joining))
                chat.type, chat.creator_id, chat.title = "group", user, title or ", ".join(names)
                for member in chat.members.values():
                    member.title = None
            event = "became_group" if was_private else "members_added"
            message = self._add_system(chat, user, event, joining, chat.title if was_private else None)
            visible_from = mine.visible_from if share_history else message.seq
            chat.members |= {who: Member(visible_from, message.seq, chat.version) for who in joining}
        return Outcome(200, chat)

    def remove_member(self, user: str, chat: Chat, user_id: str) -> Outcome:
        self._as_creator(user, chat)
        if user_id == user:
            raise Refused(409, "creator_cannot_leave")
        if user_id not in chat.members:
            raise Refused(404, "member_not_found")
        self._end(chat, user_id)
        self._add_system(chat, user, "member_removed", [user_id])
        return Outcome(204)

    def get_group(self, user: str, chat: Chat) -> Outcome:
        self._group(user, chat)
        return Outcome(200, self.group(chat))

    def update_group(self, user: str, chat: Chat, **fields: str | None) -> Outcome:
        self._as_creator(user, chat)
        if changed := [
            name for name in ("title", "description") if fields.get(name, ...) not in (..., vars(chat)[name])
        ]:
            vars(chat).update({name: fields[name] for name in changed})
            self._add_system(chat, user, "group_changed", [], chat.title if "title" in changed else None, changed)
        return Outcome(200, self.group(chat))

    def delete_group_avatar(self, user: str, chat: Chat) -> Outcome:
        self._as_creator(user, chat)
        return Outcome(204)

    def set_creator(self, user: str, chat: Chat, user_id: str) -> Outcome:
        self._as_creator(user, chat)
        if user_id not in chat.members:
            raise Refused(404, "member_not_found")
        if user_id != user:
            chat.creator_id = user_id
            self._add_system(chat, user, "creator_changed", [user_id])
        return Outcome(200, chat)

    def leave_chat(self, user: str, chat: Chat) -> Outcome:
        self._group(user, chat)
        if chat.creator_id == user:
            raise Refused(409, "creator_cannot_leave")
        self._end(chat, user)
        self._add_system(chat, user, "member_left", [])
        return Outcome(204)

    def delete_chat(self, user: str, chat: Chat) -> Outcome:
        self._as_creator(user, chat)
        for who in list(chat.members):
            self._end(chat, who)
        return Outcome(204)

    def _end(self, chat: Chat, user: str) -> None:
        del chat.members[user]
        if self.active.get(user) is chat:
            del self.active[user]

    def _change(self, chat: Chat, message: Message) -> None:
        chat.version += 1
        message.version = chat.version

    def _add_system(
        self,
        chat: Chat,
        user: str,
        event: str,
        user_ids: list[str],
        title: str | None = None,
        fields: list[str] | None = None,
    ) -> Message:
        system = {"event": event, "user_ids": user_ids, "title": title, "fields": fields}
        return self._add(chat, user, type="system", system=system)

    def _add(self, chat: Chat, user: str, **content: Any) -> Message:
        """Add a message. Its sender's read position moves to it."""
        chat.version += 1
        chat.updated_at = next(self.clock)
        message = Message(chat.message_count + 1, chat.version, sender_id=user, sent_at=chat.updated_at, **content)
        chat.messages.append(message)
        if user in chat.members:
            mine = chat.members[user]
            mine.last_read, mine.marked = message.seq, False
            mine.draft = mine.draft if message.type == "system" else None
        return message
