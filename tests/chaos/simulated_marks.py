"""What the users of a simulated service put on messages: likes, reactions and pins."""

from typing import Any

from tests.chaos.history import Json, Row


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class Marks:
    """A part of the service of `simulation.py`, whose chats these are."""

    def _row(self, user: str, chat: Any, args: Json) -> Row:
        raise NotImplementedError

    def _changed(self, chat: Any, seq: int, **fields: Any) -> Json:
        raise NotImplementedError

    def _message(self, chat: Any, row: Row) -> Json:
        raise NotImplementedError

    def _like_message(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        if row.deleted:
            raise Refused(409, "message_deleted")
        likes = chat.likes.setdefault(row.seq, set())
        if user in likes:
            return {"data": self._message(chat, row)}
        likes.add(user)
        return self._changed(chat, row.seq, like_count=len(likes))

    def _unlike_message(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        likes = chat.likes.setdefault(row.seq, set())
        if user not in likes:
            return {"data": self._message(chat, row)}
        likes.remove(user)
        return self._changed(chat, row.seq, like_count=len(likes))

    def _react(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        if row.deleted:
            raise Refused(409, "message_deleted")
        return self._set_reactions(chat, row, chat.reactions.get(row.seq, set()) | {f"{user} {args['emoji']}"})

    def _unreact(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        return self._set_reactions(chat, row, chat.reactions.get(row.seq, set()) - {f"{user} {args['emoji']}"})

    def _set_reactions(self, chat: Any, row: Row, reactions: set[str]) -> Json:
        if reactions == chat.reactions.get(row.seq, set()):
            return {"data": self._message(chat, row)}
        chat.reactions[row.seq] = reactions
        emojis = [reaction.partition(" ")[2] for reaction in reactions]
        kinds = sorted(set(emojis), key=lambda emoji: (-emojis.count(emoji), emoji))
        return self._changed(chat, row.seq, reactions=" ".join(f"{emoji} {emojis.count(emoji)}" for emoji in kinds))

    def _pin_message(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        if row.deleted:
            raise Refused(409, "message_deleted")
        return {"data": self._message(chat, row)} if row.pinned else self._changed(chat, row.seq, pinned=1)

    def _unpin_message(self, user: str, chat: Any, args: Json) -> Json:
        row = self._row(user, chat, args)
        return self._changed(chat, row.seq, pinned=0) if row.pinned else {"data": self._message(chat, row)}
