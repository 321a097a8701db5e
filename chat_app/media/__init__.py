"""Pictures (bytes in, bytes out) and the store that keeps files."""
