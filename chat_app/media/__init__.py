"""Image processing on bytes, and the file storage."""
