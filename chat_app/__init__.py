"""A chat backend: phone registration, private and group chats, live events over Socket.IO."""

__version__ = "0.1.0"
