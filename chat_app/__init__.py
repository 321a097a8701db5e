"""A chat backend: phone registration, private and group chats, live events over Socket.IO."""
