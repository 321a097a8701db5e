"""The WebSocket engine: python-socketio with a fast path of our own. You need not read this to work on chats.

`server` is the Socket.IO server. It passes logins and commands to an `Application`, which is `live.server.Live`.
`sockets` is the Engine.IO server below it: one `Socket` for each transport of a client.
`protocol` is uvicorn's WebSocket protocol: it reads frames, and bounds with `frames` what a client may send.
`fast_socket` is the fast path between the protocol and the server. Where another protocol serves a WebSocket, or a
client polls, the libraries' own code is the fallback, with the same outcome.
"""
