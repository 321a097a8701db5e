"""The use cases. They know neither FastAPI nor Socket.IO, and never commit."""
