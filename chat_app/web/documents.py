"""The document of the Socket.IO contract, for the command line."""

from chat_app.web.asyncapi import asyncapi

__all__ = ["asyncapi"]
