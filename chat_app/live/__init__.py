"""Socket.IO: commands come in, committed events go out."""
