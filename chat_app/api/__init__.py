"""HTTP: parse, call crud, return."""
