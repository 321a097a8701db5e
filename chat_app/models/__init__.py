"""One family of classes per entity: Base, table, Create, Update, Read. Tables never cross the wire."""

from chat_app.models.attachments import Attachment
from chat_app.models.chats import Chat, Membership
from chat_app.models.codes import Code
from chat_app.models.messages import Like, Message
from chat_app.models.reactions import Reaction
from chat_app.models.sessions import Session
from chat_app.models.users import User

__all__ = ["Attachment", "Chat", "Code", "Like", "Membership", "Message", "Reaction", "Session", "User"]
