"""What an operator runs: the commands, and all that starts, checks and maintains the service."""
