"""The published documents and their pages."""
